"""What each Gemma family needs and stands: the one table, with its reasons.

Imports no torch, reads and writes nothing. Every row has passed the whole of tests/test_families.py
on tiny random models made from its config class. Refuses (ModelError) every `model_type` that is not
in the table, and kinds of a family that are no causal language model, because an unexamined
architecture degrades without a word (wrong attention backend, vision layers trained).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

from packaging.version import Version

from gemma_lora.errors import EnvironmentFault, ModelError
from gemma_lora.model.templates import TURNS_1_TO_3, TURNS_4

__all__ = ["FAMILIES", "Family", "check_kind", "check_versions", "family_of", "notes_of"]

_EXACT = "exact for this family"
_PACKS = "packed logits and gradients equal those of single rows"
_FP16 = (
    "activations of {} exceed 65,504, the largest fp16 number, and become infinite "
    "(transformers#36822)"
)
# old and new layout of the same checkpoint; without it nothing would be loaded at all
_LANGUAGE_MODEL = {r"^(model\.)?language_model\.(model\.)?": "model."}
_BIDIRECTIONAL = (
    "it attends in both directions, as models for embeddings do, and cannot be trained to answer"
)


@dataclass(frozen=True)
class Kind:
    """Models of a family whose config has `value` at `key`, and what is to be said about them."""

    key: str
    value: object
    text: str


@dataclass(frozen=True)
class Family:
    """One architecture as it is loaded, trained and asked here."""

    model_type: str
    title: str
    text_class: str
    """Class in transformers that is loaded: always the text-only one."""
    text_config: str | None = None
    """Attribute of the config that holds the text model's, for checkpoints with further parts."""
    key_mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names in the checkpoint (regex) to names in the text-only class."""
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"transformers": "5.23", "peft": "0.21"}
    )
    """The oldest packages with which the proof was made; older ones are refused."""

    attention: str = "sdpa"
    """Attention backend that computes what the family defines, on every device."""
    attention_reason: str = _EXACT
    fp16_refusal: str | None = None
    """Why 16-bit floats with a short exponent are refused, or None where the family stands them."""
    packs: bool = True
    """Whether several rows in one sequence, with position ids that begin anew and neither mask nor
    cache, give what the rows give singly."""
    packing_reason: str = _PACKS

    layers: str = r"model\.layers\.\d+\.(?:self_attn|mlp)\."
    """What the names (regex) of the linear layers that LoRA may wrap begin with: those of the
    language model's attention and MLP. Routers, per-layer inputs and output layer are not."""
    published_template: str = TURNS_1_TO_3
    """Stands in where a tokenizer has no chat template."""
    stop_tokens: tuple[str, ...] = ("<end_of_turn>",)
    """End an answer, besides `<eos>`, the template's own end and the generation config's."""
    gemma_terms: bool = True
    """Whether the weights are under the Gemma Terms of Use where no model card says otherwise."""

    norms: int = field(kw_only=True)
    """Normalisations of a layer over the hidden size, as memory is counted."""
    head_norms: bool = field(kw_only=True)
    """Whether queries and keys are normalised, and so kept twice."""
    fused_attention: str | None = None
    """Class that asks for q, k and v of one input, always and in this order: train/fused.py computes
    them together. This and the next two are names in transformers; None: autograd computes it."""
    fused_norm: str | None = None
    """Class that normalises by (1 + weight) in fp32."""
    fused_mlp: str | None = None
    """Class that computes down(act(gate(x)) * up(x)) and nothing else."""

    refused: tuple[Kind, ...] = ()
    notes: tuple[Kind, ...] = ()
    """What a user must know of such a model before training it."""


_GEMMA_3 = Family(
    "gemma3_text",
    "Gemma 3",
    "Gemma3ForCausalLM",
    fp16_refusal=_FP16.format("Gemma 3"),
    norms=4,
    head_norms=True,
    fused_attention="Gemma3Attention",
    fused_norm="Gemma3RMSNorm",
    fused_mlp="Gemma3MLP",
    refused=(Kind("use_bidirectional_attention", True, _BIDIRECTIONAL),),
)
_GEMMA_3N = Family(
    "gemma3n_text",
    "Gemma 3n",
    "Gemma3nForCausalLM",
    fp16_refusal=_FP16.format("Gemma 3n"),
    norms=4,
    head_norms=True,  # layers that share keys and values ask for q only; its MLP drops most of gate
)
_GEMMA_4 = Family(
    "gemma4_text",
    "Gemma 4",
    "Gemma4ForCausalLM",
    fp16_refusal=_FP16.format("Gemma 4"),
    published_template=TURNS_4,
    stop_tokens=("<turn|>",),
    gemma_terms=False,  # Apache-2.0
    norms=4,
    head_norms=True,
    fused_mlp="Gemma4TextMLP",
    refused=(Kind("use_bidirectional_attention", "all", _BIDIRECTIONAL),),
    notes=(
        Kind(
            "enable_moe_block",
            True,
            "a mixture of experts: attention and the dense MLP of each layer are trained, experts "
            "and router stay as they are (they are no linear layers)",
        ),
    ),
)
_GEMMA_4_UNIFIED = replace(
    _GEMMA_4,
    model_type="gemma4_unified_text",
    text_class="Gemma4UnifiedForCausalLM",
    fused_mlp="Gemma4UnifiedTextMLP",
)


def _whole(text: Family, model_type: str) -> Family:
    """The row for checkpoints that hold images' and sounds' parts besides the language model."""
    return replace(
        text,
        model_type=model_type,
        title=f"{text.title} (language model of a multimodal checkpoint)",
        text_config="text_config",
        key_mapping=_LANGUAGE_MODEL,
    )


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "gemma",
            "Gemma 1",
            "GemmaForCausalLM",
            norms=2,
            head_norms=False,
            fused_attention="GemmaAttention",
            fused_norm="GemmaRMSNorm",
            fused_mlp="GemmaMLP",
        ),
        Family(
            "gemma2",
            "Gemma 2",
            "Gemma2ForCausalLM",
            attention="eager",
            attention_reason="its soft-capped attention scores exist in no fused kernel of PyTorch",
            norms=4,
            head_norms=False,
            fused_attention="Gemma2Attention",
            fused_norm="Gemma2RMSNorm",
            fused_mlp="Gemma2MLP",
        ),
        _GEMMA_3,
        _whole(_GEMMA_3, "gemma3"),
        _GEMMA_3N,
        _whole(_GEMMA_3N, "gemma3n"),
        _GEMMA_4,
        _whole(_GEMMA_4, "gemma4"),
        _GEMMA_4_UNIFIED,
        _whole(_GEMMA_4_UNIFIED, "gemma4_unified"),
    )
}

_NOT_YET = {
    "diffusion_gemma": "DiffusionGemma",
    "embedding_gemma2": "EmbeddingGemma 2",
    "gemma4_assistant": "a draft model of Gemma 4",
    "recurrent_gemma": "RecurrentGemma",
    "shieldgemma2": "ShieldGemma 2",
    "paligemma": "PaliGemma",
    "t5gemma": "T5Gemma",
    "t5gemma2": "T5Gemma 2",
    "vaultgemma": "VaultGemma",
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


def check_kind(family: Family, text_config: Any, *, where: str) -> None:
    """ModelError for a model of a known family that is no causal language model."""
    for kind in family.refused:
        if getattr(text_config, kind.key, None) == kind.value:
            raise ModelError(
                f"{family.title} model that cannot be trained here: {kind.text}",
                where=where,
                details=[f"its config has {kind.key} = {kind.value!r}"],
                remedy="choose a model that answers; its id ends in -it",
            )


def notes_of(family: Family, text_config: Any) -> tuple[str, ...]:
    """What the user must know of this model before training it."""
    return tuple(k.text for k in family.notes if getattr(text_config, k.key, None) == k.value)


def check_versions(family: Family) -> None:
    """EnvironmentFault for installed packages older than the family's proof."""
    old = [
        f"{name} {metadata.version(name)} is installed, {family.title} needs {least}"
        for name, least in family.versions.items()
        if Version(metadata.version(name)) < Version(least)
    ]
    if old:
        raise EnvironmentFault(
            f"{family.title} is not trained correctly by the installed packages",
            details=old,
            remedy="python -m pip install --upgrade " + " ".join(family.versions),
        )
