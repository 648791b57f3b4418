"""The audit on one screen: at most 45 lines of 100 columns, with rich.

Tokens that carry loss are coloured and stand between ⟦ and ⟧, so that the mask shows without colour
too. Text from the data is made harmless first: control characters and direction marks are written
out, and nothing is read as rich markup. Prints only what audit.json holds.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.text import Text

__all__ = ["harmless", "recognised_lines", "show"]

WIDTH = 100
MOST_LINES = 45

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


def harmless(text: str) -> str:
    """One line without anything that a terminal acts upon: control characters are written out."""
    line = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return _UNSAFE.sub(lambda match: f"\\x{ord(match.group()):02x}", line)


def recognised_lines(facts: Mapping[str, Any]) -> list[str]:
    """What was read and recognised, with the example rows: printed by every run."""
    source, columns = facts["source"], facts["columns"]
    how = _DELIMITERS.get(source["delimiter"] or "", repr(source["delimiter"]))
    form = source["format"] + (f" separated by {how}" if source["delimiter"] else "")
    lines = [
        _fit(
            f"{harmless(source['file'])}: {form}, {source['encoding']} ({source['encoding_found']})"
        )
    ]
    for part, found in columns["recognised"].items():
        lines.append(_fit(f"  {part}: column '{harmless(found['name'])}', {found['how']}"))
    if columns["unused"]:
        lines.append(_fit("  not used: " + ", ".join(harmless(n) for n in columns["unused"])))
    lines += [_fit("  " + harmless(note), 2 * WIDTH) for note in source["notes"]]
    for row in facts["example_rows"]:
        for number, turn in enumerate(_preview(row["messages"])):
            start = row["place"] if number == 0 else " " * len(row["place"])
            lines.append(_fit(f"  {start}, {turn}"))
    return lines


def _preview(turns: Sequence[Mapping[str, str]]) -> list[str]:
    """The system text, the first question and the last answer; how much stands between is told."""
    head = 2 if turns[0]["role"] == "system" else 1
    between = len(turns) - head - 1
    shown = [_turn(turn) for turn in turns[:head]]
    if between > 0:
        shown[-1] = _fit(shown[-1], 70) + f" (and {between} more turns)"
    return [*shown, _turn(turns[-1])] if len(turns) > head else shown


def _turn(turn: Mapping[str, str]) -> str:
    return f"{turn['role']}: {harmless(turn['content'])}"


def _fit(line: str, width: int = WIDTH) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def show(audit: Mapping[str, Any], stream: TextIO, colour: bool) -> None:
    """Print `audit` (the content of audit.json) to `stream`."""
    buffer = io.StringIO()
    screen = RichConsole(
        file=buffer,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        width=WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    top = [Text(line) for line in recognised_lines(audit)]
    top[0].stylize("bold")
    if audit["test_file"]:
        top += [Text(line) for line in recognised_lines(audit["test_file"])[:4]]
    tail = [*_rows(audit), *_duplicates(audit), *_split(audit), *_tokens(audit), *_memory(audit)]
    lines = [*top, Text(""), *tail, Text(""), *_rendered(audit), *_warnings(audit)]
    for line in lines:
        screen.print(line, overflow="fold", no_wrap=False)
    text = buffer.getvalue()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _rows(audit: Mapping[str, Any]) -> list[Text]:
    rows = audit["rows"]
    text = f"rows      {rows['read']:,} read, {rows['used']:,} used, {rows['dropped']:,} dropped"
    if rows["blank"]:
        text += f", {rows['blank']:,} blank"
        if rows["blank_places"]:
            more = ", …" if rows["blank"] > 3 else ""
            text += f" ({', '.join(rows['blank_places'][:3])}{more})"
    lines = [Text(text)]
    if audit["test_file"]:
        test = audit["test_file"]["rows"]
        lines.append(
            Text(
                f"test file {test['read']:,} read, {test['used']:,} used, "
                f"{test['dropped']:,} dropped, {test['blank']:,} blank"
            )
        )
    for reason in rows["dropped_by_reason"][:4]:
        what = "item" if "items" in reason else "line"
        where = ", ".join(str(number) for number in reason[f"{what}s"][:8])
        more = ", …" if reason["count"] > 8 else ""
        lines.append(
            Text(f"          {reason['count']:,} x {reason['reason']}: {what} {where}{more}")
        )
    lines.append(
        Text(
            f"cells     {rows['cells_trimmed']:,} lose outer white space in the template, "
            f"{rows['control_text']:,} rows with control-token text, {rows['truncated']:,} rows cut"
        )
    )
    return lines


def _duplicates(audit: Mapping[str, Any]) -> list[Text]:
    found = audit["duplicates"]
    lines = [
        Text(
            f"repeats   {found['repeated_rows']:,} rows, {found['repeated_questions']:,} questions; "
            f"{found['near_duplicate_clusters']:,} clusters of near-duplicates with "
            f"{found['rows_in_them']:,} rows,"
        ),
        Text(f"          the largest {found['largest']:,} rows ({found['largest_share']:.1%})"),
    ]
    leaks = audit["leaks"]
    if leaks:
        lines.append(
            Text(
                f"leaks     {leaks['exact']:,} exact and {leaks['near']:,} near ones among "
                f"{leaks['test_rows']:,} test questions",
                style="bold red" if leaks["exact"] + leaks["near"] else "",
            )
        )
    return lines


def _split(audit: Mapping[str, Any]) -> list[Text]:
    split = audit["split"]
    sizes = ", ".join(f"{split[side]:,} {side}" for side in ("train", "validation", "test"))
    clusters = ", ".join(f"{split['clusters'][s]:,}" for s in ("train", "validation", "test"))
    return [Text(f"split     {sizes} rows, in {clusters} clusters; seed {split['seed']}")]


def _tokens(audit: Mapping[str, Any]) -> list[Text]:
    tokens = audit["tokens"]
    lines = [
        Text(
            f"tokens    {tokens['shortest']} to {tokens['longest']}, median {tokens['median']}, "
            f"99 % within {tokens['p99']}, limit {tokens['max_length']}; "
            f"{tokens['loss_share']:.1%} of {tokens['total']:,} carry loss"
        )
    ]
    most = max(bar["rows"] for bar in tokens["histogram"])
    for bar in tokens["histogram"]:
        width = round(60 * bar["rows"] / most)
        block = "█" * width or ("▏" if bar["rows"] else "")
        span = f"{bar['from']} to {bar['to']}"
        lines.append(Text(f"{span:>16}  ").append(block, "cyan").append(f" {bar['rows']:,}"))
    return lines


def _memory(audit: Mapping[str, Any]) -> list[Text]:
    plan = audit.get("memory")
    if not plan:
        return []
    told: list[str] = [plan["problem"]] if plan["problem"] else []
    if "predicted_bytes" in plan:
        recomputed = "on" if plan["gradient_checkpointing"] else "off"
        told.insert(
            0,
            f"{plan['predicted_bytes'] / 2**30:.1f} GiB to train ({plan['device']}, "
            f"{plan['precision']}): {plan['micro_batch_tokens']} tokens at once, checkpointing "
            f"{recomputed}",
        )
    told += plan.get("details", [])
    return [
        Text(
            f"{'' if number else 'memory':<10}{_fit(harmless(line), 2 * WIDTH - 20)}",
            "" if plan["fits"] else "yellow",
        )
        for number, line in enumerate(told)
    ]


def _rendered(audit: Mapping[str, Any]) -> list[Text]:
    row = audit["rendered"]
    line = Text(f"{row['place']} as trained (⟦loss⟧): ", style="bold")
    body = Text()
    runs = row["runs"]
    shown = runs if len(runs) <= 6 else runs[-6:]
    if len(runs) > 6:
        body.append("… ")
    room = 560 // len(shown)
    for text, loss in shown:
        piece = _middle(harmless(text), room)
        body.append(f"⟦{piece}⟧" if loss else piece, "bold green" if loss else "")
    return [line + body]


def _middle(text: str, room: int) -> str:
    """Beginning and end of a long text."""
    return text if len(text) <= room else f"{text[: room - room // 3]} … {text[-(room // 3) :]}"


def _warnings(audit: Mapping[str, Any]) -> list[Text]:
    warnings = audit["warnings"]
    lines = [Text(f"warning: {_fit(harmless(w), 3 * WIDTH)}", "yellow") for w in warnings[:4]]
    if len(warnings) > 4:
        lines.append(Text(f"and {len(warnings) - 4} more warnings in audit.json", "yellow"))
    return lines
