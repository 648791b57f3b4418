"""The comparison as one JSON object: runs, settings that differ, groups, pairs, warnings.

Pure but for reading the folders; `--json` prints it, and the page, the Markdown and the terminal's
table are made from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gemma_lora.compare.pairs import groups, not_comparable, pairwise
from gemma_lora.compare.reading import Entry, read_all
from gemma_lora.decision.robustness import number
from gemma_lora.rundir import digest, file_digest

__all__ = ["compare"]

_IN_TRAINING = "of the test questions are also among its training rows"


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Read and compare; ConfigError names everything that stands in the way."""
    entries = read_all(folders)
    apart = not_comparable(entries)
    pairs = pairwise(entries)
    return {
        "schema_version": 1,
        "inputs": digest(
            [[str(e.run.root.resolve()), file_digest(e.run.verdict)] for e in entries]
        ),
        "runs": [_run(entry) for entry in entries],
        "settings": _settings(entries),
        "groups": groups(entries),
        "not_comparable": apart,
        "pairs": pairs,
        "warnings": _warnings(entries, apart, pairs),
    }


def _run(entry: Entry) -> dict[str, Any]:
    verdict, primary, judge = entry.verdict, entry.verdict["primary"], entry.verdict["judge"]
    return {
        "label": entry.label,
        "name": entry.name,
        "folder": str(entry.run.root),
        "model": entry.config.model.model,
        "seeds": entry.seeds,
        "data_sha256": entry.data_sha256,
        "judge": judge["name"],
        "judge_snapshot": judge.get("snapshot"),
        "judge_package": judge.get("package"),
        "judge_version": judge.get("version"),
        "is_llm": judge.get("is_llm"),
        "verdict": verdict["verdict"],
        "n": primary["n"],
        "base_mean": primary["base_mean"],
        "tuned_mean": primary["tuned_mean"],
        "tuned_ci95": primary["tuned_ci95"],
        "difference": primary["difference"],
        "ci95": primary["ci95"],
        "win_tie_loss": verdict["win_tie_loss"],
        "forgetting": _forgetting(verdict),
        "training_seconds": number(entry.total("seconds")),
        "tokens_trained": entry.tokens_trained,
        "peak_memory_mib": number(entry.peak_mib),
        "adapter_bytes": entry.adapter_bytes,
        "judge_cost": judge.get("cost"),
    }


def _forgetting(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """The word on what was forgotten, and its plain figures; of several seeds all their words."""
    seeds: Any = verdict.get("seeds")
    if seeds:
        each = [_one_forgetting(run.get("forgetting")) for run in seeds["runs"]]
        words = list(dict.fromkeys(found["word"] for found in each if found and found["word"]))
        return {"word": ", ".join(words), "figures": {}} if words else None
    return _one_forgetting(verdict.get("forgetting"))


def _one_forgetting(found: Any) -> dict[str, Any] | None:
    if not isinstance(found, dict):
        return None
    facts = cast(dict[str, Any], found)
    word, accuracy, loss = (facts.get(key) for key in ("verdict", "accuracy", "loss"))
    figures = {
        name: part["difference"]
        for name, part in (("accuracy", accuracy), ("loss", loss))
        if isinstance(part, dict) and part.get("difference") is not None  # pyright: ignore[reportUnknownMemberType]
    }
    return {"word": word if isinstance(word, str) else None, "figures": figures}


def _settings(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Only what differs, in the order of the declarations."""
    trees = [entry.settings for entry in entries]
    places = dict.fromkeys(place for tree in trees for place in tree)
    found = [{"name": place, "values": [tree.get(place) for tree in trees]} for place in places]
    hashes = [entry.data_sha256 for entry in entries]
    if len(set(hashes)) > 1:
        found.insert(
            0, {"name": "data (sha256)", "values": [(h or "unknown")[:12] for h in hashes]}
        )
    return [row for row in found if any(value != row["values"][0] for value in row["values"])]


def _warnings(
    entries: Sequence[Entry], apart: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]
) -> list[str]:
    lines: list[str] = []
    if apart:
        by_reason: dict[str, list[str]] = {}
        for row in apart:
            by_reason.setdefault("; ".join(row["reasons"]), []).append(" and ".join(row["runs"]))
        for why, which in by_reason.items():
            lines.append(
                f"NOT COMPARABLE: the numbers of {', '.join(which)} do not mean the same ({why}). "
                "They are shown, but nothing is claimed between them."
            )
    for entry in entries:
        seen = int(entry.verdict.get("also_in_training") or 0)
        if seen:
            lines.append(f"{entry.label}: {seen} {_IN_TRAINING}, which flatters it.")
        if entry.verdict["judge"].get("is_llm") is False:
            lines.append(
                f"{entry.label}: its judge {entry.verdict['judge']['name']} is not a language model."
            )
    lines += _unnamed(entries, pairs)
    lost: dict[int, list[str]] = {}
    for row in pairs:
        if row["lost"]:
            lost.setdefault(row["lost"], []).append(" and ".join(row["runs"]))
    for count, which in lost.items():
        noun = "question lacks" if count == 1 else "questions lack"
        lines.append(f"{', '.join(which)}: {count} {noun} a score in one of the two: left out.")
    one = [entry.label for entry in entries if entry.seeds < 2]
    if pairs and one:
        lines.append(
            f"{', '.join(one)}: one training seed, so what is said holds for the checkpoint, not for the "
            "recipe; another seed may turn it round. `gemma-lora run` with `--seeds 3` tells."
        )
    return lines


def _unnamed(entries: Sequence[Entry], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A judge that says no snapshot may have been changed behind its name, and nothing would show it."""
    paired = {label for row in pairs for label in row["runs"]}
    silent: dict[str, list[str]] = {}
    for entry in entries:
        judge = entry.verdict["judge"]
        if entry.label in paired and judge.get("is_llm") and not judge.get("snapshot"):
            silent.setdefault(str(judge["name"]), []).append(entry.label)
    return [
        f"{', '.join(labels)}: the judge {name} does not say which model replied, so that it was the same for these "
        "runs is only taken from its name."
        for name, labels in silent.items()
    ]
