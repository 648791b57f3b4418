"""From judgements to the verdict: `pairing` joins them by question, `stage` estimates and applies the
rule of `gemma_lora.verdict`, `robustness` computes what stands beside it, `caveats` says what a reader
must know before believing it, `foresight` what judging could show, before it is paid for; `seeds` does
all this for the runs of several training seeds together, `recipe` what stands beside their verdict.
"""

from __future__ import annotations

from gemma_lora.decision.foresight import foresee
from gemma_lora.decision.recipe import renewed_seeds
from gemma_lora.decision.seeds import decide_seeds
from gemma_lora.decision.stage import SCHEMA_VERSION, decide
from gemma_lora.decision.worth import renewed

__all__ = ["SCHEMA_VERSION", "decide", "decide_seeds", "foresee", "renewed", "renewed_seeds"]
