"""Delimited text (CSV, TSV and kin) to rows, with every fault located.

The cells come from the standard library's reader in strict mode, so that nothing is guessed inside
a cell; where that reader stops, this module says at which line and column the quote stands that it
stumbled over, and goes on at the next sound row. `dialect.py` finds separator and header line.
Cells are exactly as written: no types, no trimming. Reads no file.
"""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from dataclasses import dataclass, field

from gemma_lora.data.cells import Cells
from gemma_lora.data.decoding import BAD_CHARACTER
from gemma_lora.data.dialect import Dialect, big_cells, find_dialect, find_header, physical_lines
from gemma_lora.data.lines import Lines, Text
from gemma_lora.data.table import Problem, quoted, raise_problems
from gemma_lora.errors import DataError

__all__ = ["Delimited", "read_delimited"]

_GIANT = 10_000_000  # characters: no question or answer, but a file gone wrong
_LONGEST_CELL = 1000
"""Lines in which the end of a broken cell is looked for."""
_MOST_RESTARTS = 200


@dataclass(slots=True)
class Delimited:
    """Rows of equal width under `columns`; see `table.Table` for the fields."""

    delimiter: str
    columns: list[str]
    header_line: int
    rows: Cells = field(default_factory=Cells)
    lines: array[int] = field(default_factory=lambda: array("q"))
    blank: int = 0
    empty: list[Problem] = field(default_factory=list[Problem])
    faulty: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: list[str] = field(default_factory=list[str])


def read_delimited(
    text: Text, *, where: str, delimiter: str | None, wanted: frozenset[str]
) -> Delimited:
    """Parse `text`. `wanted`: keys of the columns that flags name, which help to find the header.

    Faults of rows come back in `problems`; faults of the header raise DataError.
    """
    lines = physical_lines(text)
    suspect = text.suspect
    with big_cells():
        dialect, notes = find_dialect(lines, delimiter, wanted)
        header, header_line, title_notes = find_header(lines, dialect, wanted, where)
        found = Delimited(dialect.delimiter, [name.strip() for name in header], header_line)
        found.notes += [*notes, *title_notes]
        start = header_line - 1 + _height(lines, header_line - 1, dialect)
        _read_rows(lines, start, dialect, found, suspect, where)
    if suspect:
        found.problems += bad_characters(lines)
    _name_columns(found, where)
    return found


def bad_characters(lines: Lines) -> list[Problem]:
    """Each line with NUL or undecodable bytes: the first such place and how many there are."""
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        places = [(match.start() + 1, match.group()) for match in BAD_CHARACTER.finditer(line)]
        for nul in (True, False):
            chosen = [(column, c) for column, c in places if (c == "\x00") == nul]
            if not chosen:
                continue
            column, character = chosen[0]
            more = f" and {len(chosen) - 1} more in this line" if len(chosen) > 1 else ""
            if nul:
                problems.append(Problem(number, f", column {column}: a NUL byte{more}", "NUL byte"))
            else:
                what = (
                    f"byte 0x{ord(character) - 0xDC00:02x} is not text in this encoding"
                    if 0xDC80 <= ord(character) <= 0xDCFF
                    else "half of a surrogate pair"
                )
                problems.append(
                    Problem(number, f", column {column}: {what}{more}", "undecodable byte")
                )
    return problems


def _height(lines: Lines, start: int, dialect: Dialect) -> int:
    reader = dialect.reader(lines.from_line(start), strict=False)
    next(reader)
    return reader.line_num


def _read_rows(
    lines: Lines, start: int, dialect: Dialect, found: Delimited, suspect: bool, where: str
) -> None:
    """Append the sound rows from line index `start` on, and a problem for each other one."""
    width = len(found.columns)
    position, restarts = start, 0
    while position < len(lines):
        reader = dialect.reader(lines.from_line(position), strict=True)
        begin = position
        try:
            for row in reader:
                line = begin + 1
                begin = position + reader.line_num
                if not any(row):
                    found.blank += 1
                    if row:  # separators or quotes, not just an empty line
                        found.empty.append(Problem(line, ": no cell holds text", "blank row"))
                elif len(row) != width:
                    found.faulty += 1
                    found.problems.append(_ragged(row, line, found.columns))
                elif any(len(cell) > _GIANT for cell in row):
                    found.faulty += 1
                    found.problems.append(_giant(row, line, found.columns))
                elif suspect and any(BAD_CHARACTER.search(cell) for cell in row):
                    found.faulty += 1  # `bad_characters` says where
                else:
                    found.rows.append(row)
                    found.lines.append(line)
            return
        except csv.Error as error:
            restarts += 1
            found.faulty += 1
            position = _next_sound_row(lines, begin, dialect, width)
            found.problems.append(_broken(lines, begin, position, dialect, error))
            if restarts >= _MOST_RESTARTS:
                raise_problems(
                    where,
                    found.problems,
                    remedy=f"reading stopped in line {position}; if cells are quoted or separated "
                    "in another way, convert the file to plain CSV",
                )


def _next_sound_row(lines: Lines, begin: int, dialect: Dialect, width: int) -> int:
    """Index of the first line after `begin` to go on at: a whole row by itself, or broken by itself."""
    for index in range(_end_of_broken(lines, begin, dialect), len(lines)):
        try:
            row = next(dialect.reader([lines[index]], strict=True), [])
        except csv.Error as error:
            if "unexpected end" in str(error):
                continue  # the line only opens or closes a cell of several lines
            break
        if len(row) == width and any(row):
            break
    else:
        return len(lines)
    while index > begin + 1 and not lines[index - 1].strip():
        index -= 1
    return index


def _end_of_broken(lines: Lines, begin: int, dialect: Dialect) -> int:
    """Index of the line after the broken record that begins at `begin`.

    Where a later line closes its cell, that is after this line: what is between is the cell's text, though
    it may look like rows. Where a line opens a cell before that, or none closes it, after its first line.
    """
    quote = dialect.quote
    inside = lines[begin].count(quote) % 2 == 1
    end = min(len(lines), begin + _LONGEST_CELL) if inside else 0
    for index in range(begin + 1, end):
        before, found, _ = lines[index].partition(quote)
        if not found:
            continue
        if not before.strip(" ") or before.rstrip(" ").endswith(dialect.delimiter):
            break  # the beginning of a cell
        if lines[index].count(quote) % 2 == 1:
            return index + 1
    return begin + 1


def _broken(lines: Lines, begin: int, resumed: int, dialect: Dialect, error: csv.Error) -> Problem:
    """Where the quote stands that cannot be right, from a walk over the failing record."""
    span = "" if resumed <= begin + 1 else f" (lines {begin + 1} to {resumed} are left out)"
    quote, delimiter = dialect.quote, dialect.delimiter
    line, column = begin, 0
    while line < len(lines):
        text = lines[line]
        if dialect.skip_space:
            while text[column : column + 1] == " ":
                column += 1
        if text[column : column + 1] != quote:
            carriage = text.find("\r", column)
            if 0 <= carriage < len(text.rstrip("\r\n")):
                return Problem(
                    line + 1,
                    f", column {carriage + 1}: a carriage return outside quotes{span}",
                    "broken quoting",
                )
            end = text.find(delimiter, column)
            if end < 0:
                line, column = line + 1, 0
                break
            column = end + 1
            continue
        opened = (line, column)
        line, column = _closing(lines, line, column + 1, quote)
        place = f", column {opened[1] + 1}: "
        if line >= len(lines):
            return Problem(
                opened[0] + 1, f"{place}a quote opens here and is never closed{span}", "open quote"
            )
        after = lines[line][column + 1 :]
        if after.startswith(delimiter):
            column += 1 + len(delimiter)
        elif not after.strip("\r\n"):
            line, column = line + 1, 0
            break
        else:
            return Problem(
                opened[0] + 1,
                f"{place}the cell that is quoted from here ends at line {line + 1}, column "
                f"{column + 1}, but goes on with {quoted(after.rstrip(), 20)}: this quote is not "
                f"closed, or a quote inside the cell is not doubled{span}",
                "broken quoting",
            )
    return Problem(begin + 1, f": {error}{span}", "broken quoting")


def _closing(lines: Lines, line: int, column: int, quote: str) -> tuple[int, int]:
    """Line index and column of the quote that closes the cell; (len(lines), 0) without one."""
    while line < len(lines):
        text = lines[line]
        at = text.find(quote, column)
        if at < 0:
            line, column = line + 1, 0
        elif text.startswith(quote, at + 1):
            column = at + 2
        else:
            return line, at
    return len(lines), 0


def _ragged(row: list[str], line: int, columns: list[str]) -> Problem:
    width = len(columns)
    text = f": {len(row)} cell{'s' if len(row) != 1 else ''} where the header has {width}"
    if len(row) > width:
        text += f"; surplus from cell {width + 1}: {quoted(row[width])}"
    else:
        missing = [name or f"column {i}" for i, name in enumerate(columns, 1)][len(row) :]
        text += f"; nothing for {', '.join(quoted(name, 30) for name in missing[:3])}"
    return Problem(line, text, "ragged row")


def _giant(row: list[str], line: int, columns: list[str]) -> Problem:
    index = max(range(len(row)), key=lambda i: len(row[i]))
    return Problem(
        line,
        f", column {quoted(columns[index], 30)}: a cell of {len(row[index]):,} characters "
        f"(more than {_GIANT:,}; is a quote open?)",
        "giant cell",
    )


def _name_columns(found: Delimited, where: str) -> None:
    """Refuse names that occur twice and unnamed columns that hold text; leave out the rest."""
    faults: list[str] = []
    counts = Counter(name for name in found.columns if name)
    for name, count in counts.items():
        if count > 1:
            cells = [str(i) for i, other in enumerate(found.columns, 1) if other == name]
            faults.append(
                f"line {found.header_line}: the header has {quoted(name)} {count} times "
                f"(cells {', '.join(cells)})"
            )
    for index, name in enumerate(found.columns):
        if BAD_CHARACTER.search(name):
            faults.append(f"line {found.header_line}, cell {index + 1}: the name is not text")
        if name:
            continue
        filled = next((i for i, row in enumerate(found.rows) if row[index]), None)
        if filled is None:
            found.notes.append(f"column {index + 1} has no name and no text and is left out")
        elif index == 0 and _counts_rows(found.rows):
            found.notes.append("column 1 has no name and only numbers the rows, and is left out")
        else:
            faults.append(
                f"line {found.header_line}, cell {index + 1}: the column has no name, but holds "
                f"text, first {quoted(str(found.rows[filled][index]))} in line {found.lines[filled]}"
            )
    if faults and not any(found.columns):
        raise DataError("the header has no names", where=where, details=faults[:20])
    if faults:
        raise_problems(
            where,
            found.problems,
            first=faults,
            remedy="give each column its own name in the first line of the table",
        )


def _counts_rows(rows: Cells) -> bool:
    first = str(rows[0][0]) if len(rows) else ""
    if first not in ("0", "1"):
        return False
    numbers = {str(row[0]) for row in rows}
    return len(numbers) == len(rows) and all(number.isdecimal() for number in numbers)
