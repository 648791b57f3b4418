"""The commands of the benchmark; each writes build/bench/NAME.json and prints its table.

    python -m bench speed      contestants in turn on the 72-million-parameter model (make bench)
    python -m bench 2b         Gemma 2B's true shape (make bench-2b)
    python -m bench switches   every switch of TRL's that its documents recommend, once each
    python -m bench profile    one of our steps by op (make profile)
    python -m bench page       docs/benchmarks.json and docs/benchmarks.md from what is there

`--quick` takes a tiny model and the example rows: it shows that the harness works, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import machine, page, turns
from bench.job import Job
from bench.rows import ROOT, Wanted, make_tokenizer, prepare, read_sources
from bench.shapes import GEMMA_2B, GEMMA_72M, TINY, Shape, write_model
from bench.trl_options import LEAN, SWITCHES, best_on

PIECES = 32_768


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "page":
        return page.write(options.out, ROOT / "docs")
    device = _device()
    job, facts = _setting(options, device)
    command = {"speed": _speed, "2b": _speed, "switches": _switches, "profile": _profile}
    result = {
        "quick": options.quick,
        "about": machine.about(),
        "setting": {
            "model": job.shape,
            "precision": job.precision,
            "device": device,
            "steps": job.steps,
            "warmup": job.warmup,
            "batch": job.batch,
            "accumulation": job.accumulation,
            "rows": facts,
        },
        **command[options.command](options, job),
    }
    name = f"{options.command}-{device}" if options.command == "2b" else options.command
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))
    print("\n" + page.PARTS[name](result) if name in page.PARTS else "")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("speed", "2b", "switches", "profile", "page"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="of each contestant, warm-up included")
    parser.add_argument("--warmup", type=int, help="first steps that do not count for the speed")
    parser.add_argument("--rows", type=int, help="rows of data")
    parser.add_argument("--batch", type=int, help="sequences of a micro-batch")
    parser.add_argument("--accumulation", type=int, help="micro-batches of an optimiser step")
    parser.add_argument("--longest", type=int, help="longest row in tokens")
    parser.add_argument("--dropout", type=float, default=0.05, help="for profile")
    parser.add_argument("--only", help="contestants, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    return parser


DEFAULTS = {
    "speed": {"rounds": 3, "steps": 10, "warmup": 3, "rows": 160, "batch": 4, "accumulation": 4},
    "2b": {"rounds": 1, "steps": 3, "warmup": 1, "rows": 16, "batch": 4, "accumulation": 1},
    "switches": {"rounds": 1, "steps": 5, "warmup": 2, "rows": 160, "batch": 4, "accumulation": 4},
    "profile": {"rounds": 1, "steps": 5, "warmup": 3, "rows": 160, "batch": 4, "accumulation": 4},
    "cuda": {"rounds": 3, "steps": 30, "warmup": 10, "rows": 480, "batch": 4, "accumulation": 4},
    "quick": {"rounds": 1, "steps": 3, "warmup": 1, "rows": 48, "batch": 4, "accumulation": 4},
}
LONGEST = {"speed": 1024, "2b": 192, "switches": 1024, "profile": 1024, "cuda": 1024, "quick": 256}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _setting(options: argparse.Namespace, device: str) -> tuple[Job, dict[str, Any]]:
    """The job that all contestants share, its model and rows on disk, and the rows' facts."""
    kind = "quick" if options.quick else options.command
    if kind == "2b" and device == "cuda":
        kind = "cuda"
    for name, value in {**DEFAULTS[kind], "longest": LONGEST[kind]}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    shape: Shape = TINY if options.quick else GEMMA_2B if options.command == "2b" else GEMMA_72M
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.quick and not options.data.is_dir():
        sys.exit(f"{options.data} is not there: name the folder of the rows with --data")
    sources = read_sources(None if options.quick else options.data)
    pieces = min(PIECES, shape.vocabulary)
    tokenizer = make_tokenizer(sources, pieces, options.out)
    model = write_model(shape, options.out / f"{shape.name}-{tokenizer.name}", tokenizer)
    rows = options.out / f"rows-{options.rows}-{options.longest}-{tokenizer.name}"
    facts = prepare(sources, model, Wanted(options.rows, options.longest, seed=0), rows)
    job = Job(
        contestant="ours",
        shape=shape.name,
        model=str(model.resolve()),
        rows=str(rows.resolve()),
        work=str((options.out / "work").resolve()),
        steps=options.steps,
        warmup=options.warmup,
        batch=options.batch,
        accumulation=options.accumulation,
        dropout=options.dropout,
        device=device,
        # on most CPUs 16-bit products are slow, so both contestants take fp32 there
        precision="bf16" if shape.dtype == "bfloat16" and device == "cuda" else "fp32",
        longest=options.longest,
        seconds=0.05 if options.quick else 0.5,
    )
    return job, facts


def _contestants(options: argparse.Namespace, job: Job) -> dict[str, Job]:
    trl = replace(job, contestant="trl")
    jobs = {
        "matmul": replace(job, contestant="matmul"),
        "ours": replace(job, dropout=0.05),
        "ours-no-dropout": replace(job, dropout=0.0),
        "stock": replace(job, contestant="stock"),
        "trl": trl,
        "trl-packed": replace(trl, options=_best(job)),
        "trl-lean": replace(trl, options=LEAN),
    }
    if options.command == "2b":
        wanted = ["matmul", "ours", "stock"]
        if job.device == "cuda":
            wanted.append("trl-packed")
        jobs = {name: jobs[name] for name in wanted}
    if options.only:
        only = {"matmul", "ours", *options.only.split(",")}
        jobs = {name: own for name, own in jobs.items() if name in only}
    if any(own.contestant == "trl" for own in jobs.values()) and not _has_trl():
        if not options.quick:
            sys.exit("trl is not installed: pip install -c constraints.txt -e '.[bench]'")
        jobs = {name: own for name, own in jobs.items() if own.contestant != "trl"}
        print("left out: TRL, which is not installed")
    return jobs


def _best(job: Job) -> dict[str, Any]:
    facts = json.loads((Path(job.rows) / "facts.json").read_text())
    return best_on(job.device, facts["longest"])


def _has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


def _speed(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    jobs = _contestants(options, job)
    rounds = turns.run_rounds(jobs, options.rounds, options.out / options.command)
    against = [name for name in jobs if name not in ("matmul", "ours", "ours-no-dropout")]
    flops = turns.flops_a_token(job.shape, Path(job.rows))
    return {
        "trl": {"trl-packed": _best(job), "trl-lean": LEAN, "trl": {}},
        "summary": turns.summary(rounds, flops, against),
        "rounds": rounds,
    }


def _switches(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    if not _has_trl():
        sys.exit("trl is not installed: pip install -c constraints.txt -e '.[bench]'")
    names = options.only.split(";") if options.only else list(SWITCHES)
    variants = {name: SWITCHES[name] for name in names}
    job = replace(job, contestant="trl")
    return {"best": _best(job), "switches": turns.try_all(variants, job, options.out / "switches")}


def _profile(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    job = replace(job, contestant="profile")
    return {"profile": turns.run_one(job, options.out / "profile", f"dropout-{job.dropout:g}")}


if __name__ == "__main__":
    raise SystemExit(main())
