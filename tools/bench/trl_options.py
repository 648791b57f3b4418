"""TRL's switches: what is compared, and everything its documents recommend that was tried.

`DEFAULTS` is what SFTConfig gives by itself, in the precision of the comparison (it would take bf16).
`BEST` packs and takes what makes it fastest on a CPU, `LEAN` packs and keeps gradient checkpointing
(its default). `SWITCHES` are all of those, each tried by `python -m bench switches`; not its other precision,
bf16: on a processor without bf16 units a step took 555 s that takes 17 s in fp32.
"""

from __future__ import annotations

import importlib.util
from typing import Any

PACKED = {"packing": True, "packing_strategy": "bfd"}
DEFAULTS: dict[str, Any] = {}
BEST: dict[str, Any] = {**PACKED, "gradient_checkpointing": False}
LEAN: dict[str, Any] = {**PACKED}

SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": DEFAULTS,
    "gradient_checkpointing=False": {"gradient_checkpointing": False},
    "packing (bfd)": LEAN,
    "packing (bfd_split)": {**PACKED, "packing_strategy": "bfd_split"},
    "packing (wrapped)": {**PACKED, "packing_strategy": "wrapped"},
    "packing, gradient_checkpointing=False": BEST,
    "packing, packs of 512": {**BEST, "max_length": 512},
    "packing, packs of 2048": {**BEST, "max_length": 2048},
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
    "packing, loss_type=chunked_nll": {**BEST, "loss_type": "chunked_nll"},
    "packing, attention: eager": {**BEST, "attention": "eager"},
    "packing, attention: flex_attention": {**BEST, "attention": "flex_attention"},
    "packing, attention: flash_attention_2": {**BEST, "attention": "flash_attention_2"},
    "packing, attention: kernels-community/flash-attn2": {
        **BEST,
        "attention": "kernels-community/flash-attn2",
    },
    "packing, torch_compile": {**BEST, "torch_compile": True},
    "packing, use_kernels": {**BEST, "use_kernels": True},
    "packing, use_liger_kernel": {**BEST, "use_liger_kernel": True},
    "packing, activation_offloading": {**BEST, "activation_offloading": True},
}
"""Name to SFTConfig's fields; `attention` and `use_kernels` are for loading the model."""


def best_on(device: str) -> dict[str, Any]:
    """BEST, on a GPU with the kernels that are installed there."""
    if device != "cuda":
        return BEST
    found = dict(BEST)
    if importlib.util.find_spec("flash_attn"):
        found["attention"] = "flash_attention_2"
    if importlib.util.find_spec("liger_kernel"):
        found["use_liger_kernel"] = True
    return found
