"""The comparison in the terminal: facts as rows, runs as columns, then pairs and warnings."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gemma_lora.compare.words import figures, pair_sentence, value_text
from gemma_lora.report.terminal import screen
from gemma_lora.report.wording import clean

__all__ = ["table"]


def table(found: Mapping[str, Any], *, width: int = 100, colour: bool = False) -> str:
    """Everything that compare.html shows, but for the chart."""
    stream = io.StringIO()
    console = screen(stream, width=width, colour=colour)
    for text in found["warnings"]:
        if text.startswith("NOT COMPARABLE"):
            console.print(Text(str(clean(text)), style="bold red"))
            console.print()
    for run in found["runs"]:
        several = f", {run['seeds']} training seeds" if run["seeds"] > 1 else ""
        console.print(Text(str(clean(f"{run['label']}  {run['folder']}{several}"))))
    console.print()
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown.add_column("")
    for run in found["runs"]:
        shown.add_column(run["label"], justify="right", overflow="fold")
    for name, cells in figures(found["runs"]):
        shown.add_row(name, *(Text(str(clean(cell))) for cell in cells))
    if found["settings"]:
        shown.add_section()
        for row in found["settings"]:
            cells = [Text(str(clean(value_text(value)))) for value in row["values"]]
            shown.add_row(row["name"], *cells)
    else:
        shown.add_section()
        shown.add_row("settings", *("the same" for _ in found["runs"]))
    console.print(shown)
    console.print()
    for row in found["pairs"]:
        console.print(Text(pair_sentence(row)))
    if not found["pairs"]:
        console.print("no two runs can be compared with each other")
    for text in found["warnings"]:
        if not text.startswith("NOT COMPARABLE"):
            console.print(Text(f"! {clean(text)}"))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))
