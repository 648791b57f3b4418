"""What the report shows, read from the run folder: questions with both answers, curves, facts.

Reads split/test.jsonl, answers/test/*.jsonl, judgements/<judge>/judgements.jsonl, metrics.jsonl,
training.json, audit.json, provenance.json and config.yaml, each of which may be absent; writes
nothing. Questions come sorted by gain, worst regressions first, those without a difference last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from gemma_lora.decision.baselines import described, paired_with
from gemma_lora.decision.pairing import OVERALL, PairedQuestion, pair_up
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.report.wording import label
from gemma_lora.rundir import RunDir, read_jsonl, read_saved

__all__ = ["Material", "Row", "collect", "facts"]

LONGEST_TEXT = 20_000
"""Characters of one text that the report shows; the rest is counted."""
MOST_ROWS = 2_000
"""Questions that report.html lists; of more, the middle ones by gain are left out, and it says so."""


@dataclass(frozen=True)
class Side:
    """One arm's part of a question."""

    arm: str
    answer: str | None
    tokens: int | None
    cut_off: bool
    scores: Mapping[str, float | None]
    reasons: tuple[str, ...]
    reasoning: str
    flags: tuple[str, ...]

    @property
    def overall(self) -> float | None:
        return self.scores[OVERALL]


@dataclass(frozen=True)
class Row:
    """One question as the report shows it."""

    number: int
    id: str
    title: str
    """The last question on one line, shortened."""
    plain: bool
    """The title is the whole prompt."""
    turns: tuple[tuple[str, str], ...]
    reference: str | None
    gain: float | None
    base: Side
    tuned: Side
    others: tuple[tuple[str, Side], ...]
    """What the baselines answered, each with the baseline's name."""

    @property
    def state(self) -> str:
        """`worse`, `equal`, `better` or `unscored`."""
        if self.gain is None:
            return "unscored"
        return "better" if self.gain > 1e-9 else "worse" if self.gain < -1e-9 else "equal"


@dataclass(frozen=True)
class Material:
    """All that goes into the report besides verdict.json."""

    rows: tuple[Row, ...]
    training_loss: tuple[tuple[int, float], ...]
    validation_loss: tuple[tuple[int, float], ...]
    best_step: int | None
    training: dict[str, Any]
    audit: dict[str, Any]
    provenance: dict[str, Any]
    config_text: str

    @property
    def digits(self) -> int:
        """Decimals of a single answer's score: none where the judge gave whole numbers."""
        values = [
            value
            for row in self.rows
            for side in (row.base, row.tuned)
            for value in side.scores.values()
            if value is not None
        ]
        return 0 if all(float(value).is_integer() for value in values) else 2

    @property
    def listed(self) -> tuple[Row, ...]:
        """The rows that report.html lists in full."""
        if len(self.rows) <= MOST_ROWS:
            return self.rows
        return (*self.rows[: MOST_ROWS // 2], *self.rows[-MOST_ROWS // 2 :])

    def overall(self, arm: str) -> list[float]:
        """Scores of one arm over the questions that are scored in both."""
        return [
            value
            for row in self.rows
            if row.gain is not None
            and (value := (row.base if arm == "base" else row.tuned).overall) is not None
        ]

    def first_to_read(self) -> list[tuple[str, Row]]:
        """The greatest gain, the middle one and the greatest loss."""
        scored = [row for row in self.rows if row.gain is not None]
        if len(scored) < 3:
            return []
        worst, best = scored[0], scored[-1]
        return [
            ("Greatest gain", best),
            ("In the middle", scored[len(scored) // 2]),
            ("Greatest loss" if (worst.gain or 0) < 0 else "Smallest gain", worst),
        ]


class _Metric(BaseModel):
    """The fields of a metrics.jsonl line that are drawn; others are ignored."""

    step: int
    loss: float | None = None
    validation_loss: float | None = None


def collect(run: RunDir, verdict: Mapping[str, Any]) -> Material:
    """Read everything for one judge's report."""
    test = read_jsonl(run.test_rows, Example)
    file = run.judgements(verdict["judge"]["slug"]) / "judgements.jsonl"
    judgements, dimensions = read_jsonl(file, Judgement), tuple(verdict["dimensions"])
    questions, _ = pair_up(
        test, {arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS}, judgements, dimensions
    )
    others: dict[str, list[tuple[str, Side]]] = {}
    for slug, found in verdict["baselines"].items():
        for question in paired_with(slug, run, test, judgements, dimensions):
            side = (described(found), _side(question, "base"))
            others.setdefault(question.id, []).append(side)
    rows = sorted((_row(q, others.get(q.id, ())) for q in questions), key=_worst_first)
    # a resumed training logs the steps after its checkpoint again: the later line counts
    metrics = read_jsonl(run.metrics, _Metric)
    losses = {m.step: m.loss for m in metrics if m.loss is not None}
    validations = {m.step: m.validation_loss for m in metrics if m.validation_loss is not None}
    training = _optional(run, "training.json")
    best = training.get("best_step", training.get("saved_step"))
    return Material(
        rows=tuple(rows),
        training_loss=tuple(sorted(losses.items())),
        validation_loss=tuple(sorted(validations.items())),
        best_step=best if isinstance(best, int) else None,
        training=training,
        audit=_optional(run, "audit.json"),
        provenance=_optional(run, "provenance.json"),
        config_text=run.config.read_text(encoding="utf-8") if run.config.is_file() else "",
    )


_SHOWN_ELSEWHERE = frozenset(
    [
        "schema_version",
        "warnings",
        "validations",
        "stop_ids",
        "rendered",
        "example_rows",
        "histogram",
    ]
)


def facts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A JSON object as (name, text) pairs; nested names are joined with ` › `."""
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        if key not in _SHOWN_ELSEWHERE:
            _flatten(label(str(key)), value, found)
    return found


def _flatten(name: str, value: Any, found: list[tuple[str, str]]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in cast(dict[Any, Any], value).items():
            if key in _SHOWN_ELSEWHERE:
                continue
            _flatten(f"{name} › {label(str(key))}", inner, found)
    elif isinstance(value, list) and any(
        isinstance(v, dict | list) for v in cast(list[Any], value)
    ):
        items = cast(list[Any], value)
        for number, inner in enumerate(items[:30], start=1):
            _flatten(f"{name} {number}", inner, found)
        if len(items) > 30:
            found.append((name, f"and {len(items) - 30} more in the file"))
    else:
        found.append((name, _text(value)))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        items = cast(Sequence[Any], value)
        return ", ".join(_text(inner) for inner in items) or "none"
    if isinstance(value, dict):
        return "none"
    return _limited(str(value))


def _row(question: PairedQuestion, others: Sequence[tuple[str, Side]]) -> Row:
    turns = tuple((turn.role, _limited(turn.content)) for turn in question.messages)
    asked = next((t.content for t in reversed(question.messages) if t.role == "user"), "")
    title = " ".join(asked.split())
    short = title if len(title) <= 160 else title[:159] + "…"
    return Row(
        number=question.number,
        id=question.id,
        title=short,
        plain=len(turns) == 1 and turns[0] == ("user", short),
        turns=turns,
        reference=None if question.reference is None else _limited(question.reference),
        gain=question.difference(),
        base=_side(question, "base"),
        tuned=_side(question, "tuned"),
        others=tuple(others),
    )


def _side(question: PairedQuestion, arm: str) -> Side:
    answer, scored = question.answers[arm], question.scored[arm]
    return Side(
        arm=arm,
        answer=None if answer is None else _limited(answer.answer),
        tokens=None if answer is None else answer.tokens,
        cut_off=answer is not None and answer.stopped_by == "limit",
        scores={OVERALL: scored.overall, **scored.scores},
        reasons=scored.reasons,
        reasoning=_limited(scored.reasoning),
        flags=scored.flags,
    )


def _limited(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return text[:LONGEST_TEXT] + f"\n[… {len(text) - LONGEST_TEXT} more characters are in the file]"


def _worst_first(row: Row) -> tuple[bool, float, int]:
    return (row.gain is None, row.gain or 0.0, row.number)


def _optional(run: RunDir, name: str) -> dict[str, Any]:
    path = run.root / name
    return read_saved(path) if path.exists() else {}
