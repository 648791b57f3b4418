"""Tiny random models of every family of the table, deep enough to hold all that is special in each.

A variant is one shape of a `model_type`: sliding and full attention alternate, and where the family
has them there are layers that share keys and values, per-layer inputs, larger heads in the full
layers, keys that serve as values, MLPs of double width, and experts. Rows longer than `WINDOW` tokens
leave the sliding window. Tokenizers have the family's own control ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from support.tiny import TEMPLATE_1, TEMPLATE_3, small_tokenizer

WINDOW = 16
GEMMA_1 = {106: "<start_of_turn>", 107: "<end_of_turn>"}
GEMMA_3 = {105: "<start_of_turn>", 106: "<end_of_turn>"}
GEMMA_4 = {
    50: "<|tool_response>",
    98: "<|think|>",
    100: "<|channel>",
    101: "<channel|>",
    105: "<|turn>",
    106: "<turn|>",
}

# What the chat template of google/gemma-4-E2B-it (revision 8995379, carried by TRL 1.16 as
# gemma4_v5.jinja) does with plain text turns; tools, images and reasoning fields are left out.
TEMPLATE_4 = (
    "{%- macro strip_thinking(text) -%}{%- set ns = namespace(result='') -%}"
    "{%- for part in text.split('<channel|>') -%}"
    "{%- set ns.result = ns.result + part.split('<|channel>')[0] -%}"
    "{%- endfor -%}{{- ns.result | trim -}}{%- endmacro -%}"
    "{{- bos_token -}}{%- set loop_messages = messages -%}"
    "{%- set enable_thinking = enable_thinking | default(false) -%}"
    "{%- if enable_thinking or messages[0]['role'] in ['system', 'developer'] -%}"
    "{{- '<|turn>system\\n' -}}{%- if enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}"
    "{%- if messages[0]['role'] in ['system', 'developer'] -%}"
    "{{- messages[0]['content'] | trim -}}{%- set loop_messages = messages[1:] -%}{%- endif -%}"
    "{{- '<turn|>\\n' -}}{%- endif -%}"
    "{%- for message in loop_messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{- '<|turn>' + role + '\\n' -}}"
    "{%- if role == 'model' -%}{{- strip_thinking(message['content']) -}}"
    "{%- else -%}{{- message['content'] | trim -}}{%- endif -%}"
    "{{- '<turn|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}"
)
# Of 12B, 26B-A4B and 31B: with thinking off, the inference prompt closes an empty thought that
# finished conversations do not have.
TEMPLATE_4_LARGE = TEMPLATE_4.replace(
    "{{- '<|turn>model\\n' -}}",
    "{{- '<|turn>model\\n' -}}{%- if not enable_thinking -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}",
)

_S, _F = "sliding_attention", "full_attention"
_SHAPE: dict[str, Any] = {
    "vocab_size": 850,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.2,
}
_WINDOWED = {
    **_SHAPE,
    "sliding_window": WINDOW,
    "num_hidden_layers": 4,
    "layer_types": [_S, _F] * 2,
}
_SHARED = {  # layers 4 to 6 take keys and values of layers 2 and 3
    **_WINDOWED,
    "num_hidden_layers": 6,
    "layer_types": [_S, _S, _F] * 2,
    "num_kv_shared_layers": 3,
    "vocab_size_per_layer_input": 850,
    "hidden_size_per_layer_input": 4,
}
_GEMMA_3N = {
    **_SHARED,
    "laurel_rank": 4,
    "altup_num_inputs": 3,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
}
_CAPPED = {"final_logit_softcapping": 30.0, "global_head_dim": 16}
_GEMMA_4_SMALL = {**_SHARED, **_CAPPED, "use_double_wide_mlp": True}
_GEMMA_4_LARGE = {
    **_WINDOWED,
    **_CAPPED,
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "use_bidirectional_attention": "vision",
}
_EXPERTS = {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
}
_SCALAR = {"query_pre_attn_scalar": 8}


@dataclass(frozen=True)
class Variant:
    """A shape of a family, and the tokenizer that goes with it."""

    name: str
    model_type: str
    config_class: str
    shape: dict[str, Any]
    template: str
    control: dict[int, str] = field(default_factory=lambda: GEMMA_1)
    whole: str | None = None
    """Config class of the checkpoint with further parts that the language model stands in."""

    def __str__(self) -> str:
        return self.name

    @property
    def stop(self) -> int:
        """Id of the end of turn."""
        return max(i for i, text in self.control.items() if "turn" in text)


def _variants() -> list[Variant]:
    small, large, experts = _GEMMA_4_SMALL, _GEMMA_4_LARGE, {**_GEMMA_4_LARGE, **_EXPERTS}
    unified = {
        k: v
        for k, v in large.items()
        if k not in ("attention_k_eq_v", "hidden_size_per_layer_input")
    }
    gemma_4, gemma_4_unified = "Gemma4TextConfig", "Gemma4UnifiedTextConfig"
    return [
        Variant("gemma", "gemma", "GemmaConfig", {**_SHAPE, "num_hidden_layers": 3}, TEMPLATE_1),
        Variant("gemma2", "gemma2", "Gemma2Config", {**_WINDOWED, **_SCALAR}, TEMPLATE_1),
        Variant(
            "gemma3-text",
            "gemma3_text",
            "Gemma3TextConfig",
            {**_WINDOWED, **_SCALAR},
            TEMPLATE_3,
            GEMMA_3,
        ),
        Variant(
            "gemma3-vision",
            "gemma3",
            "Gemma3TextConfig",
            {**_WINDOWED, **_SCALAR},
            TEMPLATE_3,
            GEMMA_3,
            "Gemma3Config",
        ),
        Variant(
            "gemma3n-text", "gemma3n_text", "Gemma3nTextConfig", _GEMMA_3N, TEMPLATE_3, GEMMA_3
        ),
        Variant(
            "gemma3n-whole",
            "gemma3n",
            "Gemma3nTextConfig",
            _GEMMA_3N,
            TEMPLATE_3,
            GEMMA_3,
            "Gemma3nConfig",
        ),
        Variant("gemma4-small", "gemma4_text", gemma_4, small, TEMPLATE_4, GEMMA_4),
        Variant("gemma4-large", "gemma4_text", gemma_4, large, TEMPLATE_4_LARGE, GEMMA_4),
        Variant("gemma4-experts", "gemma4_text", gemma_4, experts, TEMPLATE_4_LARGE, GEMMA_4),
        Variant("gemma4-whole", "gemma4", gemma_4, small, TEMPLATE_4, GEMMA_4, "Gemma4Config"),
        Variant(
            "gemma4-experts-whole",
            "gemma4",
            gemma_4,
            experts,
            TEMPLATE_4_LARGE,
            GEMMA_4,
            "Gemma4Config",
        ),
        Variant(
            "gemma4-unified-text",
            "gemma4_unified_text",
            gemma_4_unified,
            unified,
            TEMPLATE_4_LARGE,
            GEMMA_4,
        ),
        Variant(
            "gemma4-unified-whole",
            "gemma4_unified",
            gemma_4_unified,
            unified,
            TEMPLATE_4_LARGE,
            GEMMA_4,
            "Gemma4UnifiedConfig",
        ),
    ]


VARIANTS = _variants()

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
WHOLE: dict[str, dict[str, Any]] = {
    "gemma3": {
        "vision_config": {**_VISION, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "vision_config": {
            **_VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "position_embedding_size": 64,
        },
        "audio_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [4, 4],
            "output_proj_dims": 16,
        },
    },
    "gemma4_unified": {},  # both other parts are optional
}
"""Further parts of multimodal checkpoints that are small enough to be built here, by `model_type`."""


def text_config(variant: Variant) -> PreTrainedConfig:
    return getattr(transformers, variant.config_class)(**variant.shape)


def random_model(
    variant: Variant, text_class: str, attention: str, *, seed: int = 0
) -> PreTrainedModel:
    """The language model with random weights, fp32, spread so that greedy answers are not constant."""
    torch.manual_seed(seed)
    config = text_config(variant)
    config._attn_implementation = attention
    model = getattr(transformers, text_class)(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.1)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or "altup" in name:  # fresh ones are all equal
                parameter.add_(0.1 * torch.randn(parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.9)
    return model


def save_variant(folder: Path, variant: Variant, text_class: str, attention: str) -> Path:
    """A model folder as the hub has it; a whole checkpoint's further parts are stand-ins by name."""
    tokenizer = small_tokenizer(variant.template, control=variant.control)
    model = random_model(variant, text_class, attention)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        eos_token_id=[1, variant.stop], bos_token_id=2, pad_token_id=0
    ).save_pretrained(folder)
    if variant.whole is not None:
        _make_whole(folder, variant)
    return folder


def _make_whole(folder: Path, variant: Variant) -> None:
    """As `save_pretrained` of the class with vision and sound names its tensors and writes its config."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        "model.language_model." + name.removeprefix("model."): value
        for name, value in tensors.items()
        if name != "lm_head.weight"
    }
    parts: tuple[str, ...] = (
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
        "model.embed_audio.x",
    )
    shared = variant.shape.get("num_kv_shared_layers", 0)  # published ones hold keys of these too
    parts += tuple(
        f"model.language_model.layers.{variant.shape['num_hidden_layers'] - 1 - n}.self_attn.k_proj.weight"
        for n in range(shared)
    )
    renamed |= {name: torch.ones(4, 4) for name in parts}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    config = getattr(transformers, str(variant.whole))(text_config=text_config(variant).to_dict())
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == variant.model_type
