"""What stands beside the verdict, in plain words: other estimators, missing judgements, power.

Pure: takes verdict.json, returns sentences and rows of text. The same words go into report.html,
report.md and the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_lora.decision.robustness import lacking
from gemma_lora.report.overall import overall_rows
from gemma_lora.report.wording import interval, p_value, points
from gemma_lora.statistics.power import ALPHA

__all__ = [
    "Difference",
    "agreement",
    "differences",
    "holm_note",
    "missing_sentence",
    "other_estimators",
    "power_sentence",
]


@dataclass(frozen=True)
class Difference:
    """One row of the forest plot."""

    name: str
    difference: float | None
    """None: not measured."""
    ci95: Sequence[float] | None
    p: float | None
    """Of the dimensions adjusted by Holm; of overall as it is."""
    not_worse: bool | None

    @property
    def primary(self) -> bool:
        return self.name == "overall"

    @property
    def marked(self) -> bool:
        """The p-value is below 5 %, after Holm's correction where that is due."""
        return self.p is not None and self.p < ALPHA

    @property
    def worth(self) -> str:
        return {True: "yes", False: "not shown", None: "–"}[self.not_worse]


def differences(verdict: Mapping[str, Any]) -> list[Difference]:
    """Overall, then the dimensions."""
    primary = verdict["primary"]
    rows = [
        Difference(
            "overall",
            primary["difference"],
            primary["ci95"],
            primary["p_value"],
            None if primary["ci95"] is None else primary["ci95"][0] > -primary["margin"],
        )
    ]
    for name in verdict["dimensions"]:
        found, beside = verdict["dimensions"].get(name), verdict["robustness"]["dimensions"][name]
        if found is None:
            rows.append(Difference(name, None, None, None, None))
            continue
        rows.append(
            Difference(
                name, found["difference"], found["ci95"], beside["p_holm"], beside["not_worse"]
            )
        )
    return rows


def holm_note(verdict: Mapping[str, Any]) -> str:
    """What the marks of the forest plot mean."""
    measured = sum(found is not None for found in verdict["dimensions"].values())
    margin = verdict["primary"]["margin"]
    return (
        f"* marks a p-value below 0.05, in the {measured} dimensions after Holm's correction for looking "
        f"{measured} times. “Not worse by {margin:g}”: the interval lies above \u2212{margin:g}. "
        "Only the overall interval decides."
    )


def power_sentence(verdict: Mapping[str, Any], *, brief: bool = False) -> str:
    """`With 62 questions, differences under 0.7 points go unnoticed.`; in full, what that means, too."""
    power = verdict["power"]
    smallest, needed = power["minimum_detectable"], power["questions_for_margin"]
    noun = "question" if power["n"] == 1 else "questions"
    if smallest is None:
        return f"What {power['n']} {noun} could notice cannot be told: {power['note']}."
    seeds = power.get("seeds")
    asked = f"{power['n']} {noun}" + (f" and {seeds} training seeds" if seeds else "")
    start = f"With {asked}, differences under {smallest:.1f} points go unnoticed"
    if brief:
        return f"{start}."
    start += " (one of that size is found four times in five)."
    if round(smallest, 1) <= power["margin"] or needed is None:
        return start
    return (
        f"{start} To notice {power['margin']:g} points takes about {needed:,} questions like these."
    )


def missing_sentence(verdict: Mapping[str, Any]) -> str | None:
    """What the missing judgements could change; None where none is missing."""
    missing = verdict["missing"]
    if not missing.get("touched", missing["pairs_lost"]):
        return None
    low, high = missing["bounds"]
    text = (
        f"{lacking(missing)} for one of the answers or both. Had these scores been the worst possible, the difference would be {points(low)}; the best "
        f"possible, {points(high)} (interval over both {interval(missing['bounds_ci95'])}). "
    )
    if not missing["must_agree"]:
        return (
            f"{text}They are few, and that they fail more for one model is not shown ({missing['base_only']} of the "
            f"base's alone, {missing['tuned_only']} of the tuned model's alone), so these bounds are only reported."
        )
    if verdict["verdict"] == missing["verdict_without"]:
        return text + "The verdict is the same in both cases."
    return text + f"So `{missing['verdict_without']}` cannot be claimed."


def agreement(verdict: Mapping[str, Any], *, brief: bool = False) -> str:
    """Whether the other estimators see what the deciding interval sees; `brief` for the terminal."""
    names = {
        "bootstrap": "bootstrap",
        "sign_flip": "sign flips",
        "wilcoxon": "Wilcoxon",
        "win_tie_loss": "wins and losses",
        "length_adjusted": "equal length",
    }
    odd = [names[name] for name in verdict["robustness"]["disagree"]]
    if verdict["primary"]["ci95"] is None:
        return "There is no interval to compare the other estimators with."
    if not odd:
        return "The other estimators agree."
    if brief:
        return f"Other estimators that disagree: {', '.join(odd)}."
    return (
        f"The other estimators do not all agree with the interval that decides: {', '.join(odd)}."
    )


def other_estimators(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figures, what it asks) for each estimator that is shown and decides nothing."""
    found = verdict["robustness"]
    draws, flips, ranks = found["bootstrap"], found["sign_flip"], found["wilcoxon"]
    wins, length = found["win_tie_loss"], found["length_adjusted"]
    rows = [
        (
            "bootstrap interval",
            interval(draws["ci95"]) if draws["ci95"] else f"none: {draws['note']}",
            f"the same interval from {draws['resamples']:,} samples drawn from the questions, whole groups "
            "at a time",
        ),
        (
            "sign-flip test",
            f"p {_p(flips['p_value'])}",
            "how often so large a difference arises when base and tuned are swapped at random",
        ),
        (
            "Wilcoxon signed-rank test",
            f"p {_p(ranks['p_value'])}",
            "the order of the differences only, so that a few extreme ones weigh little",
        ),
        (
            "wins against losses",
            f"{wins['win']} to {wins['loss']}, {wins['tie']} ties, p {_p(wins['p_value'])}",
            "which answer is better, not by how much; near-duplicates count once. "
            + (
                f"Won {wins['win_share']:.0%} of those decided "
                f"({wins['win_share_ci95'][0]:.0%} to {wins['win_share_ci95'][1]:.0%})"
                if wins["win_share"] is not None
                else "None is decided"
            ),
        ),
    ]
    rows += overall_rows(verdict)
    if length["difference"] is None:
        rows.append(("at equal length", "–", f"cannot be estimated: {length['note']}"))
        return rows
    note = f"; {length['note']}" if length["note"] else ""
    rows.append(
        (
            "at equal length",
            f"{points(length['difference'])} ({interval(length['ci95'])})",
            "the difference were both answers equally long; a doubled length goes with "
            f"{points(length['points_per_doubling'])} points{note}",
        )
    )
    return rows


def _p(value: float | None) -> str:
    text = p_value(value)
    return text if value is None or text.startswith("<") else f"= {text}"
