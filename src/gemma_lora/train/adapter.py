"""The trained adapter to disk, proven by loading it again with plain PEFT.

Writes the adapter folder through `model.save_adapter`, takes the adapter's layers off the base model
and puts them back from the folder with `PeftModel.from_pretrained`, so that no second copy of the
base is loaded; the logits must be the same. With sharded weights the other processes make the same
passes meanwhile (`take_part`). ModelError where the logits differ, or where the adapter changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from gemma_lora.errors import ModelError
from gemma_lora.model import BaseRef, save_adapter
from gemma_lora.train.packing import Batch

__all__ = ["save_verified", "take_part"]

_PASSES = 3
"""Forward passes that `save_verified` makes."""


def save_verified(
    model: PeftModel, ref: BaseRef, folder: Path, probe: Batch, *, extra: Mapping[str, str]
) -> None:
    """Save the live adapter with the `extra` text files, and prove it. `model` is used up by that."""
    live = _logits(model, probe)
    save_adapter(model, folder, ref, extra=extra)
    base = cast(PreTrainedModel, model.unload())
    again = PeftModel.from_pretrained(base, str(folder))
    loaded = _logits(again, probe)
    if not torch.allclose(loaded, live, rtol=1e-5, atol=1e-5):
        off = float((loaded - live).abs().max())
        raise ModelError(
            f"the saved adapter gives other logits than the trained one (largest difference {off:.3g})",
            where=str(folder),
            remedy="report it with the model's name and the versions of peft and transformers",
        )
    with again.disable_adapter():
        if torch.equal(_logits(again, probe), loaded):
            raise ModelError(
                "the trained adapter changes nothing in the model's output",
                where=str(folder),
                remedy="train for more steps or with a higher --learning-rate",
            )


def take_part(model: PeftModel, probe: Batch) -> None:
    """The passes of `save_verified` in a process that holds a part of the weights it needs."""
    for _ in range(_PASSES):
        _logits(model, probe)


def _logits(model: PeftModel, probe: Batch) -> Tensor:
    model.eval()
    with torch.no_grad():
        device = next(model.parameters()).device
        return model(input_ids=probe.input_ids.to(device), use_cache=False).logits.float().cpu()
