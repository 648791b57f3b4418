"""`gemma-lora compare RUN RUN ...`: finished runs side by side, quality against cost.

`reading` takes the folders and refuses what cannot be compared, all faults at once; `pairs` says which
runs share questions and judge, and compares the tuned models of those; `facts` gathers it as one JSON
object; `writing` makes compare.html, compare.md and the terminal's table; `chart` draws.
"""

from __future__ import annotations

from gemma_lora.compare.facts import compare
from gemma_lora.compare.terminal import table
from gemma_lora.compare.writing import write

__all__ = ["compare", "table", "write"]
