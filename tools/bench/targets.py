"""What is aimed at, and whether the figures reach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMES = {
    "ours": "gemma-lora, dropout 0.05",
    "ours-no-dropout": "gemma-lora, dropout 0",
    "stock": "stock Trainer + PEFT, padded to the longest",
    "trl": "TRL SFTTrainer, defaults",
    "trl-packed": "TRL, packing and its fastest switches",
    "trl-lean": "TRL, packing and gradient checkpointing",
}
FASTER = {"stock": 2.5, "trl": 3.5, "trl-packed": 3.0}
"""At least so many times the tokens a second."""
SMALLER = {"stock": 1 / 3, "trl": 1 / 3, "trl-packed": 1 / 4}
"""At most such a share of the memory above the weights."""
SHARES = {"ours": 0.45, "ours-no-dropout": 0.55}
"""At least such a share of the machine's matrix-multiply rate."""


@dataclass(frozen=True)
class Check:
    """One target beside what was measured."""

    what: str
    target: str
    found: str
    met: bool
    takes: str = ""
    """What a missed one would take of the machine."""


def checks(summary: Mapping[str, Any]) -> list[Check]:
    """Every target of the main comparison whose contestant ran."""
    found: list[Check] = []
    for other, ratios in summary["ratios"].items():
        if other not in FASTER:
            continue
        speed, memory = ratios["speed"], ratios["memory"]
        # of a matrix product alone, with nothing beside it
        share = FASTER[other] * summary["contestants"][other]["share_of_matmul"]
        found.append(
            Check(
                f"speed against {NAMES[other]}",
                f"at least {FASTER[other]:g}x",
                f"{speed:.2f}x",
                speed >= FASTER[other],
                f"would take {share:.0%} of the matrix-multiply rate",
            )
        )
        found.append(
            Check(
                f"memory against {NAMES[other]}",
                f"at most {SMALLER[other]:.2f}x",
                f"{memory:.2f}x",
                memory <= SMALLER[other],
            )
        )
    for name, share in SHARES.items():
        if name in summary["contestants"]:
            reached = summary["contestants"][name]["share_of_matmul"]
            found.append(
                Check(
                    f"share of the matrix-multiply rate, {NAMES[name]}",
                    f"at least {share:.0%}",
                    f"{reached:.1%}",
                    reached >= share,
                )
            )
    return found
