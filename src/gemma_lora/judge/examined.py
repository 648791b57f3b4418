"""What is known of a judge's agreement with people, as one sentence for reports and documents.

Reads examined.json beside it, which `tools/examine_judge.py evouna` writes from the published file:
the only place of these figures in the package. Judges that were not examined have no sentence.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["figures", "sentence"]


@cache
def figures() -> dict[str, dict[str, Any]]:
    """By the judge's model and version (`lexical-1`): shares of 0 to 1, intervals, counts."""
    file = resources.files("gemma_lora.judge") / "examined.json"
    return json.loads(file.read_text(encoding="utf-8"))


def sentence(model: str) -> str | None:
    """How often the judge `model` agreed with people, on what, and what that does not cover."""
    known = figures().get(model)
    if known is None:
        return None
    low, high = known["accuracy_ci95"]
    return (
        f"Agreement with people: on {known['answers']:,} answers to {known['questions']:,} factual questions "
        f"with short references ({known['data']}), with a cut-off chosen on other questions, `lexical` agrees "
        f"with people's right or wrong on {_percent(known['accuracy'])} % of the answers (95 % interval "
        f"{_percent(low)} to {_percent(high)} %); calling every answer right agrees on "
        f"{_percent(known['always_right'])} %. As a comparison of models it is weaker: of {known['systems_clear']} "
        f"pairs of answering systems that people tell apart, its mean scores order {known['systems_same']} as people "
        f"do and {known['systems_reversed']} the other way round; answers as short as the references gain. "
        "With long references it was not examined (docs/agreement.md)."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
