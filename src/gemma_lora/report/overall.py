"""The judge's overall beside the mean of its dimensions, as one row of the other estimators.

Pure: takes verdict.json, returns texts. No row where the judge's overall is that mean by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_lora.records import ARMS
from gemma_lora.report.wording import interval, points

__all__ = ["overall_rows"]


def overall_rows(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figures, what it asks), or nothing."""
    found = verdict["overall_check"]
    if found is None or found["difference"] is None:
        return []
    departs, judged = (sum(found[arm][key] for arm in ARMS) for key in ("departs", "judgements"))
    by_arm = ", ".join(f"{arm} {found[arm]['departs']}" for arm in ARMS)
    how = "by the rubric's weights" if len(set((found["weights"] or {}).values())) > 1 else "alike"
    return [
        (
            "overall from the dimensions",
            f"{points(found['difference'])} ({interval(found['ci95'])})",
            f"the difference were overall the mean of the dimensions, weighed {how}; the judge's own overall "
            f"is more than {found['threshold']:g} points away from that in {departs} of {judged} judgements "
            f"({by_arm})",
        )
    ]
