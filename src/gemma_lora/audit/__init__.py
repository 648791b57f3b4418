"""The data stage: what was read, what is wrong with it, and the split that training goes by.

`prepare` writes split/{train,validation,test}.jsonl and audit.json into a run folder, `audit` finds
the same facts without one, `show` prints them on one screen. DataError (exit 2), with the remedy,
for whatever would spoil training.
"""

from __future__ import annotations

from gemma_lora.audit.stage import audit, prepare
from gemma_lora.audit.view import show

__all__ = ["audit", "prepare", "show"]
