"""What judging can show, said before it spends anything: the smallest difference it would notice.

Reads answers/test/base.jsonl (how many questions, in which clusters) and the verdicts that judges gave
in this folder before; writes nothing. The spread of the differences is taken from such a verdict, or
assumed, and the sentence says which.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from gemma_lora.errors import DataError
from gemma_lora.records import Answer
from gemma_lora.rundir import RunDir, iter_jsonl, read_saved
from gemma_lora.statistics import effective_questions, minimum_detectable, questions_needed
from gemma_lora.verdict import FEWEST, HIGHEST, LOWEST, MARGIN

__all__ = ["ASSUMED_DEVIATION", "Foresight", "foresee"]

ASSUMED_DEVIATION = 2.0
"""Standard deviation of the paired differences of a 1 to 10 judge, where none was observed yet."""


@dataclass(frozen=True)
class Foresight:
    """What `n` questions, worth `effective` independent ones, can show."""

    n: int
    groups: int
    """Clusters of near-duplicates, of which the rule takes `verdict.FEWEST`."""
    effective: float
    deviation: float
    """Of the differences, as one unlike question among n would have it."""
    pilot: str | None
    """The judge whose verdict gave the deviation; None: assumed."""
    minimum_detectable: float | None
    questions_for_margin: int

    @property
    def sentence(self) -> str:
        spread = (
            f"the standard deviation of {self.deviation:.1f} that {self.pilot} gave here"
            if self.pilot
            else f"an assumed standard deviation of {self.deviation:.1f}"
        )
        alone = self.effective > self.n - 0.5
        asked = f"{self.n} {'question' if self.n == 1 else 'questions'}"
        grouped = asked if alone else f"{asked} in {self.groups} groups of near-duplicates"
        if self.groups < 2:
            where = "" if self.n == 1 else " in one group of near-duplicates"
            return f"{asked}{where} can show no difference at all"
        if self.groups < FEWEST:
            unit = "unlike ones" if alone else "groups"
            return f"with {grouped} the verdict is `inconclusive` whatever the scores: it takes {FEWEST} {unit}"
        if self.minimum_detectable is None or self.minimum_detectable > HIGHEST - LOWEST:
            return (
                f"with {grouped} (worth {self.effective:.1f} unlike ones if those of a group differ alike) even the "
                "largest differences may go unnoticed: groups count, not questions"
            )
        worth = "" if alone else f" (worth {self.effective:.0f} unlike ones)"
        return (
            f"with {asked}{worth}, differences under {self.minimum_detectable:.1f} points go "
            f"unnoticed more often than one time in five, by {spread}; "
            f"to notice {MARGIN:g} takes {self.questions_for_margin}"
            + ("" if alone else " like these" if self.pilot else " unlike ones")
        )


def foresee(run: RunDir, judge_slug: str) -> Foresight:
    """Power by the t-test; near-duplicates are taken to differ alike, as one question would."""
    sizes = Counter(row.cluster for row in iter_jsonl(run.answers("base"), Answer))
    n = sum(sizes.values())
    deviation, pilot = _pilot(run, judge_slug)
    effective = effective_questions(list(sizes.values())) if n else 0.0
    smallest = None
    if effective >= 2:
        # an observed deviation was reckoned from these questions, near-duplicates included
        alike = n if pilot else effective
        smallest = minimum_detectable(deviation / math.sqrt(alike), effective - 1)
    needed = questions_needed(MARGIN, deviation)
    return Foresight(n, len(sizes), effective, deviation, pilot, smallest, needed)


def _pilot(run: RunDir, judge_slug: str) -> tuple[float, str | None]:
    """The spread that this judge saw here before, else the largest that other language models saw."""
    seen: list[tuple[bool, float, str]] = []
    for file in sorted(run.root.glob("judgements/*/verdict.json")):
        try:
            saved = read_saved(file)
        except DataError:
            continue  # it is made anew, or the fault is named when its figures are shown
        power: Any = saved.get("power")
        judge: Any = saved.get("judge")
        if not isinstance(power, dict) or not isinstance(judge, dict):
            continue  # of a version that did not save it
        deviation = cast(dict[str, Any], power).get("deviation")
        facts = cast(dict[str, Any], judge)
        own = file.parent.name == judge_slug
        if not isinstance(deviation, int | float) or deviation <= 0:
            continue  # no spread was seen
        if own or facts.get("is_llm"):
            seen.append((own, float(deviation), str(facts.get("name"))))
    if not seen:
        return ASSUMED_DEVIATION, None
    _, deviation, name = max(seen)
    return deviation, name
