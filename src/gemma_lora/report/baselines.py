"""The stronger baselines in words: against each, what the tuned model gains, and how sure that is.

Pure: takes verdict.json, returns sentences and figures for report.html, report.md and the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_lora.decision.baselines import described
from gemma_lora.decision.robustness import lacking
from gemma_lora.report.wording import clean, interval, p_value, points, score

__all__ = ["Row", "intro", "rows"]

_WORDS = {
    "better": "the tuned model is better",
    "worse": "the tuned model is worse",
    "equivalent": "they differ by less than half a point on average, either way",
    "inconclusive": "these answers do not show whether the tuned model is better or worse",
}
_OVERLAP_WORDS = {
    "better": "the tuned model comes closer to the reference answers",
    "worse": "the tuned model is further from the reference answers",
    "equivalent": "how close they come to the reference answers differs by less than half a point on average",
    "inconclusive": "these answers do not show which comes closer to the reference answers",
}
_LABELS = {"better": "tuned better", "worse": "tuned worse"}


@dataclass(frozen=True)
class Row:
    """Tuned minus one baseline."""

    name: str
    """`the base with four examples in the prompt`"""
    verdict: str
    words: str
    """The verdict as a clause; overlap with a reference is not called quality."""
    mean: float | None
    """Of the baseline, on the compared questions."""
    tuned: float | None
    difference: float | None
    """None: not one question was scored in both."""
    ci95: Sequence[float] | None
    p: float | None
    """After Holm's correction over the baselines."""
    n: int
    wins: str
    beside: str
    """What else is to be known: how the baseline was made, what is missing."""

    @property
    def label(self) -> str:
        """The verdict in one or two words that say who is better."""
        return _LABELS.get(self.verdict, self.verdict)

    @property
    def brief(self) -> str:
        """One line for the terminal."""
        if self.difference is None:
            return f"against {self.name}: not one question scored in both"
        return (
            f"against {self.name}: {points(self.difference)} ({interval(self.ci95)}), {self.label}"
        )

    @property
    def sentence(self) -> str:
        """The line with all its figures."""
        if self.difference is None:
            return (
                f"Against {self.name}: not one question was scored in both, so nothing can be said."
            )
        return (
            f"Against {self.name}: {self.words}. It scores {score(self.tuned)} where the baseline "
            f"scores {score(self.mean)}, a difference of {points(self.difference)} (95 % interval "
            f"{interval(self.ci95)}, p {p_value(self.p)}) on {self.n} questions: {self.wins}. {self.beside}"
        ).strip()


def intro(verdict: Mapping[str, Any]) -> str:
    """What the comparisons are and are not."""
    count = len(verdict["baselines"])
    holm = (
        f" The p-values are corrected for {count} comparisons (Holm); better and worse are said below 5 % only."
        if count > 1
        else ""
    )
    return (
        "The same test questions, the same judge and the same rule, with a stronger opponent than the bare "
        f"base. The verdict above stays tuned against base.{holm}"
    )


def rows(verdict: Mapping[str, Any]) -> list[Row]:
    """One for each baseline, in the order in which they were asked for."""
    words = _OVERLAP_WORDS if verdict["judge"]["is_llm"] is False else _WORDS
    return [_row(found, words) for found in verdict["baselines"].values()]


def _row(found: Mapping[str, Any], words: Mapping[str, str]) -> Row:
    row, counts = found["comparison"], found["win_tie_loss"]
    wins = (
        f"{counts['win']} higher, {counts['tie']} the same, {counts['loss']} lower"
        if counts
        else ""
    )
    return Row(
        name=str(clean(described(found))),
        verdict=found["verdict"],
        words=words[found["verdict"]],
        mean=row["base_mean"] if row else None,
        tuned=row["tuned_mean"] if row else None,
        difference=row["difference"] if row else None,
        ci95=row["ci95"] if row else None,
        p=found["p_holm"],
        n=row["n"] if row else 0,
        wins=wins,
        beside=" ".join([*_made(found), *_missing(found)]),
    )


def _made(found: Mapping[str, Any]) -> list[str]:
    what = found["what"]
    if found["kind"] != "few-shot":
        return []
    text = (
        f"The examples are training rows, those most like each question ({what['rows_used']} different ones "
        "in all)."
    )
    if what["with_fewer"]:
        text += f" {what['with_fewer']} questions have fewer, {what['with_none']} none."
    return [text]


def _missing(found: Mapping[str, Any]) -> list[str]:
    missing = found["missing"]
    if not missing.get("touched", missing["pairs_lost"]):
        return []
    text = f"{lacking(missing)}."
    if missing["must_agree"] and missing["verdict_at_bounds"] != missing["verdict_without"]:
        text += (
            f" Without regard to them it would be `{missing['verdict_without']}`; had they been the worst "
            f"or the best possible, the interval would be {interval(missing['bounds_ci95'])}."
        )
    return [text]
