"""Rows of a file and conversations, many of them in little memory.

Text is kept in Arrow, `CHUNK` rows together, since a Python object for each cell and row takes
several times the room of its text. `Cells` are the rows of a table, `Rows` the conversations made
from them; both read like lists and give rows anew at each access. Neither reads nor writes files.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from gemma_lora.records import Message, Role

__all__ = ["Cell", "Cells", "Row", "Rows", "place"]

CHUNK = 4096
"""Rows kept together."""

Cell = str | list[Any] | dict[str, Any]
"""Text as written; lists and objects occur in columns of messages only, not in delimited files."""


def place(line: int, item: int = 0) -> str:
    """`line 3`; in a JSON list `line 1, item 5`; in a table without lines `row 5`."""
    if not line:
        return f"row {item}"
    return f"line {line}, item {item}" if item else f"line {line}"


def _packed(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(texts, type=pa.large_string())


@dataclass(slots=True)
class _Chunk:
    columns: list[Any]
    """One Arrow array a column."""
    nested: dict[int, frozenset[int]]
    """By column, the rows whose cell is a list or an object, kept as JSON."""

    def rows(self, width: int) -> list[list[Cell]]:
        columns: list[list[Any]] = [column.to_pylist() for column in self.columns]
        for number, rows in self.nested.items():
            for row in rows:
                columns[number][row] = json.loads(columns[number][row])
        count = len(columns[0])
        columns += [[""] * count] * (width - len(columns))
        return [list(row) for row in zip(*columns, strict=True)]


class Cells(Sequence[list[Cell]]):
    """Rows of cells; rows appended before a column was known are filled up with empty text."""

    def __init__(self, rows: Iterable[Sequence[Cell]] = ()) -> None:
        self._chunks: list[_Chunk] = []
        self._pending: list[Sequence[Cell]] = []
        self._width = 0
        self._open: tuple[int, list[list[Cell]]] = (-1, [])  # the chunk that was read last
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[Cell]) -> None:
        self._width = max(self._width, len(row))
        self._pending.append(row)
        if len(self._pending) == CHUNK:
            self._chunks.append(self._pack())
            self._pending = []

    def _pack(self) -> _Chunk:
        columns: list[Any] = []
        nested: dict[int, frozenset[int]] = {}
        for number in range(self._width):
            cells = [row[number] if number < len(row) else "" for row in self._pending]
            deep = frozenset(i for i, cell in enumerate(cells) if not isinstance(cell, str))
            if deep:
                nested[number] = deep
                cells = [
                    json.dumps(cell, ensure_ascii=False) if i in deep else cell
                    for i, cell in enumerate(cells)
                ]
            columns.append(_packed(cast(list[str], cells)))
        return _Chunk(columns, nested)

    def __len__(self) -> int:
        return len(self._chunks) * CHUNK + len(self._pending)

    def __iter__(self) -> Iterator[list[Cell]]:
        for chunk in self._chunks:
            yield from chunk.rows(self._width)
        for row in self._pending:
            yield [*row, *[""] * (self._width - len(row))]

    @overload
    def __getitem__(self, index: int) -> list[Cell]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Cell]]: ...
    def __getitem__(self, index: int | slice) -> list[Cell] | list[list[Cell]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, offset = divmod(range(len(self))[index], CHUNK)
        if number == len(self._chunks):
            row = self._pending[offset]
            return [*row, *[""] * (self._width - len(row))]
        if self._open[0] != number:
            self._open = (number, self._chunks[number].rows(self._width))
        return list(self._open[1][offset])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(cast(Sequence[Any], other))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - grows, so no key of a dict


@dataclass(slots=True)
class Row:
    """A conversation that ends with an answer, not yet assigned to a cluster."""

    id: str
    messages: tuple[Message, ...]
    line: int
    item: int = 0
    """Number in the JSON list or the table, from 1; 0 where lines tell rows apart."""

    @property
    def place(self) -> str:
        """`line 3`, in a JSON list `line 1, item 5`, in a table without lines `row 5`."""
        return place(self.line, self.item)

    @property
    def question(self) -> str:
        """All that the user says, which is what duplicates are looked for in."""
        return "\n".join(m.content for m in self.messages if m.role == "user")


class Rows(Sequence[Row]):
    """Conversations in the order of the file, or a choice of them that shares their text."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._chunks: list[tuple[Any, Any]] = []  # ids and messages (as JSON) in Arrow
        self._pending: list[tuple[str, str]] = []
        self._lines, self._items = array("q"), array("q")
        self._chosen: NDArray[np.int64] | None = None
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        talk = json.dumps([[m.role, m.content] for m in row.messages], ensure_ascii=False)
        self._pending.append((row.id, talk))
        self._lines.append(row.line)
        self._items.append(row.item)
        if len(self._pending) == CHUNK:
            ids, talks = zip(*self._pending, strict=True)
            self._chunks.append((_packed(ids), _packed(talks)))
            self._pending = []

    def choose(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Rows:
        """The rows numbered `indices`, in that order."""
        chosen = Rows()
        chosen._chunks, chosen._pending = self._chunks, self._pending
        chosen._lines, chosen._items = self._lines, self._items
        wanted = np.asarray(indices, dtype=np.int64)
        chosen._chosen = wanted if self._chosen is None else self._chosen[wanted]
        return chosen

    def ids(self) -> list[str]:
        """The ids of all rows."""
        own = [name for chunk in self._chunks for name in chunk[0].to_pylist()]
        own += [name for name, _ in self._pending]
        return own if self._chosen is None else [own[i] for i in self._chosen]

    @property
    def repeats(self) -> int:
        """Rows that repeat an earlier one word for word."""
        return len(self) - len({name.partition("-")[0] for name in self.ids()})

    def __len__(self) -> int:
        return len(self._lines) if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[Row]:
        order = range(len(self)) if self._chosen is None else self._chosen.tolist()
        number, previous = -1, -1
        names: Sequence[str] = ()
        talks: Sequence[str] = ()
        for index in order:
            if index < previous:  # out of order: one by one
                yield self._row(index)
                continue
            previous = index
            if index // CHUNK != number:
                number = index // CHUNK
                names, talks = self._texts(number)
            yield self._made(names[index % CHUNK], talks[index % CHUNK], index)

    def _texts(self, number: int) -> tuple[Sequence[str], Sequence[str]]:
        if number < len(self._chunks):
            ids, talks = self._chunks[number]
            return ids.to_pylist(), talks.to_pylist()
        return [name for name, _ in self._pending], [talk for _, talk in self._pending]

    def _row(self, index: int) -> Row:
        number, offset = divmod(index, CHUNK)
        if number == len(self._chunks):
            name, talk = self._pending[offset]
        else:
            name, talk = (column[offset].as_py() for column in self._chunks[number])
        return self._made(name, talk, index)

    def _made(self, name: str, talk: str, index: int) -> Row:
        turns: list[tuple[Role, str]] = json.loads(talk)
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        return Row(name, messages, self._lines[index], self._items[index])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.choose(range(*index.indices(len(self))))
        index = range(len(self))[index]
        return self._row(index if self._chosen is None else int(self._chosen[index]))
