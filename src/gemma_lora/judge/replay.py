"""Judgements that were recorded earlier, replayed from a JSON-lines file.

A line is one of our own judgements, or any object with `id`, `arm` and the scores (in `scores` or
beside them) and `overall`. Lines that repeat an id, arm and repeat must say the same; only where the
earlier had no reply does the later count, as in our own files. A score outside 1 to 10 makes the judgement unscored; an answer that the file does not
know is unscored too. Where `inputs.json` lies beside the file (a judge's folder of a run), a judgement counts only
for the very question, reference and answer that it was made for; else it is unscored. Where `judge.json` does, who
judged and by which prompt is taken from it. Refuses files that are not JSON lines or contradict themselves, all such
lines at once, and a judge.json whose values are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from gemma_lora.errors import JudgeError
from gemma_lora.judge.asked import rubric_facts
from gemma_lora.judge.items import NO_REPLY, Item, Key, Outcome
from gemma_lora.judge.kinship import families_of
from gemma_lora.judge.ledger import INPUTS, text_name
from gemma_lora.rubric import OVERALL, Rubric, load_rubric
from gemma_lora.rundir import digest, file_digest, read_saved

__all__ = ["OTHER", "ReplayScorer"]

ABSENT = "not in the replay file"
RECORDED = "recorded as unscored: "
OTHER = "recorded for another answer"
_BESIDE = "judge.json"
_LONGEST = 500
_HASH, _FAMILY = re.compile(r"[0-9a-f]{64}"), re.compile(r"[a-z0-9/-]{1,40}")


class ReplayScorer:
    """Answers from the file; contacts nobody."""

    kind = "replay"
    parallel = 1

    def __init__(self, path: Path, rubric: Rubric | None = None) -> None:
        self._path = path
        self.rubric = rubric or load_rubric(None)
        self.weights: Mapping[str, float] = self.rubric.weights
        made = _origin(path)
        _refuse_other_rubric(path, made, self.rubric)
        self._outcomes = _read(path, self.rubric)
        self._digest = file_digest(path)
        self._texts = _texts(path)
        self.is_llm: bool | None = made.get("is_llm")
        self._recorded = _recorded(made)
        self.families = _families(made)
        """Of the judge that was recorded; empty where nobody can tell."""

    def identity(self) -> dict[str, Any]:
        texts = {} if self._texts is None else {"texts": digest(self._texts)}
        return {
            "backend": "replay",
            "file": self._digest,
            "rubric": self.rubric.hash,
            **texts,
        }

    @property
    def is_checked(self) -> bool:
        """Whether it is known which answers were judged."""
        return self._texts is not None

    async def score(self, item: Item) -> Outcome:
        found = self._outcomes.get(item.key)
        if found is None:
            return Outcome.unscored(ABSENT)
        if self._texts is not None and self._texts.get(text_name(item.key)) != item.fields():
            return Outcome.unscored(OTHER)
        return found

    def facts(self) -> dict[str, Any]:
        return {
            "snapshot": f"sha256:{self._digest}",
            "replayed_from": self._path.name,
            **self._recorded,
            **rubric_facts(self.rubric),
        }

    async def close(self) -> None:
        pass


def _origin(path: Path) -> dict[str, Any]:
    """What judge.json beside the file tells of the judge that was recorded; empty where there is none.

    The file may be anybody's, so JudgeError names every value that is not what ours are.
    """
    beside = path.parent / _BESIDE
    if path.name != "judgements.jsonl" or not beside.is_file():
        return {}
    found = read_saved(beside)
    made = {key: found[key] for key in _TOLD if found.get(key) is not None}
    faults = [key for key, value in made.items() if not _TOLD[key](value)]
    if faults:
        raise JudgeError(
            f"the file that tells who judged is damaged: {', '.join(faults)}",
            where=str(beside),
            expected="judge.json as it was written beside the judgements",
            remedy="restore it, or replay a copy of judgements.jsonl from a folder without it: who judged is "
            "then unknown",
        )
    return made


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_families(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str) and _FAMILY.fullmatch(name) for name in cast(list[Any], value)
    )


_TOLD: dict[str, Callable[[Any], bool]] = {
    "is_llm": lambda value: isinstance(value, bool),
    "families": _are_families,
    "rubric_hash": _is_hash,
    "prompt_hash": _is_hash,
    "schema_hash": _is_hash,
    **dict.fromkeys(
        ("name", "snapshot", "rubric", "prompt", "recorded_judge", "recorded_snapshot"), _is_text
    ),
}
"""What is taken from judge.json beside the file, and what each has to be."""


def _recorded(made: Mapping[str, Any]) -> dict[str, Any]:
    """Who judged and by which prompt, null where that is not known; through replays of replays."""
    if "recorded_judge" in made:
        judge, snapshot = made["recorded_judge"], made.get("recorded_snapshot")
    else:
        judge, snapshot = made.get("name"), made.get("snapshot")
    return {
        "recorded_judge": _shown(judge),
        "recorded_snapshot": _shown(snapshot),
        "prompt": _shown(made.get("prompt")),
        "prompt_hash": made.get("prompt_hash"),
        "schema_hash": made.get("schema_hash"),
    }


def _shown(text: str | None) -> str | None:
    """Such as can be written to a file, and no longer than a report can show."""
    return None if text is None else text[:_LONGEST].encode("utf-8", "replace").decode()


def _families(made: Mapping[str, Any]) -> list[str]:
    if "families" in made or not made.get("is_llm"):
        return made.get("families", [])
    return sorted(families_of(made.get("name", "")))  # of a version that did not save them


def _texts(path: Path) -> dict[str, str] | None:
    """Digests of the texts that were judged, by `text_name`; None where nobody recorded them."""
    beside = path.parent / INPUTS
    if path.name != "judgements.jsonl" or not beside.is_file():
        return None
    texts: Any = read_saved(beside).get("texts")
    return cast(dict[str, str], texts) if isinstance(texts, dict) else None


def _refuse_other_rubric(path: Path, made: Mapping[str, Any], rubric: Rubric) -> None:
    """Scores by one rubric are none by another, even where the dimensions have the same names."""
    recorded = made.get("rubric_hash")
    if recorded is None or recorded == rubric.hash:
        return
    raise JudgeError(
        f"the judgements were made by the rubric `{made.get('rubric')}`, not by `{rubric.name}` as it is now",
        where=str(path),
        remedy=f"--rubric {path.parent / 'rubric.yaml'}",
    )


def _read(path: Path, rubric: Rubric) -> dict[Key, Outcome]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise JudgeError("there is no such replay file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"the replay file cannot be read: {error}", where=str(path)) from None
    outcomes: dict[Key, Outcome] = {}
    places: dict[Key, int] = {}
    faults: list[str] = []
    conflicts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            key, outcome = _line(row, rubric)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {error}")
            continue
        before = outcomes.get(key)
        if before is not None and before != outcome and not _silent(before):
            conflicts.append(
                f"lines {places[key]} and {number}: {_difference(key, before, outcome, rubric)}"
            )
            continue
        outcomes[key], places[key] = outcome, number
    if faults or not outcomes:
        raise JudgeError(
            f"{len(faults)} lines are no judgements" if faults else "the replay file is empty",
            where=str(path),
            details=_first(faults),
            expected='JSON lines such as {"id": "...", "arm": "base", "scores": {"relevance": 7, ...}, '
            '"overall": 7}',
        )
    if conflicts:
        raise JudgeError(
            f"{len(conflicts)} lines contradict earlier ones on the same answer",
            where=str(path),
            details=_first(conflicts),
            expected="one judgement for each id, arm and repeat",
            remedy="remove the lines that do not count, or number real repeats with `repeat`",
        )
    return outcomes


def _silent(outcome: Outcome) -> bool:
    return (outcome.unscored_reason or "").startswith(RECORDED + NO_REPLY)


def _first(lines: list[str]) -> list[str]:
    return lines[:10] + ([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])


def _difference(key: Key, before: Outcome, after: Outcome, rubric: Rubric) -> str:
    """Both overall scores, or where these are equal the parts that differ."""
    name, arm, repeat = key
    which = f"{name} {arm}" + (f" repeat {repeat}" if repeat else "")
    if before.overall != after.overall:
        said = ["unscored" if o.overall is None else f"{o.overall:g}" for o in (before, after)]
        return f"{which}: overall {said[0]}, then {said[1]}"
    parts = [part for part in rubric.names if before.scores.get(part) != after.scores.get(part)]
    return f"{which}: other {', '.join(parts) or 'words'}"


def _line(value: Any, rubric: Rubric) -> tuple[Key, Outcome]:
    if not isinstance(value, dict):
        raise ValueError("is not an object")
    row = cast(dict[str, Any], value)
    name, arm, repeat = row.get("id"), row.get("arm"), row.get("repeat", 0)
    if not isinstance(name, str) or not isinstance(arm, str):
        raise ValueError("has no `id` and `arm` as text")
    if not isinstance(repeat, int) or isinstance(repeat, bool):
        raise ValueError("`repeat` is not an integer")
    return (name, arm, repeat), _outcome(row, rubric)


def _outcome(row: dict[str, Any], rubric: Rubric) -> Outcome:
    reason = row.get("unscored_reason")
    if reason:
        # the way to the file is whole, so this is final whatever the reason was then
        return Outcome.unscored(f"{RECORDED}{reason}")
    source = row.get("scores", row)
    if not isinstance(source, dict):
        return Outcome.unscored("the recorded scores are not an object")
    scores = cast(dict[str, Any], source)
    strange = [name for name in scores if name not in rubric.scores] if source is not row else []
    if strange:
        raise ValueError(
            f"has scores that the rubric `{rubric.name}` has not: {', '.join(strange)[:200]}"
        )
    found: dict[str, Any] = {name: scores.get(name) for name in rubric.names}
    overall = row.get(OVERALL, scores.get(OVERALL))
    wrong = [
        f"{name} = {json.dumps(number)[:40]}"
        for name, number in [*found.items(), (OVERALL, overall)]
        if number is not None and not _in_range(number)
    ]
    if wrong:
        return Outcome.unscored(f"recorded score out of range: {', '.join(wrong)}")
    if overall is None:
        return Outcome.unscored("no overall score was recorded")
    reasoning = row.get("reasoning", "")
    return Outcome(
        scores={name: None if n is None else float(n) for name, n in found.items()},
        overall=float(overall),
        reasoning=reasoning if isinstance(reasoning, str) else json.dumps(reasoning),
    )


def _in_range(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 1 <= number <= 10
