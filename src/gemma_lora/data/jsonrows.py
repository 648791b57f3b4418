"""JSON and JSON lines to rows, with every fault located.

Accepted: a list of objects; an object with one list of objects inside; one object a line. Strings
are taken as they are, numbers and `true`/`false` as written in the file, `null` and absent keys as
empty text; lists and objects stay, for columns of messages. Rows of the self-instruct form
(`instances: [{input, output}]`) become one row for each instance. Reads no file.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from gemma_lora.data.cells import Cell, Cells
from gemma_lora.data.decoding import BAD_CHARACTER
from gemma_lora.data.lines import Text
from gemma_lora.data.table import Problem, quoted
from gemma_lora.errors import DataError

__all__ = ["JsonRows", "looks_like_json", "read_json_rows"]

_SPACE = re.compile(r"[ \t\r\n]*")
_Object = dict[str, Any]
_Found = tuple[int, int, _Object]  # line, item (0 for one object a line), row


@dataclass(slots=True)
class JsonRows:
    """Rows under `columns` (all keys, in order of appearance); see `table.Table` for the fields."""

    format: str = "json"
    columns: list[str] = field(default_factory=list[str])
    rows: Cells = field(default_factory=Cells)
    lines: array[int] = field(default_factory=lambda: array("q"))
    items: array[int] = field(default_factory=lambda: array("q"))
    """For each row its number in the list, from 1; empty for one object a line."""
    blank: int = 0
    empty: list[Problem] = field(default_factory=list[Problem])
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: list[str] = field(default_factory=list[str])


class _Twice(_Object):
    """An object with a key that is given twice: read to its end, then reported with its place."""

    key: str = ""


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    double = _Twice(found)
    double.key = next(k for k, count in Counter(k for k, _ in pairs).items() if count > 1)
    return double


def _key_twice(value: Any) -> str | None:
    """What to say of a key that is given twice in `value`, at any depth."""
    if isinstance(value, _Twice):
        return f"the key {quoted(value.key)} is given twice"
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(cast(_Object, value).values())
    elif isinstance(value, list):
        inner = cast(list[Any], value)
    return next((found for v in inner if (found := _key_twice(v)) is not None), None)


class _Rows:
    """Takes values as they are read: sound rows into `found.rows`, what is wrong into its problems."""

    def __init__(self, found: JsonRows) -> None:
        self.found = found
        self._columns: dict[str, int] = {}
        self._instances: list[_Found] | None = None
        """Rows of the self-instruct form, held back until it is known that all are of it."""
        self._some = False

    def take(self, value: Any, line: int, item: int) -> None:
        twice = _key_twice(value)
        if twice is not None:
            self.found.problems.append(Problem(line, f": {twice}", "duplicate key", item))
        elif isinstance(value, dict):
            self._object(cast(_Object, value), line, item)
        else:
            what = "a list" if isinstance(value, list) else quoted(str(value), 30)
            text = f": {what} where an object should be"
            self.found.problems.append(Problem(line, text, "no object", item))

    def _object(self, row: _Object, line: int, item: int) -> None:
        of_instances = _is_instances(row.get("instances")) and "output" not in row
        if of_instances and not self._some:
            self._instances = []
        self._some = True
        if self._instances is None:
            self._add(row, line, item)
            return
        self._instances.append((line, item, row))
        if not of_instances:
            held, self._instances = self._instances, None
            for line, item, row in held:
                self._add(row, line, item)

    def finish(self) -> None:
        if self._instances is not None:
            self.found.notes.append(
                "self-instruct form: each entry of `instances` is a row of its own"
            )
            for line, item, row in self._instances:
                rest = {k: v for k, v in row.items() if k != "instances"}
                for instance in cast(list[_Object], row["instances"]):
                    self._add({**rest, **instance}, line, item)
        self.found.columns = list(self._columns)

    def _add(self, row: _Object, line: int, item: int) -> None:
        for name in row:
            self._columns.setdefault(name, len(self._columns))
        cells = [_cell(row.get(name)) for name in self._columns]
        found = self.found
        if not any(cells):
            found.blank += 1
            found.empty.append(Problem(line, ": no key holds text", "blank row", item))
            return
        bad = next((n for n, c in zip(self._columns, cells, strict=True) if _is_bad(c)), None)
        if bad is None:
            found.rows.append(cells)
            found.lines.append(line)
            if item:
                found.items.append(item)
        else:
            text = f", {quoted(bad, 30)}: a NUL, an undecodable byte or half of a surrogate pair"
            found.problems.append(Problem(line, text, "bad character", item))


def _is_bad(cell: Cell) -> bool:
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
    return BAD_CHARACTER.search(text) is not None


# numbers stay as written: 1.0 and 007-like ids must not change on their way into a prompt
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str
)


def looks_like_json(text: str) -> bool:
    """Whether the content, whatever the file's name, is a JSON list or object."""
    return re.match(r'\s*(?:\[\s*[\[{\]]|\{\s*["}])', text) is not None


def read_json_rows(text: Text, *, where: str, lines_wanted: bool) -> JsonRows:
    """Parse `text`; `lines_wanted` where the file's name says JSON lines."""
    found = JsonRows()
    rows = _Rows(found)
    try:
        if _is_lines(text, lines_wanted):
            found.format = "jsonl"
            _read_lines(text, rows)
        else:
            whole = text.whole()
            start = _skip(whole, 0)
            if whole.startswith("[", start):
                _read_list(whole, start, rows)
            else:
                _read_object(whole, start, rows, where)
    except json.JSONDecodeError as error:
        line, column = _place(error.doc, error.pos)
        raise DataError(
            f"line {line}, column {column}: no valid JSON: {error.msg}",
            where=where,
            remedy="correct this place; a file with one object a line should be named .jsonl",
        ) from None
    except RecursionError:
        raise DataError("cannot be read as JSON: nested too deeply", where=where) from None
    rows.finish()
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _place(text: str, position: int) -> tuple[int, int]:
    """Physical line and column, both from 1."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _is_lines(text: Text, lines_wanted: bool) -> bool:
    """One value a line, rather than one list or object for the whole file.

    The first line tells nearly always, so that a large file need not become one string.
    """
    lines = text.lines()
    number = next(n for n, line in enumerate(lines) if _skip(line, 0) < len(line))
    first = lines[number]
    following = next((x for x in lines.from_line(number + 1) if _skip(x, 0) < len(x)), "")
    start = _skip(first, 0)
    try:
        value, end = _DECODER.raw_decode(first, start)
        more = following != "" or _skip(first, end) < len(first)
    except (ValueError, RecursionError):
        value, more = None, False
    if first.startswith("[", start):
        return lines_wanted and value is not None and following != ""
    if value is None and not lines_wanted:
        whole = text.whole()
        try:
            value, end = _DECODER.raw_decode(whole, _skip(whole, 0))
        except (ValueError, RecursionError):
            return following.startswith("{", _skip(following, 0))
        more = _skip(whole, end) < len(whole)
    return (
        lines_wanted
        or more
        or not (isinstance(value, dict) and _lists_inside(cast(_Object, value)))
    )


def _lists_inside(value: _Object) -> list[str]:
    return [
        name
        for name, inner in value.items()
        if isinstance(inner, list)
        and inner
        and all(isinstance(item, dict) for item in cast(list[Any], inner))
    ]


def _read_list(text: str, start: int, rows: _Rows) -> None:
    """Walk the list item by item, so that each row knows its line and its number."""
    at, line, counted, item = _skip(text, start + 1), 1, 0, 0
    if text.startswith("]", at):
        return
    while True:
        line, counted = line + text.count("\n", counted, at), at
        item += 1
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(f"{error.msg} (item {item})", text, error.pos) from None
        rows.take(value, line, item)
        at = _skip(text, end)
        if text.startswith("]", at):
            return
        if not text.startswith(",", at):
            raise json.JSONDecodeError(f"a comma or ] should follow (item {item})", text, at)
        at = _skip(text, at + 1)


def _read_lines(text: Text, rows: _Rows) -> None:
    problems = rows.found.problems
    for number, line in enumerate(text.lines(), start=1):
        if not line.strip():
            continue
        try:
            rows.take(_DECODER.decode(line.removesuffix("\n")), number, 0)
        except json.JSONDecodeError as error:
            told = f", column {error.pos + 1}: no valid JSON: {error.msg}"
            problems.append(Problem(number, told, "invalid JSON"))
        except RecursionError:
            problems.append(Problem(number, ": nested too deeply", "invalid JSON"))


def _read_object(text: str, start: int, rows: _Rows, where: str) -> None:
    """The one list of objects inside the file's one object."""
    value, _ = _DECODER.raw_decode(text, start)
    if isinstance(value, _Twice):  # one of the two lists would be lost
        raise DataError(f"{_key_twice(value)}", where=where, remedy="rename or join the two")
    names = _lists_inside(cast(_Object, value)) if isinstance(value, dict) else []
    if len(names) != 1:
        keys = ", ".join(quoted(name, 30) for name in cast(_Object, value)) if names else ""
        raise DataError(
            f"holds {len(names)} lists of objects" + (f": {keys}" if keys else ""),
            where=where,
            expected="a list of objects, one list inside an object, or one object a line",
        )
    at = start + 1
    while True:  # find where that list begins
        name, end = _DECODER.raw_decode(text, _skip(text, at))
        at = _skip(text, _skip(text, end) + 1)
        if name == names[0]:
            break
        _, end = _DECODER.raw_decode(text, at)
        at = _skip(text, end) + 1
    rows.found.notes.append(f"the rows are the list {quoted(names[0], 30)} inside the file")
    _read_list(text, at, rows)


def _is_instances(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(cast(list[Any], value))
        and all(isinstance(i, dict) and "output" in i for i in cast(list[Any], value))
    )


def _cell(value: Any) -> Cell:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return cast(Cell, value)
