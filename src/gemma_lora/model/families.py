"""What each Gemma family needs and stands: the one table, with its reasons.

Reads and writes nothing. Refuses (ModelError) every `model_type` that is not in the table, because
an unexamined architecture degrades without a word (wrong attention backend, vision layers trained).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemma_lora.errors import ModelError

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One architecture as it is loaded here."""

    model_type: str
    title: str
    text_class: str
    """Class in transformers that is loaded: always the text-only one."""
    attention: str
    """Attention backend that computes what the family defines."""
    attention_reason: str
    fp16_refusal: str | None = None
    """Why 16-bit floats with a short exponent are refused, or None where the family stands them."""
    text_config: str | None = None
    """Attribute of the config that holds the text model's, for checkpoints with a vision part."""
    key_mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names in the checkpoint (regex) to names in the text-only class."""
    packs: bool = True
    """Whether several rows in one sequence, with position ids that begin anew and neither mask nor
    cache, give what the rows give singly (tests/test_families.py)."""
    packing_reason: str = "packed logits and gradients equal those of single rows"


_GEMMA3_FP16 = (
    "activations of Gemma 3 exceed 65,504, the largest fp16 number, and become infinite "
    "(transformers#36822)"
)

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family("gemma", "Gemma 1", "GemmaForCausalLM", "sdpa", "exact for this family"),
        Family(
            "gemma2",
            "Gemma 2",
            "Gemma2ForCausalLM",
            "eager",
            "its soft-capped attention scores exist in no fused kernel of PyTorch",
        ),
        Family(
            "gemma3_text",
            "Gemma 3",
            "Gemma3ForCausalLM",
            "sdpa",
            "exact for this family",
            fp16_refusal=_GEMMA3_FP16,
        ),
        Family(
            "gemma3",
            "Gemma 3 (language model of a vision checkpoint)",
            "Gemma3ForCausalLM",
            "sdpa",
            "exact for this family",
            fp16_refusal=_GEMMA3_FP16,
            text_config="text_config",
            # old and new layout of the same checkpoint; without it nothing would be loaded at all
            key_mapping={r"^(model\.)?language_model\.(model\.)?": "model."},
        ),
    )
}

_NOT_YET = {
    "gemma3n": "Gemma 3n",
    "gemma3n_text": "Gemma 3n",
    "gemma4": "Gemma 4",
    "gemma4_text": "Gemma 4",
    "recurrent_gemma": "RecurrentGemma",
    "paligemma": "PaliGemma",
    "t5gemma": "T5Gemma",
}


def family_of(model_type: object, *, where: str) -> Family:
    """The row for a config's `model_type`; ModelError for anything else."""
    known = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if known is not None:
        return known
    titles = ", ".join(dict.fromkeys(family.title.split(" (")[0] for family in FAMILIES.values()))
    if isinstance(model_type, str) and model_type in _NOT_YET:
        found = (
            f"{_NOT_YET[model_type]} is not yet examined: its attention, masks and template "
            "have not been proven to train correctly here"
        )
    else:
        found = f"the model is of type {model_type!r}, which is no Gemma family"
    raise ModelError(
        found,
        where=where,
        expected=f"a model of the families {titles}",
        remedy="for example --model google/gemma-2b-it, google/gemma-2-2b-it or google/gemma-3-1b-it",
    )
