"""The results table for the terminal, at most 25 lines."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from gemma_lora.records import DIMENSIONS
from gemma_lora.report.wording import clean, headline, interval, p_value, points, score

__all__ = ["summary"]

_MAX_LINES = 25


def summary(verdict: Mapping[str, Any], *, width: int = 100, colour: bool = False) -> str:
    """Means and differences by dimension, verdict, wins and losses, missing scores, a line a warning."""
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
    console.print(line, no_wrap=True, overflow="ellipsis")
    counts, missing = verdict["win_tie_loss"], verdict["unscored"]
    console.print(
        f"{verdict['primary']['n']} questions compared; tuned wins {counts['win']}, "
        f"ties {counts['tie']}, losses {counts['loss']}; "
        f"unscored: base {missing['base']}, tuned {missing['tuned']}"
    )
    judge = verdict["judge"]
    note = " (not a language model)" if judge["is_llm"] is False else ""
    console.print(
        Text(str(clean(f"judge: {judge['name']}{note}"))), no_wrap=True, overflow="ellipsis"
    )
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
    """A line each at least; in full, over several lines, while there is room, gravest first."""
    warnings = [str(clean(text)).replace("\n", " ") for text in verdict["warnings"]]
    shown = warnings if len(warnings) <= room else warnings[: room - 1]
    spare = room - len(warnings)
    for text in shown:
        lines = textwrap.wrap(f"! {text}", console.width, subsequent_indent="  ")
        if len(lines) - 1 <= spare:
            spare -= len(lines) - 1
            console.print(Text("\n".join(lines)))
        else:
            console.print(Text(f"! {text}"), no_wrap=True, overflow="ellipsis")
    if len(shown) < len(warnings):
        console.print(f"! {len(warnings) - len(shown)} more warnings are in the report")
