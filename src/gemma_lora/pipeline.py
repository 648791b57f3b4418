"""The order of the stages, and continuing where a run stopped.

    data -> train -> answer -> judge -> report

Each stage reads and writes files of one run folder only. When it is complete, a stamp with the
hashes of its inputs is written; on the next start a stage whose stamp still fits is skipped, and one
whose inputs changed runs again and says so. `preflight` tries before training what later stages need.
Refuses a folder made from another configuration or other data, with the difference.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from gemma_lora import decision, provenance, report
from gemma_lora import judge as judging
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, DataError, EnvironmentFault, GateNotMet
from gemma_lora.loading import dump, leaves, load_config
from gemma_lora.rundir import RunDir, digest, file_digest, read_json, write_json, write_text

__all__ = ["answer", "audit", "chat", "judge", "open_run", "require", "run", "run_folder", "train"]

OPERATIONAL = frozenset(
    {"judge_concurrency", "judge_timeout", "judge_retries", "price_input", "price_output"}
    | {"answer_batch", "report_to"}
)
"""Settings that change how fast or how visibly a run works, never its result."""


def run(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """The whole pipeline into one folder; returns the verdict with the paths of the reports."""
    folder = run_folder(config, out)
    with _own(config, folder) as run_dir:
        console.note(f"run folder: {folder}")
        for line in config.advice():
            console.warn(line)
        base = _preflight(config, run_dir, console)
        _data_stage(config, run_dir, console, base)
        _train_stage(config, run_dir, console, base)
        _answer_stage(config, run_dir, console, base)
        return _judge_stages(config, run_dir, console, base)


def train(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """The data and training stages only; returns training.json."""
    folder = run_folder(config, out)
    with _own(config, folder) as run_dir:
        console.note(f"run folder: {folder}")
        for line in config.advice():
            console.warn(line)
        _need_disk(run_dir)
        base = _inspect_base(config, console)
        _data_stage(config, run_dir, console, base)
        _train_stage(config, run_dir, console, base)
        write_json(run_dir.provenance, provenance.gather(config, run_dir, base))
        return {**read_json(run_dir.training), "run": str(folder), "adapter": str(run_dir.adapter)}


def answer(
    run_dir: RunDir, config: Config, console: Console, *, questions: Path | None = None
) -> dict[str, Any]:
    """Answers of both arms for the test rows, or for the rows of `questions`."""
    with run_dir.lock():
        if questions is None:
            _answer_stage(config, run_dir, console, _inspect_base(config, console))
            return {"answers": str(run_dir.answers("base").parent)}
        from gemma_lora.answer import answer as answer_questions

        return answer_questions(config, run_dir, console, questions=questions)


def judge(run_dir: RunDir, config: Config, console: Console) -> dict[str, Any]:
    """Judgements, verdict and report with `config.judge`; another judge's stand beside the first."""
    with run_dir.lock():
        for arm in ("base", "tuned"):
            if not run_dir.answers(arm).is_file():
                raise DataError(
                    f"there are no {arm} answers",
                    where=str(run_dir.root),
                    remedy=f"gemma-lora answer {run_dir.root}",
                )
        _tell_where_data_goes(config, console)
        if not _judged(config, run_dir):
            judging.probe(config.judge, console)
        known = read_json(run_dir.provenance) if run_dir.provenance.exists() else {}
        return _judge_stages(config, run_dir, console, known.get("base", {}))


def chat(run_dir: RunDir, config: Config, console: Console) -> None:
    """Talk to the run's models in the terminal; reads stdin, writes nothing to the folder."""
    from gemma_lora.chat import chat as talk

    talk(config, run_dir, console)


def audit(config: Config, console: Console, *, out: Path | None = None) -> dict[str, Any]:
    """What `run` would find in the data, without training; written to `out` if one is named."""
    from gemma_lora import audit as auditing
    from gemma_lora import model

    _need_data(config)
    fmt = model.load_format(model.resolve(config.model.model))
    if out is None:
        return auditing.audit(config, fmt, console)
    with _own(config, out) as run_dir:
        return auditing.prepare(config, fmt, run_dir, console)


def open_run(folder: Path, flags: Mapping[str, Any]) -> tuple[RunDir, Config]:
    """An existing run folder and its configuration with `flags` on top."""
    run_dir = RunDir(folder)
    if not run_dir.config.is_file():
        raise ConfigError(
            "is not a run folder (it has no config.yaml)",
            where=str(folder),
            remedy="name the folder that `gemma-lora run` printed",
        )
    return run_dir, load_config(run_dir.config, flags)


def require(verdict: Mapping[str, Any], wanted: str | None) -> None:
    """GateNotMet (exit code 10) unless the verdict reaches `wanted` (better, not-worse)."""
    found = verdict["verdict"]
    fine = {"better": {"better"}, "not-worse": {"better", "equivalent"}}
    if wanted is not None and found not in fine[wanted]:
        raise GateNotMet(f"the verdict is `{found}`", expected=" or ".join(sorted(fine[wanted])))


def run_folder(config: Config, out: Path | None) -> Path:
    """`out`, or `runs/<data name>-<short hash of config and data>`."""
    path = _need_data(config)
    if out is not None:
        return out
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "data"
    return Path("runs") / f"{name[:60]}-{digest(_identity(config))[:8]}"


def _need_data(config: Config) -> Path:
    if config.data.path is None:
        raise ConfigError(
            "no data file is named",
            expected="gemma-lora run DATA, or `data: {path: ...}` in --config",
        )
    path = Path(config.data.path)
    for name in (path, Path(config.data.test) if config.data.test else path):
        if not name.exists():
            raise DataError("there is no such file", where=str(name), remedy="check the path")
        if not name.is_file():
            raise DataError(
                "is not a file", where=str(name), expected="a CSV, TSV, JSON or JSON-lines file"
            )
    return path


def _identity(config: Config) -> dict[str, Any]:
    """What makes two runs the same run: all settings that decide results, and the data's bytes."""
    sections = {leaf.section for leaf in leaves() if leaf.section}
    tree: dict[str, Any] = {name: _deciding(config, name) for name in sorted(sections)}
    tree["seed"] = config.seed
    for key in ("path", "test"):
        if tree["data"][key] is not None:
            tree["data"][key] = file_digest(Path(tree["data"][key]))
    return tree


def _deciding(config: Config, section: str) -> dict[str, Any]:
    """The settings of one section that decide results."""
    tree = getattr(config, section).model_dump(mode="json")
    return {name: value for name, value in tree.items() if name not in OPERATIONAL}


@contextmanager
def _own(config: Config, folder: Path) -> Generator[RunDir]:
    """The folder, locked and claimed for `config`; a folder that is not ours is left as it is."""
    run_dir = RunDir(folder)
    if folder.exists() and not run_dir.stamp_path("identity").exists():
        if not folder.is_dir():
            raise ConfigError(
                "is not a folder", where=str(folder), remedy="choose another folder with --out"
            )
        # what a process killed at its very start leaves behind is no reason to refuse
        if any(path.name not in (".lock", ".stamps") for path in folder.iterdir()):
            raise ConfigError(
                "the folder is not empty and is not a run folder",
                where=str(folder),
                remedy="choose another folder with --out",
            )
    with run_dir.lock():
        _claim(config, run_dir)
        yield run_dir


def _claim(config: Config, run_dir: RunDir) -> None:
    """Write config.yaml into a new folder; stop where the folder belongs to another run."""
    marker = run_dir.stamp_path("identity")
    mine = _identity(config)
    if marker.exists():
        theirs = read_json(marker)
        differences = _differences(theirs, mine)
        if differences:
            raise ConfigError(
                "this folder was made from another configuration or other data",
                where=str(run_dir.root),
                details=differences,
                remedy="choose another folder with --out, or leave --out away"
                + (
                    f"; for another judge: gemma-lora judge {run_dir.root} --judge {config.judge.judge}"
                    if any(d.startswith("judge.") for d in differences)
                    else ""
                ),
            )
    else:
        write_json(marker, mine)
    write_text(run_dir.config, dump(config))


def _differences(theirs: Any, mine: Any) -> list[str]:
    lines: list[str] = []
    for section in sorted({*theirs, *mine}):
        old, new = theirs.get(section), mine.get(section)
        if isinstance(old, dict) and isinstance(new, dict):
            a, b = cast(dict[str, Any], old), cast(dict[str, Any], new)
            for name in sorted({*a, *b}):
                if a.get(name) == b.get(name):
                    continue
                if section == "data" and name in ("path", "test") and a.get(name) and b.get(name):
                    lines.append(f"data.{name}: the file's content is another one")
                else:
                    lines.append(f"{section}.{name}: was {a.get(name)!r}, is {b.get(name)!r}")
        elif old != new:
            lines.append(f"{section}: was {old!r}, is {new!r}")
    return lines


def _preflight(config: Config, run_dir: RunDir, console: Console) -> dict[str, Any]:
    """Try what later stages need, before hours are spent: model, room on the disk, judge."""
    console.stage("check", "what this run will need")
    _need_disk(run_dir)
    base = _inspect_base(config, console)
    if not _judged(config, run_dir):
        _tell_where_data_goes(config, console)
        judging.probe(config.judge, console)
    return base


def _judged(config: Config, run_dir: RunDir) -> bool:
    """Whether the judge has nothing left to do, so that asking it once more would only cost."""
    slug = judging.slug(config.judge.judge)
    outputs = [
        run_dir.adapter / "adapter_model.safetensors",
        run_dir.answers("base"),
        run_dir.answers("tuned"),
        run_dir.judgements(slug) / "judgements.jsonl",
    ]
    if not all(path.is_file() for path in outputs):
        return False
    return run_dir.stamp(f"judge-{slug}") == _judge_inputs(config, run_dir)


def _judge_inputs(config: Config, run_dir: RunDir) -> dict[str, str]:
    return {
        "base answers": file_digest(run_dir.answers("base")),
        "tuned answers": file_digest(run_dir.answers("tuned")),
        "judge": judging.fingerprint(config.judge),
    }


def _inspect_base(config: Config, console: Console) -> dict[str, Any]:
    """Identity of the base model, found without loading its weights."""
    from gemma_lora import model

    ref = model.resolve(config.model.model)
    facts = model.check_access(ref)
    fmt = model.load_format(ref)
    console.note(
        f"base model: {config.model.model} ({facts.family}, {facts.parameters / 1e6:,.1f} million parameters)"
    )
    return {
        # of a local folder the last part only: a path may hold the name of a person
        "name": Path(ref.location).name if ref.kind == "local" else config.model.model,
        "kind": ref.kind,
        "family": facts.family,
        "parameters": facts.parameters,
        "revision": facts.revision,
        "licence": facts.licence,
        "weights": model.weights_digest(ref),
        "template": fmt.template_hash,
        "template_source": fmt.template_source,
    }


def _need_disk(run_dir: RunDir) -> None:
    free = shutil.disk_usage(run_dir.root).free
    if free < 200 * 2**20 and run_dir.stamp("train") is None:
        raise EnvironmentFault(
            f"only {free / 2**20:.0f} MiB are free on the disk",
            where=str(run_dir.root),
            expected="at least 200 MiB for checkpoints, adapter and answers",
            remedy="free some space, then run the same command again",
        )


def _tell_where_data_goes(config: Config, console: Console) -> None:
    sentence = judging.where_data_goes(config.judge)
    if sentence:
        console.note(f"privacy: {sentence}")


def _stage(
    name: str,
    run_dir: RunDir,
    console: Console,
    inputs: Mapping[str, str],
    outputs: Sequence[Path],
    work: Callable[[], Any],
) -> None:
    """Run `work` unless a stamp says that it was completed with the same inputs.

    No stamp is written where `work` returns False: it did what it could, and something is left.
    """
    stamp = run_dir.stamp(name)
    missing = [path for path in outputs if not path.exists()]
    if stamp == dict(inputs) and not missing:
        console.stage(name, "done before, nothing has changed")
        return
    if stamp is not None:
        changed = [key for key in inputs if stamp.get(key) != inputs[key]]
        reason = f"{', '.join(changed)} changed" if changed else f"{missing[0].name} is missing"
        console.stage(name, f"runs again: {reason}")
        run_dir.stamp_path(name).unlink()
    else:
        console.stage(name)
    if work() is not False:
        run_dir.write_stamp(name, inputs)


def _data_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    from gemma_lora import audit as auditing
    from gemma_lora import model

    def work() -> None:
        fmt = model.load_format(model.resolve(config.model.model))
        auditing.prepare(config, fmt, run_dir, console)

    identity = _identity(config)
    inputs = {
        "data": digest(identity["data"]),
        "template": str(base["template"]),
        "max_length": str(config.train.max_length),
        "seed": str(config.seed),
    }
    outputs = [run_dir.audit, run_dir.train_rows, run_dir.validation_rows, run_dir.test_rows]
    _stage("data", run_dir, console, inputs, outputs, work)


def _train_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    def work() -> None:
        from gemma_lora.train import train as train_adapter

        train_adapter(config, run_dir, console)

    inputs = {
        "train rows": file_digest(run_dir.train_rows),
        "validation rows": file_digest(run_dir.validation_rows),
        "recipe": digest([_deciding(config, name) for name in ("train", "lora", "model")]),
        "base model": digest(base["weights"], base["template"]),
        "seed": str(config.seed),
    }
    outputs = [run_dir.training, run_dir.adapter / "adapter_model.safetensors"]
    _stage("train", run_dir, console, inputs, outputs, work)


def _answer_stage(config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]) -> None:
    def work() -> None:
        from gemma_lora.answer import answer as answer_questions

        answer_questions(config, run_dir, console)

    adapter = run_dir.adapter / "adapter_model.safetensors"
    if not adapter.is_file() or not run_dir.test_rows.is_file():
        raise DataError(
            "there is no trained adapter",
            where=str(run_dir.root),
            remedy=f"gemma-lora run {config.data.path} --out {run_dir.root}",
        )
    inputs = {
        "test rows": file_digest(run_dir.test_rows),
        "adapter": file_digest(adapter),
        "base model": digest(base["weights"], base["template"]),
        "answer settings": digest(_deciding(config, "answer"), config.seed),
    }
    outputs = [run_dir.answers("base"), run_dir.answers("tuned")]
    _stage("answer", run_dir, console, inputs, outputs, work)


def _judge_stages(
    config: Config, run_dir: RunDir, console: Console, base: dict[str, Any]
) -> dict[str, Any]:
    """Judge, decide, report; the run's own judge also gets the report at the top of the folder."""
    slug = judging.slug(config.judge.judge)
    folder = run_dir.judgements(slug)

    def ask() -> bool:
        judging.judge(config, run_dir, console)
        left = int(read_json(folder / "judge.json")["to_ask_again"])
        if left:
            console.warn(
                f"the judge did not reply for {left} answers, which stay unscored; "
                "run the same command again to ask for these only"
            )
        return left == 0

    inputs = _judge_inputs(config, run_dir)
    _stage(f"judge-{slug}", run_dir, console, inputs, [folder / "judgements.jsonl"], ask)
    write_json(run_dir.provenance, provenance.gather(config, run_dir, base))
    console.stage("report")
    verdict = decision.decide(config, run_dir, console, judge_slug=slug)
    written = report.write_report(run_dir, verdict)
    return {**verdict, "run": str(run_dir.root), **written}
