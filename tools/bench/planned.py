"""Predicted against measured peak memory of training: `make bench-memory`.

Each case is a random model on disk and rows of a stated length, trained by `gemma_lora.train` for two
steps with validations, checkpoints and the adapter written, in a fresh process. Measured is the kernel's
high-water mark of resident memory (VmHWM) minus the resident memory after the imports; the median of
three processes counts. Predicted is what training said before it loaded anything. Writes
build/bench/memory.json, of which `python -m bench page` makes a part of docs/benchmarks.md. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "src" / "gemma_lora" / "starter"
KINDS = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
}
BAND = 0.15


@dataclass(frozen=True)
class Case:
    """A model and how it is trained. Every row has `row` tokens, nearly."""

    name: str
    family: str
    hidden: int
    layers: int
    mlp: int
    heads: int
    kv: int
    head: int
    vocabulary: int
    tokens: int
    """Micro-batch."""
    row: int
    rank: int = 16
    checkpointing: bool = False
    precision: str = "fp32"
    stored: str = "float32"
    dropout: float = 0.05
    shared: bool = True
    """One dropout mask for projections that read the same input."""
    targets: str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    micro_batches: int = 1
    """Of a step."""
    uneven: tuple[int, ...] = ()
    """Tokens of each row in the order of training, one a step, in place of two steps of equal rows."""


CASES = (
    Case("72m", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 1024, 128),
    Case("72m-plain", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 1024, 128, dropout=0.0, micro_batches=2),
    Case("72m-4096", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 4096, 1024),
    Case("72m-uneven", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 1024, 1000, uneven=(64, 64, 64, 500, 700, 1000)),
    Case("72m-r64", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 512, 64, rank=64),
    Case("72m-masks", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 1024, 128, shared=False),
    Case("72m-qv", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 1024, 128, targets="q_proj,v_proj"),
    Case("72m-recomputed", "gemma", 512, 8, 4096, 8, 1, 64, 32_768, 4096, 512, checkpointing=True),
    Case("wide-vocabulary", "gemma", 256, 4, 1024, 4, 1, 64, 65_536, 256, 64),
    Case("narrow-vocabulary", "gemma", 512, 16, 2048, 8, 8, 64, 4_096, 2048, 256),
    Case("small-gemma2", "gemma2", 256, 6, 1024, 4, 2, 64, 32_768, 256, 128, precision="bf16", stored="bfloat16"),
    Case("small-gemma3", "gemma3_text", 256, 8, 1024, 4, 1, 64, 32_768, 512, 128),
    Case("gemma2-long", "gemma2", 512, 8, 2048, 8, 4, 64, 32_768, 1024, 1024),
    Case("gemma2-short", "gemma2", 512, 8, 2048, 8, 4, 64, 32_768, 1024, 64),
    Case("gemma2-recomputed", "gemma2", 768, 12, 3072, 8, 4, 96, 16_384, 2048, 1024, checkpointing=True),
    Case("gemma3", "gemma3_text", 640, 12, 2048, 4, 1, 128, 65_536, 1024, 256),
    Case("gemma3-long", "gemma3_text", 640, 12, 2048, 4, 1, 128, 32_768, 2048, 2048),
    Case("gemma3-bf16", "gemma3_text", 640, 12, 2048, 4, 1, 128, 65_536, 1024, 256, precision="bf16", stored="bfloat16"),
    Case("gemma3-270m", "gemma3_text", 640, 18, 2048, 4, 1, 256, 262_144, 1024, 256),
    Case("300m", "gemma", 1024, 16, 4096, 8, 4, 128, 32_768, 1024, 256),
    Case("300m-recomputed", "gemma", 1024, 16, 4096, 8, 4, 128, 32_768, 2048, 256, checkpointing=True),
    Case("300m-bf16", "gemma", 1024, 16, 4096, 8, 4, 128, 32_768, 1024, 256, precision="bf16", stored="bfloat16"),
    Case("300m-widened", "gemma", 1024, 16, 4096, 8, 4, 128, 32_768, 256, 128, stored="bfloat16"),
    Case("500m", "gemma", 1024, 16, 8192, 8, 4, 128, 65_536, 256, 128),
)  # fmt: skip


def write_model(case: Case, folder: Path) -> Path:
    """Random weights with the shipped model's tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, KINDS[case.family][1])(model_config(case))
    made.to(getattr(torch, case.stored)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(STARTER / name, folder / name)
    return folder


def model_config(case: Case) -> Any:
    """The transformers config of the case's model."""
    import transformers

    more: dict[str, Any] = {}
    if case.family != "gemma":
        more = {"sliding_window": 512, "query_pre_attn_scalar": case.head}
    return getattr(transformers, KINDS[case.family][0])(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.mlp,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv,
        head_dim=case.head,
        max_position_embeddings=8192,
        dtype=case.stored,
        **more,
        **{key: _starter()[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")},
    )


def train_once(case: Case, model: Path, work: Path, device: str) -> dict[str, Any]:
    """In a process of its own: two steps, and what they took above the imports. Bytes."""
    import torch
    import transformers

    from gemma_lora.console import Console
    from gemma_lora.rundir import RunDir, write_jsonl
    from gemma_lora.train import train

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    getattr(transformers, KINDS[case.family][1])  # transformers imports it here
    run = RunDir(work)
    write_jsonl(run.train_rows, training_rows(case, model))
    write_jsonl(run.validation_rows, _rows(model, case.row, max(1, case.tokens // case.row)))
    config = training_config(case, model, device)
    before = torch.cuda.memory_allocated() if device == "cuda" else _status("VmRSS")
    result = train(config, run, Console(quiet=True))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")
    return {"measured": peak - before, "predicted": result["decisions"]["predicted_bytes"]}


def training_rows(case: Case, model: Path) -> list[Any]:
    """Two steps of equal rows, or the uneven ones."""
    if case.uneven:
        return _uneven(model, case.uneven)
    rows = _rows_of_a_step(case)
    # the three short ones are for the check before the first step
    few = _rows(model, max(24, case.row // 8), 3, first=2 * rows)
    return [*_rows(model, case.row, 2 * rows), *few]


def _rows_of_a_step(case: Case) -> int:
    return max(1, case.tokens // case.row) * case.micro_batches


def training_config(case: Case, model: Path, device: str) -> Any:
    from gemma_lora.config import Config

    return Config.model_validate(
        {
            "model": {"model": str(model), "device": device, "precision": case.precision},
            "lora": {
                "rank": case.rank,
                "alpha": 2 * case.rank,
                "dropout": case.dropout,
                "shared_dropout": case.shared,
                "targets": case.targets,
            },
            "train": {
                "batch": 1 if case.uneven else _rows_of_a_step(case) + 1,
                "accumulation": 1,
                "epochs": 1,
                "learning_rate": 1e-4,
                "max_length": 2 * case.row,
                "micro_batch_tokens": case.tokens,
                "gradient_checkpointing": case.checkpointing,
                "eval_steps": len(case.uneven) or 2,
            },
        }
    )


def _starter() -> dict[str, Any]:
    return json.loads((STARTER / "config.json").read_text())


def _rows(model: Path, length: int, count: int, first: int = 0) -> list[Any]:
    """`count` rows of nearly `length` tokens, two thirds of them in the answer."""
    from gemma_lora import model as models
    from gemma_lora.records import Example, Message

    fmt = models.load_format(models.resolve(str(model)))

    def row(words: int) -> tuple[Any, ...]:
        question, answer = " please" * (words // 3), " order" * (words - words // 3)
        return (
            Message(role="user", content=f"what{question}"),
            Message(role="assistant", content=f"the{answer}"),
        )

    # the most words that fit; a word is a token at least
    words = bisect_right(range(1, length), length, key=lambda n: len(fmt.example(row(n)).ids))
    return [
        Example(id=f"{number:016x}", messages=row(words), cluster=str(number), line=number + 2)
        for number in range(first, first + count)
    ]


def _uneven(model: Path, lengths: Sequence[int]) -> list[Any]:
    """A row of each of `lengths`, so placed that training takes them in this order, one a step."""
    from gemma_lora.train.plan import StepPlan

    plan = StepPlan(len(lengths), per_step=1, epochs=1, seed=0)
    placed: dict[int, Any] = {}
    for number, length in enumerate(lengths):
        (row,) = plan[number].rows
        placed[row] = _rows(model, length, 1, first=row)[0]
    return [placed[row] for row in range(len(lengths))]


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def measure(case: Case, *, runs: int, device: str) -> dict[str, Any]:
    """Medians over `runs` fresh processes."""
    with tempfile.TemporaryDirectory(prefix="gemma-lora-memory-") as folder:
        _child("write", case, folder, device)
        found = [_child("train", case, folder, device) for _ in range(runs)]
    measured = statistics.median(one["measured"] for one in found)
    predicted = statistics.median(one["predicted"] for one in found)
    return {
        "case": asdict(case),
        "device": device,
        "runs": runs,
        "measured": measured,
        "range": [min(one["measured"] for one in found), max(one["measured"] for one in found)],
        "predicted": predicted,
        "error": predicted / measured - 1,
    }


def _child(what: str, case: Case, folder: str, device: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.planned",
            "--child",
            what,
            "--device",
            device,
            "--case",
            json.dumps(asdict(case)),
            "--folder",
            folder,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]),
        },
    )
    if done.returncode:
        raise SystemExit(f"{case.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _in_child(options: argparse.Namespace) -> None:
    case, folder = Case(**json.loads(options.case)), Path(options.folder)
    if options.child == "write":
        write_model(case, folder / "model")
        print("{}")
        return
    work = Path(tempfile.mkdtemp(dir=folder, prefix="run-"))
    print(json.dumps(train_once(case, folder / "model", work, options.device)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.planned", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--child", choices=("write", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=int, default=3, help="fresh processes for each case")
    parser.add_argument("--only", help="cases, separated by commas")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "memory.json")
    options = parser.parse_args(arguments)
    if options.child:
        _in_child(options)
        return 0
    wanted = options.only.split(",") if options.only else [case.name for case in CASES]
    part: dict[str, Any] = {"cases": {}}
    if options.out.exists():
        part = json.loads(options.out.read_text())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case.name not in wanted:
            continue
        found = measure(case, runs=options.runs, device=options.device)
        part["cases"][f"{case.name}/{options.device}"] = found
        part |= {"quick": False, "about": machine.about(), "band": BAND}
        options.out.write_text(json.dumps(part, indent=1))
        print(
            f"{case.name:20} predicted {found['predicted'] / 2**20:7,.0f} MiB  measured "
            f"{found['measured'] / 2**20:7,.0f} MiB  {found['error']:+.1%}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
