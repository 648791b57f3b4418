"""The report: report.html for reading, report.md for pasting, verdict.json for machines, a terminal table.

`write_report` reads the run folder and a verdict and writes report.html (one file, opens offline,
no request to anywhere), report.md, and the copy of verdict.json: at the top of the folder for the
judge that the run was configured with, inside judgements/<judge>/ for any further one. Everything
from data and models is text to it and is escaped. `summary` is the table for the terminal.
Decides nothing: all figures come from verdict.json or from the same pairing.
"""

from __future__ import annotations

from gemma_lora.report.seeds import seeds_summary, write_seeds_report
from gemma_lora.report.terminal import summary
from gemma_lora.report.writing import write_report

__all__ = ["seeds_summary", "summary", "write_report", "write_seeds_report"]
