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

from gemma_lora.report import aa, baselines
from gemma_lora.report.checks import (
    Difference,
    agreement,
    differences,
    power_sentence,
)
from gemma_lora.report.forgetting import line_of
from gemma_lora.report.wording import (
    clean,
    headline,
    interval,
    p_value,
    points,
    score,
    warnings,
    whisker,
)
from gemma_lora.report.worth import attacks_in_brief

__all__ = ["screen", "summary"]

_MAX_LINES = 30
_PLOT_FROM, _PLOT_WIDTH = 96, 25
_WHOLE_FROM = 80
"""The table needs so many columns; in fewer, the lines below it keep to the most important."""


def summary(verdict: Mapping[str, Any], *, width: int = 100, colour: bool = False) -> str:
    """Means and differences by dimension, verdict, wins and losses, missing scores, warnings."""
    table = _table(verdict, plot=width >= _PLOT_FROM)
    stream = io.StringIO()
    console = screen(stream, width=width, colour=colour)
    console.print(table)
    console.print()
    word = verdict["verdict"]
    style = {"better": "bold green", "worse": "bold red"}.get(word, "bold yellow")
    seed = "" if width >= _WHOLE_FROM else " One seed: --seeds 3."
    line = Text.assemble("verdict: ", (word, style), f". {headline(verdict)}.{seed}")
    console.print(line)
    counts, missing = verdict["win_tie_loss"], verdict["unscored"]
    seen = verdict["compared_also_in_training"]
    known = f" ({seen} also in the training rows)" if seen else ""
    console.print(
        f"{verdict['primary']['n']} questions compared{known}; tuned wins {counts['win']}, "
        f"ties {counts['tie']}, losses {counts['loss']}; "
        f"unscored: base {missing['base']}, tuned {missing['tuned']}{_bounds(verdict) if width >= _WHOLE_FROM else ''}"
    )
    console.print(f"{agreement(verdict, brief=True)} {power_sentence(verdict, brief=True)}")
    for beside in _beside(verdict):
        console.print(Text(beside))
    lost = line_of(verdict)
    if lost and width >= _WHOLE_FROM:
        console.print(Text(lost))
    judge = verdict["judge"]
    note = " (not a language model)" if judge["is_llm"] is False else ""
    beside = f"; {attacks_in_brief(verdict)}" if width >= _WHOLE_FROM else ""
    console.print(Text(str(clean(f"judge: {judge['name']}{note}{beside}"))))
    if width >= _WHOLE_FROM:  # else it is said beside the verdict
        console.print("one training seed: holds for this checkpoint; --seeds 3 judges the recipe")
    _warnings(verdict, console, _MAX_LINES - stream.getvalue().count("\n"))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))


def screen(stream: io.StringIO, *, width: int, colour: bool) -> RichConsole:
    """A terminal of `width` columns whose text goes to `stream`."""
    return RichConsole(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )


def _beside(verdict: Mapping[str, Any]) -> list[str]:
    """A line for each baseline, and one for the judge's noise."""
    noise = aa.brief(verdict)
    return [row.brief for row in baselines.rows(verdict)] + ([noise] if noise else [])


def _table(verdict: Mapping[str, Any], *, plot: bool) -> Table:
    """Means and differences; with `plot` the differences are drawn, too."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    titles = ["", "base", "tuned", "difference", "95 % interval", "p, Holm"]
    for name in titles:
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    if plot:
        table.add_column("worse 0 better", justify="center", no_wrap=True)
    rows = differences(verdict)
    reach = max([1.0, *(abs(end) for row in rows for end in row.ci95 or ())])
    for row in rows:
        found = verdict["primary"] if row.primary else verdict["dimensions"].get(row.name)
        cells = _cells(row, found)
        if plot and row.difference is not None:
            cells += (whisker(row.difference, row.ci95, reach, _PLOT_WIDTH),)
        table.add_row(*cells, style="bold" if row.primary else None)
    return table


def _cells(row: Difference, found: Mapping[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return (row.name, "", "", "", "not measured", "")  # in the widest column
    return (
        row.name,
        score(found["base_mean"]),
        score(found["tuned_mean"]),
        points(row.difference),
        interval(row.ci95),
        p_value(row.p) + ("*" if row.marked else " "),
    )


def _bounds(verdict: Mapping[str, Any]) -> str:
    """What the missing judgements could make of the difference."""
    missing = verdict["missing"]
    if not missing.get("touched", missing["pairs_lost"]):
        return ""
    low, high = missing["bounds"]
    return f" (difference at their worst {points(low)}, at their best {points(high)})"


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
