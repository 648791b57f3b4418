"""How a run continues: whose folder it is, which stages are done, which must run again.

`claimed` locks a folder for one configuration and refuses one made from another, with the
difference. `stage` skips what is done: a stamp (`.stamps/<stage>.json`) holds the hashes of a
stage's inputs and of the files it made, so a stage runs again, and says why, when an input changed
or a result was damaged, edited or deleted since. Results further on are removed then, because they
describe what is no longer there. Reads and writes only the run folder,
and reads the data for their hash.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.source import source_digest
from gemma_lora.errors import ConfigError, DataError
from gemma_lora.loading import dump, leaves, load_config
from gemma_lora.rubric import load_rubric
from gemma_lora.rundir import (
    SEEDS,
    RunDir,
    disk_fault,
    file_digest,
    read_json,
    write_json,
    write_text,
)

__all__ = [
    "claim",
    "claimed",
    "deciding",
    "identity",
    "is_done",
    "need_whole",
    "open_run",
    "stage",
]

OPERATIONAL = frozenset(
    {
        "judge_concurrency",
        "judge_timeout",
        "judge_retries",
        "price_input",
        "price_output",
        "max_cost",
    }
    | {"answer_batch", "report_to", "shard_weights", "canaries", "teacher"}
)
"""Settings that change how fast or how visibly a run works, not what it is a result of."""

GOES_ON = ("micro_batch_tokens", "gradient_checkpointing")
"""So may these, which change speed and memory (with dropout, another number of tokens at once draws other
masks, as another GPU may). They count as auto, under which names and stamps of older folders stay."""

BESIDE = frozenset({"baseline", "aa", "probe"})
"""Settings of what stands beside the verdict: others on a finished run make only their own stage run again."""


def deciding(config: Config, section: str) -> dict[str, Any]:
    """The settings of one section that decide results."""
    tree = getattr(config, section).model_dump(mode="json")
    return {
        name: None if name in GOES_ON else value
        for name, value in tree.items()
        if name not in OPERATIONAL | BESIDE
    }


def identity(config: Config) -> dict[str, Any]:
    """What makes two runs the same run: all settings that decide results, and the data's bytes."""
    tree = _settings(config)
    for key in ("path", "test"):
        if tree["data"][key] is not None:
            tree["data"][key] = source_digest(tree["data"][key])
    if tree["judge"]["rubric"] is not None:
        tree["judge"]["rubric"] = load_rubric(tree["judge"]["rubric"]).hash
    return tree


def _settings(config: Config) -> dict[str, Any]:
    sections = {leaf.section for leaf in leaves() if leaf.section}
    made = {name: deciding(config, name) for name in sorted(sections)}
    tree: dict[str, Any] = {name: settings for name, settings in made.items() if settings}
    tree["seed"] = config.seed
    if (
        config.seeds > 1
    ):  # how many may grow, so the number is not what makes the folder another one
        tree["seeds"] = "several"
    return tree


# ---------------------------------------------------------------------- the folder


@contextmanager
def claimed(config: Config, folder: Path) -> Generator[RunDir]:
    """The folder, locked and found to be new or of the same run; `claim` makes it ours.

    A folder that is not ours is left as it is, and one that was new and was never claimed
    (because something that the run needs is missing) is removed again.
    """
    run_dir = RunDir(folder)
    marker = run_dir.stamp_path("identity")
    try:
        existed = folder.exists()
    except OSError as error:  # a name that is too long, or a folder above that may not be read
        raise disk_fault(error, folder) from error
    if existed and not marker.exists():
        if not folder.is_dir():
            raise ConfigError(
                "is not a folder", where=str(folder), remedy="choose another folder with --out"
            )
        # what a process killed at its very start leaves behind is no reason to refuse
        if any(not _left_behind(path) for path in folder.iterdir()):
            raise ConfigError(
                "the folder is not empty and is not a run folder",
                where=str(folder),
                remedy="choose another folder with --out",
            )
    with run_dir.lock():
        _refuse_other(config, run_dir)
        try:
            yield run_dir
        finally:
            if not existed and not marker.exists():
                shutil.rmtree(folder)


def _left_behind(path: Path) -> bool:
    """A lock or an unfinished stamp, or the folder of a first run of several that holds no more."""
    if path.name == SEEDS and path.is_dir():
        return all(file.name == ".lock" for file in path.rglob("*") if file.is_file())
    return path.name in (".lock", ".stamps")


def claim(config: Config, run_dir: RunDir) -> None:
    """Write the configuration into the folder: from now on it belongs to this run."""
    marker = run_dir.stamp_path("identity")
    if not marker.exists():
        write_json(marker, identity(config))
    write_text(run_dir.config, dump(config))


def open_run(folder: Path, flags: Mapping[str, Any]) -> tuple[RunDir, Config]:
    """An existing run folder and its configuration with `flags` on top.

    Refuses a config.yaml that was edited since: it would say how the run was made, and lie.
    """
    run_dir = RunDir(folder)
    if not run_dir.config.is_file():
        raise ConfigError(
            "is not a run folder (it has no config.yaml)",
            where=str(folder),
            remedy="name the folder that `gemma-lora run` printed",
        )
    made = _marker(run_dir)
    now = _settings(load_config(run_dir.config))
    if made is not None:
        for key in ("path", "test"):  # a digest there, a path here
            made["data"].pop(key, None)
            now["data"].pop(key, None)
        if made["judge"].get("rubric") and now["judge"]["rubric"]:
            made["judge"].pop("rubric")
            now["judge"].pop("rubric")
        edited = _differences(made, now)
        if edited:
            raise ConfigError(
                "was edited after the run was made",
                where=str(run_dir.config),
                details=edited,
                remedy="run with the new settings into another folder, or undo the change",
            )
    return run_dir, load_config(run_dir.config, flags)


def _marker(run_dir: RunDir) -> dict[str, Any] | None:
    path = run_dir.stamp_path("identity")
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(cast(Any, found).get("data"), dict):
        raise DataError(
            "is damaged",
            where=str(path),
            expected="the settings that the run was made from",
            remedy="choose another folder with --out; the results in this one can still be read",
        )
    made = cast(dict[str, Any], found)
    if isinstance(made.get("train"), dict):  # older folders hold what was asked for
        made["train"] |= dict.fromkeys(GOES_ON)
    return made


def _refuse_other(config: Config, run_dir: RunDir) -> None:
    theirs = _marker(run_dir)
    differences = _differences(theirs, identity(config)) if theirs is not None else []
    if differences:
        other_judge = any(line.startswith("judge.") for line in differences)
        raise ConfigError(
            "this folder was made from another configuration or other data",
            where=str(run_dir.root),
            details=differences,
            remedy="choose another folder with --out, or leave --out away"
            + (
                f"; for another judge: gemma-lora judge {run_dir.root} --judge {config.judge.judge}"
                if other_judge
                else ""
            ),
        )


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for section in sorted({*theirs, *mine}):
        old, new = theirs.get(section), mine.get(section)
        if not isinstance(old, dict) or not isinstance(new, dict):
            if old != new:
                lines.append(f"{section}: was {_shown(old)}, is {_shown(new)}")
            continue
        a, b = cast(dict[str, Any], old), cast(dict[str, Any], new)
        for name in sorted({*a, *b}):
            if a.get(name) == b.get(name):
                continue
            if section == "data" and name in ("path", "test") and a.get(name) and b.get(name):
                lines.append(f"data.{name}: the file's content is another one")
            elif name == "rubric" and a.get(name) and b.get(name):
                lines.append(f"{section}.{name}: the rubric's content is another one")
            else:
                lines.append(
                    f"{section}.{name}: was {_shown(a.get(name))}, is {_shown(b.get(name))}"
                )
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(part) for part in cast(list[Any], value)) or "none"
    return "auto" if value is None else str(value)


# ---------------------------------------------------------------------- the stages


def is_done(name: str, run_dir: RunDir, inputs: Mapping[str, str]) -> bool:
    """Whether stage `name` was completed with these inputs and its files are as it left them."""
    return _why_again(name, run_dir, inputs) == ""


def need_whole(
    name: str, run_dir: RunDir, remedy: str, *, made_from: Mapping[str, Path] | None = None
) -> None:
    """DataError unless this stage was completed and its files are as it left them.

    `made_from`: files of this folder that it read, by the names of its inputs. They may have been made
    anew since, in a run that was interrupted before this stage's turn came again.
    """
    stamp = _stamp(name, run_dir)
    fault = _damage(run_dir, stamp) if stamp else f"the stage `{name}` was not completed"
    if stamp and not fault:
        changed = [
            f"{path.relative_to(run_dir.root)}"
            for key, path in (made_from or {}).items()
            if not path.is_file() or stamp["inputs"].get(key) != file_digest(path)
        ]
        if changed:
            fault = f"{', '.join(changed)} changed after the stage `{name}` read it"
    if fault:
        raise DataError(fault, where=str(run_dir.root), remedy=remedy)


def stage(
    name: str,
    run_dir: RunDir,
    console: Console,
    inputs: Mapping[str, str],
    outputs: Sequence[Path],
    work: Callable[[], Any],
    *,
    stale: Iterable[Path] = (),
) -> None:
    """Run `work` unless it is done. `outputs`: files, or folders of files, that it makes.

    `stale`: results further on, removed where the stage runs again.
    No stamp is written where `work` returns False: it did what it could, and something is left.
    """
    why = _why_again(name, run_dir, inputs)
    if why == "":
        console.stage(name, "done before, nothing has changed")
        return
    if why is not None:
        console.stage(name, f"runs again: {why}")
        for path in [*_changed(name, run_dir), *stale]:
            if path.exists():  # results that can no longer be trusted
                console.note(f"{path.relative_to(run_dir.root)} is removed and made anew")
                path.unlink()
        run_dir.stamp_path(name).unlink()
    else:
        console.stage(name)
    if work() is not False:
        made = {
            path.relative_to(run_dir.root).as_posix(): file_digest(path) for path in _files(outputs)
        }
        write_json(run_dir.stamp_path(name), {"inputs": dict(inputs), "outputs": made})


def _why_again(name: str, run_dir: RunDir, inputs: Mapping[str, str]) -> str | None:
    """None: never completed. "": done. Else the reason to run it again."""
    stamp = _stamp(name, run_dir)
    if stamp is None:
        return "its stamp is damaged" if run_dir.stamp_path(name).exists() else None
    changed = [key for key, value in inputs.items() if stamp["inputs"].get(key) != value]
    if changed:
        return f"{', '.join(changed)} changed"
    return _damage(run_dir, stamp)


def _damage(run_dir: RunDir, stamp: dict[str, dict[str, str]]) -> str:
    for name, known in stamp["outputs"].items():
        path = run_dir.root / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != known:
            return f"{name} was changed or damaged"
    return ""


def _changed(name: str, run_dir: RunDir) -> list[Path]:
    """Files of a completed stage that are no longer as it left them."""
    stamp = _stamp(name, run_dir)
    known = stamp["outputs"] if stamp is not None else {}
    paths = [(run_dir.root / file, value) for file, value in known.items()]
    return [path for path, value in paths if path.is_file() and file_digest(path) != value]


def _stamp(name: str, run_dir: RunDir) -> dict[str, dict[str, str]] | None:
    """The stamp; None where there is none or it cannot be read (the stage then runs again).

    Changed results are removed, so a name that leads out of the folder makes the stamp unreadable.
    """
    path = run_dir.stamp_path(name)
    if not path.exists():
        return None
    try:
        found = read_json(path)
        ok = all(isinstance(found[part], dict) for part in ("inputs", "outputs"))
        root = run_dir.root.resolve()
        inside = ok and all(
            (root / file).resolve().is_relative_to(root) for file in found["outputs"]
        )
    except (DataError, KeyError, TypeError, ValueError, OSError):
        return None
    return cast(dict[str, dict[str, str]], found) if inside else None


def _files(outputs: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in outputs:
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [path for path in found if path.exists()]
