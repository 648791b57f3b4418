"""What a data file holds once read: named columns, cells as text, the line each row begins at.

`Table` is the result of `reading.read_table`; `Problem` is one located fault. Rows with a fault are
not among `rows`: `examples.load_examples` stops on the problems or counts them, as the user chose.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gemma_lora.data.cells import Cell, place
from gemma_lora.errors import DataError

__all__ = ["Problem", "Table", "is_blank", "quoted", "raise_problems"]

_LISTED = 20
_INVISIBLE = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters by their category, yet blank
_NO_TEXT = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of one row: physical line from 1 (0: there are none), character or cell in the text, and its kind."""

    line: int
    text: str
    kind: str
    item: int = 0
    """Number of the item in a JSON list, from 1, since such a list may be one line; or of the row
    in a table without lines; else 0."""

    def __str__(self) -> str:
        return place(self.line, self.item) + self.text

    def __lt__(self, other: Problem) -> bool:
        return (self.line, self.item, self.text) < (other.line, other.item, other.text)


@dataclass(slots=True)
class Table:
    """Columns and rows of one file, and how it was read."""

    where: str
    """The file as the user named it."""
    format: str
    """`csv`, `tsv`, `json`, `jsonl`, `parquet` or `hub`."""
    encoding: str
    encoding_how: str
    delimiter: str | None
    columns: list[str]
    """Names as written, outer spaces stripped; "" for an unnamed column that is left out."""
    rows: Sequence[list[Cell]]
    lines: array[int]
    """For each row of `rows` the physical line it begins at, from 1; 0 in tables without lines."""
    header_line: int | None = None
    items: array[int] = field(default_factory=lambda: array("q"))
    """For each row its number in the JSON list or the table, from 1; empty where lines tell rows apart."""
    blank: int = 0
    """Rows without any text, left out."""
    empty: list[Problem] = field(default_factory=list[Problem])
    """Those of the blank rows that have cells or keys, so are more than an empty line."""
    faulty: int = 0
    """Rows that could not be taken; one row may have several problems."""
    problems: list[Problem] = field(default_factory=list[Problem])
    released: int = 0
    """Rows that are no longer kept, since `release`."""
    notes: list[str] = field(default_factory=list[str])
    """Decisions of the reader that the user should see."""

    def item(self, index: int) -> int:
        """Number of row `index` in the JSON list, from 1; 0 where the file is no such list."""
        return self.items[index] if self.items else 0

    @property
    def rows_read(self) -> int:
        """Rows found, faulty ones included, blank ones not."""
        return len(self.rows) + self.released + self.faulty

    def release(self) -> None:
        """Forget the cells, which take as much memory as the file; what was counted stays."""
        import pyarrow as pa

        self.released += len(self.rows)
        self.rows = ()
        pa.default_memory_pool().release_unused()


def is_blank(text: str) -> bool:
    """Whether nothing is to be seen: white space, zero-width and control characters only."""
    return all(c.isspace() or unicodedata.category(c) in _NO_TEXT or c in _INVISIBLE for c in text)


def quoted(text: str, limit: int = 60) -> str:
    """`text` shortened and with every control character written out, for messages."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return repr(short)


def raise_problems(
    where: str,
    problems: Sequence[Problem],
    *,
    first: Iterable[str] = (),
    remedy: str | None = None,
) -> None:
    """Raise one DataError that lists the problems by line; nothing where there are none."""
    ordered = sorted(problems)
    details = [*first, *(str(problem) for problem in ordered[:_LISTED])]
    if len(ordered) > _LISTED:
        details.append(f"and {len(ordered) - _LISTED} more")
    if not details:
        return
    kinds: dict[str, int] = {}
    for problem in ordered:
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
    counted = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
    raise DataError(
        counted or "cannot be used",
        where=where,
        details=details,
        remedy=remedy
        or "correct these places, or drop the rows that are named here with --on-bad-row skip",
    )
