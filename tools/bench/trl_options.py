"""TRL's switches: what is compared, and everything its documents recommend that was tried.

`DEFAULTS` is what SFTConfig gives by itself, in the precision of the comparison (it would take bf16).
`FAST` packs and computes nothing twice, `LEAN` packs and keeps gradient checkpointing (its default).
`best_on` is the
fastest that `make bench-switches` found. `SWITCHES` are all of those, each tried once; not its other precision, bf16:
on a processor without bf16 units a step took 555 s that takes 17 s in fp32.
"""

from __future__ import annotations

import importlib.util
from typing import Any

PACKED = {"packing": True, "packing_strategy": "bfd"}
DEFAULTS: dict[str, Any] = {}
FAST: dict[str, Any] = {**PACKED, "gradient_checkpointing": False}
SHORT_PACKS: dict[str, Any] = {**FAST, "max_length": 512}
LEAN: dict[str, Any] = {**PACKED}

SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": DEFAULTS,
    "gradient_checkpointing=False": {"gradient_checkpointing": False},
    "packing (bfd)": LEAN,
    "packing (bfd_split)": {**PACKED, "packing_strategy": "bfd_split"},
    "packing (wrapped)": {**PACKED, "packing_strategy": "wrapped"},
    "packing, gradient_checkpointing=False": FAST,
    "packing, packs of 512": SHORT_PACKS,
    "packing, packs of 2048": {**FAST, "max_length": 2048},
    "packing, selective checkpointing": {
        **PACKED,
        "gradient_checkpointing_kwargs": {"selective": True},
    },
    "padding_free": {"padding_free": True, "max_length": None},
    "padding_free, gradient_checkpointing=False": {
        "padding_free": True,
        "max_length": None,
        "gradient_checkpointing": False,
    },
    "packing, loss_type=chunked_nll": {**FAST, "loss_type": "chunked_nll"},
    "packing, attention: eager": {**FAST, "attention": "eager"},
    "packing, attention: flex_attention": {**FAST, "attention": "flex_attention"},
    "packing, attention: flash_attention_2": {**FAST, "attention": "flash_attention_2"},
    "packing, attention: kernels-community/flash-attn2": {
        **FAST,
        "attention": "kernels-community/flash-attn2",
    },
    "packing, torch_compile": {**FAST, "torch_compile": True},
    "packing, use_kernels": {**FAST, "use_kernels": True},
    "packing, use_liger_kernel": {**FAST, "use_liger_kernel": True},
    "packing, activation_offloading": {**FAST, "activation_offloading": True},
}
"""Name to SFTConfig's fields; `attention` and `use_kernels` are for loading the model."""


def best_on(device: str, longest: int) -> dict[str, Any]:
    """On a CPU short packs, where the longest row fits into them; on a GPU the kernels installed there."""
    if device != "cuda":
        return SHORT_PACKS if longest <= SHORT_PACKS["max_length"] else FAST
    found = dict(FAST)
    if importlib.util.find_spec("flash_attn"):
        found["attention"] = "flash_attention_2"
    if importlib.util.find_spec("liger_kernel"):
        found["use_liger_kernel"] = True
    return found
