"""The judge's noise in words (`--aa`): what it said of the same answers when asked a second time.

Pure: takes verdict.json, returns sentences for report.html, report.md and the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_lora.report.wording import interval, points

__all__ = ["brief", "sentences"]


def brief(verdict: Mapping[str, Any]) -> str | None:
    """One line for the terminal; None where it was not asked for."""
    found = verdict["aa"]
    if found is None:
        return None
    if not found["n"]:
        return f"judge against itself: {found['note']}"
    text = f"judge against itself: {found['mean_absolute']:.2f} points apart on average"
    smallest = found["minimum_detectable"]
    return text if smallest is None else f"{text}; over all questions it hides under {smallest:.2f}"


def sentences(verdict: Mapping[str, Any]) -> list[str]:
    """What was found, what it means for the difference, and what this many questions can notice."""
    found, primary = verdict["aa"], verdict["primary"]
    if found is None:
        return []
    if not found["n"]:
        return [f"The judge was asked twice about the base's answers, but {found['note']}."]
    times = (
        "" if found["repeats"] < 2 else f" ({found['repeats']} judgements each time, their mean)"
    )
    if not found["unequal_share"]:
        return [
            f"Asked twice about the same {found['n']} base answers{times}, the judge gave the same overall scores: "
            "it is perfectly repeatable, which says nothing on whether it is right."
        ]
    lines = [
        f"Asked twice about the same {found['n']} base answers{times}, the judge's overall differs by "
        f"{found['mean_absolute']:.2f} points on average, and at all on {found['unequal_share']:.0%} of them; "
        f"the second time it is {points(found['difference'])} on the whole (95 % interval "
        f"{interval(found['ci95'])})."
    ]
    smallest = found["minimum_detectable"]
    lines.append(
        f"On a single answer that is a standard deviation of {found['within_answer']:.2f}; "
        + (
            "what it makes of the mean cannot be told."
            if smallest is None
            else f"over {found['n']} questions it averages out, and alone would hide differences under {smallest:.2f} "
            f"points. Measured was {points(primary['difference'])}."
        )
    )
    return lines
