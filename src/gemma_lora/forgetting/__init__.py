"""What the tuned model lost: both models on a probe of general questions.

`probe` reads the questions, `likelihood` computes, `stage` writes forgetting/. The verdict on the
figures is `decision.forgetting`'s.
"""

from __future__ import annotations

from gemma_lora.forgetting.probe import Probe, ProbeItem, load_probe
from gemma_lora.forgetting.stage import measure, need_probe

__all__ = ["Probe", "ProbeItem", "load_probe", "measure", "need_probe"]
