"""Whether a judge is related to what it judges: by the names of models, and by the architecture where it is known.

Judges favour their own family's style (GPT-4 preferred its own answers in 87 % of pairs of equal length; the
cause is familiarity, arXiv 2410.21819). So a judge is warned of that is of the tuned model's family (Gemma, and
Gemini, which it is made from) or of the family of the model that wrote the training answers (`data.teacher`).
A name that says nothing of its family is not warned of. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["TUNED", "families_of", "kinship"]

TUNED = "gemma/gemini"
_FAMILIES: dict[str, str] = {
    TUNED: r"gemma|gemini",
    "gpt": r"\b(?:chat)?gpt|\bo[134]\b|openai|davinci|\bcodex\b",
    "claude": r"claude|anthropic|\b(?:opus|sonnet|haiku)\b",
    "llama": r"(?<!o)llama|vicuna|\balpaca\b",
    "qwen": r"qwen|\bqwq\b",
    "mistral": r"(?:mi|mini|code|magi|dev)stral|(?:mi|pi)xtral",
    "deepseek": r"deepseek",
    "phi": r"\bphi\d*\b",
    "grok": r"\bgrok",
    "command": r"\bcommand\b|cohere|\baya\b",
    "glm": r"\b(?:chat)?glm",
    "kimi": r"\bkimi\b|moonshot",
    "nova": r"\bnova\b",
    "granite": r"\bgranite",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _FAMILIES.items()}


def families_of(*names: str) -> frozenset[str]:
    """The families that the names of a model tell of: several for a distilled one, none where they say nothing."""
    plain = [re.sub(r"[_\s]+", "-", name) for name in names]
    return frozenset(
        family for family, known in _PATTERNS.items() if any(known.search(n) for n in plain)
    )


def kinship(judge: str, families: Iterable[str], teacher: str | None) -> list[str]:
    """A sentence for each relation of the judge `judge`, which is of `families`."""
    own = frozenset(families)
    lines: list[str] = []
    if TUNED in own:
        lines.append(
            f"the judge {judge} is a relative of the tuned model (Gemma): judges favour their own family's "
            "style; a judge of another family is a better witness"
        )
    for family in sorted(own & families_of(teacher or "")):
        lines.append(
            f"the judge {judge} is of the family that wrote the training answers ({family}; teacher: {teacher}): "
            "judges favour their own family's style, which is the style the tuned model learned; a judge of "
            "another family is a better witness"
        )
    return lines
