"""How a delimited file is written: line ends, separator, quote, and the line that holds the header.

Everything here looks at the beginning of the file only and parses it leniently; the strict reading
is `delimited.py`'s. What deviates from plain CSV comes back as a note for the user.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from gemma_lora.data.lines import Lines, Text
from gemma_lora.data.names import is_known, key
from gemma_lora.data.table import quoted
from gemma_lora.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["Dialect", "big_cells", "find_dialect", "find_header", "physical_lines"]

_CANDIDATES = (",", ";", "\t", "|")
_HEADER_WITHIN = 10  # records
_SAMPLE_RECORDS = 60
_SAMPLE_LINES = 3000

_Record = tuple[int, list[str]]  # physical line from 1, cells


@dataclass(frozen=True)
class Dialect:
    """Separator and quote character, as the standard library's reader wants them."""

    delimiter: str
    quote: str = '"'
    skip_space: bool = False

    def reader(self, lines: Iterable[str], *, strict: bool) -> Reader:
        """Reader over `lines`."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            skipinitialspace=self.skip_space,
            strict=strict,
        )


@contextmanager
def big_cells() -> Generator[None]:
    """Lift the standard library's limit of 131,072 characters a cell, for this block only."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def physical_lines(text: Text) -> Lines:
    """Lines with their ends. Lone carriage returns end lines only in files that are written so."""
    data = text.data
    unquoted = re.match(rb'(?:[^"\r\n]+|"[^"]*")*', data)
    end = unquoted.end() if unquoted else 0
    if data[end : end + 1] in (b"\r", b"\n"):
        carriage_returns = data[end : end + 1] == b"\r" and data[end + 1 : end + 2] != b"\n"
    else:
        carriage_returns = b"\n" not in data
    return text.lines(carriage_returns=carriage_returns)


def find_dialect(
    lines: Lines, delimiter: str | None, wanted: frozenset[str]
) -> tuple[Dialect, list[str]]:
    """The dialect of a file, with notes on what is unusual; `delimiter` is `--delimiter`."""
    notes: list[str] = []
    if delimiter is not None:
        dialect = Dialect(_named_delimiter(delimiter))
    else:
        # Excel writes the separator into a first line of its own
        excel = re.fullmatch(r'"?sep=(.)"?\r?\n?', lines[0]) if len(lines) else None
        if excel:
            dialect = Dialect(excel.group(1))
        else:
            ranked = [(_fitness(lines, Dialect(c), wanted), Dialect(c)) for c in _CANDIDATES]
            dialect = max(ranked, key=lambda pair: pair[0])[1]  # the first of equals
    if _single_quoted(lines, dialect):
        dialect = replace(dialect, quote="'")
        notes.append("cells are quoted with single quotes")
    if _spaced_quotes(lines, dialect):
        dialect = replace(dialect, skip_space=True)
        notes.append("spaces between a separator and the next cell are left out")
    return dialect, notes


def find_header(
    lines: Lines, dialect: Dialect, wanted: frozenset[str], where: str
) -> tuple[list[str], int, list[str]]:
    """Cells and physical line of the header, with a note where lines above it are left out."""
    records = [r for r in _sample(lines, dialect) if any(cell.strip() for cell in r[1])]
    if not records:
        raise DataError("holds no text", where=where, expected="a header line and rows")
    line, header = records[_header_index(records, wanted)]
    notes: list[str] = []
    if records[0][0] < line:
        above = "line 1 is" if line == 2 else f"lines 1 to {line - 1} are"
        notes.append(
            f"the header is line {line}; {above} left out, first {quoted(''.join(records[0][1]).strip())}"
        )
    return header, line, notes


def _named_delimiter(name: str) -> str:
    character = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(
        name.lower(), name
    )
    if len(character) != 1 or character in '"\r\n':
        raise DataError(
            f"{name!r} cannot separate cells",
            where="--delimiter",
            expected="one character, such as `;`, or `tab`",
        )
    return character


def _sample(lines: Lines, dialect: Dialect) -> list[_Record]:
    reader = dialect.reader(lines[:_SAMPLE_LINES], strict=False)
    records: list[_Record] = []
    begin = 0
    try:
        for row in islice(reader, _SAMPLE_RECORDS):
            records.append((begin + 1, row))
            begin = reader.line_num
    except csv.Error:  # the strict reading will say where and why
        pass
    return records


def _fitness(lines: Lines, dialect: Dialect, wanted: frozenset[str]) -> tuple[int, float]:
    """Names recognised in the likeliest header (2 suffice), then the share of rows of usual width."""
    records = [r for r in _sample(lines, dialect) if any(cell.strip() for cell in r[1])]
    if not records:
        return 0, 0.0
    names = max(
        sum(1 for cell in row if is_known(cell) or key(cell) in wanted)
        for _, row in records[:_HEADER_WITHIN]
    )
    width, count = Counter(len(row) for _, row in records).most_common(1)[0]
    consistent = count / len(records) if width > 1 else 0.0
    if all(len(row) == 1 for _, row in records):
        names = 0
    return min(names, 2), consistent


def _header_index(records: list[_Record], wanted: frozenset[str]) -> int:
    """Which record is the header: the first, unless title lines stand above it."""
    near = [row for _, row in records[:_HEADER_WITHIN]]
    if wanted:
        for index, row in enumerate(near):
            if wanted <= {key(cell) for cell in row}:
                return index
    for index, row in enumerate(near):
        if sum(1 for cell in row if is_known(cell)) >= 2:
            return index
    width = Counter(len(row) for _, row in records).most_common(1)[0][0]
    if width > 1 and sum(1 for cell in near[0] if cell.strip()) == 1:
        for index, row in enumerate(near):
            if sum(1 for cell in row if cell.strip()) > 1:
                return index if len(row) == width and len(set(row)) == width else 0
    return 0


def _single_quoted(lines: Lines, dialect: Dialect) -> bool:
    """Every cell of the first line stands in single quotes."""
    cells = lines[0].strip().split(dialect.delimiter) if len(lines) else []
    return len(cells) > 1 and all(re.fullmatch("'[^']+'", cell.strip()) for cell in cells)


def _spaced_quotes(lines: Lines, dialect: Dialect) -> bool:
    """Most rows have a cell that opens with a space and a quote: `a, "b, c"`."""
    if dialect.delimiter == " ":
        return False
    rows = [row for _, row in _sample(lines, dialect) if any(row)]
    spaced = sum(1 for row in rows if any(re.match(f" +{dialect.quote}", c) for c in row[1:]))
    return spaced > 0 and spaced * 2 > len(rows)
