"""Training: from the split's rows to a LoRA adapter, resumable at every moment.

Read in this order: `stage` (the stage as a whole), `plan` and `packing` (what a step is), `loss`,
`path`, `attention`, `fused` and `masks` (how it is computed), `trainer`
(the one subclass of transformers.Trainer), `state` and `checkpoint`, then the small ones:
`decisions`, `processes`, `progress`, `interrupts`, `outcome`, `card`, `adapter`.
"""

from __future__ import annotations

from gemma_lora.train.decisions import need_trackers
from gemma_lora.train.processes import release
from gemma_lora.train.stage import follow, train

__all__ = ["follow", "need_trackers", "release", "train"]
