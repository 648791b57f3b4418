"""The results table for the terminal, at most 25 lines, each wrapped to the width and none cut off.

Of more warnings than fit, the gravest are shown, each in full, and the rest are counted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from gemma_lora.records import DIMENSIONS
from gemma_lora.report.wording import (
    clean,
    headline,
    interval,
    p_value,
    points,
    score,
    warnings,
)

__all__ = ["summary"]

_MAX_LINES = 25


def summary(verdict: Mapping[str, Any], *, width: int = 100, colour: bool = False) -> str:
    """Means and differences by dimension, verdict, wins and losses, missing scores, warnings."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", "base", "tuned", "difference", "95 % interval", "p"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    rows = [("overall", verdict["primary"])]
    rows += [(name, verdict["dimensions"].get(name)) for name in DIMENSIONS]
    for name, row in rows:
        table.add_row(*_cells(name, row), style="bold" if name == "overall" else None)
    stream = io.StringIO()
    console = RichConsole(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )
    console.print(table)
    console.print()
    word = verdict["verdict"]
    style = {"better": "bold green", "worse": "bold red"}.get(word, "bold yellow")
    line = Text.assemble("verdict: ", (word, style), f". {headline(verdict)}.")
    console.print(line)
    counts, missing = verdict["win_tie_loss"], verdict["unscored"]
    seen = verdict["compared_also_in_training"]
    known = f" ({seen} also in the training rows)" if seen else ""
    console.print(
        f"{verdict['primary']['n']} questions compared{known}; tuned wins {counts['win']}, "
        f"ties {counts['tie']}, losses {counts['loss']}; "
        f"unscored: base {missing['base']}, tuned {missing['tuned']}"
    )
    judge = verdict["judge"]
    note = " (not a language model)" if judge["is_llm"] is False else ""
    console.print(Text(str(clean(f"judge: {judge['name']}{note}"))))
    _warnings(verdict, console, _MAX_LINES - stream.getvalue().count("\n"))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))


def _cells(name: str, row: Mapping[str, Any] | None) -> tuple[str, ...]:
    if row is None:
        return (name, "not measured", "", "", "", "")
    return (
        name,
        score(row["base_mean"]),
        score(row["tuned_mean"]),
        points(row["difference"]),
        interval(row["ci95"]),
        p_value(row["p_value"]),
    )


def _warnings(verdict: Mapping[str, Any], console: RichConsole, room: int) -> None:
    """In full, gravest first, as many as fit into `room` lines; the first one always."""
    told = [str(clean(text)).replace("\n", " ") for text in warnings(verdict)]
    for number, text in enumerate(told):
        # by the columns that it takes on the screen: wide characters count twice
        lines = Text(text).wrap(console, console.width - 2)
        below = number + 1 < len(told)  # keep a line for the count of the others
        if number and len(lines) + below > room:
            left = len(told) - number
            more = "warning is" if left == 1 else "warnings are"
            console.print(f"! {left} more {more} in the report")
            return
        room -= len(lines)
        for place, line in enumerate(lines):
            console.print(Text("  " if place else "! ") + line)
