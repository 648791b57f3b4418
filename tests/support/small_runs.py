"""Small data and the command line for whole runs that take a second or two."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

__all__ = ["FAST", "contents", "finished", "numbers", "write_rows"]

FAST: tuple[str, ...] = (
    *("--test-rows", "8", "--validation-rows", "4", "--epochs", "2", "--batch", "2"),
    *("--accumulation", "2", "--eval-steps", "2", "--rank", "8", "--alpha", "16"),
    *("--max-new-tokens", "6", "--answer-batch", "4", "--max-length", "128"),
)
_THINGS = [
    "lamp",
    "chair",
    "table",
    "phone",
    "kettle",
    "jacket",
    "mirror",
    "carpet",
    "bottle",
    "camera",
    "pencil",
    "violin",
    "ladder",
]
_PLACES = "garden kitchen office cellar".split()  # noqa: SIM905


def write_rows(path: Path, count: int = 32) -> Path:
    """`count` different questions about things in places, with answers, as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("question", "answer"))
        for number in range(count):
            thing = _THINGS[number % len(_THINGS)]
            place = _PLACES[number // len(_THINGS) % len(_PLACES)]
            writer.writerow(
                (
                    f"{thing.capitalize()} number {number * 37}: how do I order it for the {place}?",
                    f"Please write to the {place} desk and name the {thing}, then pay {number} euros.",
                )
            )
    return path


def numbers(run: Path) -> dict[str, Any]:
    """What must not change by interruptions: the verdict and all its numbers."""
    verdict = json.loads((run / "verdict.json").read_text("utf-8"))
    names = ("verdict", "primary", "dimensions", "arms", "win_tie_loss", "unscored", "questions")
    return {name: verdict[name] for name in names}


def contents(run: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time (ns) and content of every file, by path inside the folder."""
    return {
        path.relative_to(run).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


_FILES = {
    "data": ("split/", "audit.json"),
    "train": ("adapter/", "training.json", "metrics.jsonl", "checkpoints/"),
    "answer": ("answers/",),
    "forgetting": ("forgetting/",),
    "judge": ("judgements/",),
}


def finished(run: Path) -> dict[str, tuple[int, bytes]]:
    """`contents` of the stages that carry a stamp; the verdict, written after judging, left out."""
    done = {
        path.name.split("-")[0].removesuffix(".json") for path in (run / ".stamps").glob("*.json")
    }
    starts = tuple(part for stage in done & _FILES.keys() for part in _FILES[stage])
    return {
        name: facts
        for name, facts in contents(run).items()
        if starts and name.startswith(starts) and not name.endswith(("verdict.json", ".part"))
    }
