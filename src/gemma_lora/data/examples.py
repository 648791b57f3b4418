"""From a table to rows for training: conversations with stable ids, and every fault told.

A row's question is its question cell; a context that is not blank follows after a blank line. Texts
stay as written. Rows with an empty question or answer, or a conversation out of order, are faults
like those of the reader: all of them together stop the run, or with `--on-bad-row skip` are dropped
and counted. Reads the data file; writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_lora.config import DataConfig
from gemma_lora.data.cells import Cell, Row, Rows
from gemma_lora.data.columns import Columns, recognise
from gemma_lora.data.conversations import turns_of
from gemma_lora.data.reading import read_table
from gemma_lora.data.table import Problem, Table, is_blank, quoted, raise_problems
from gemma_lora.errors import DataError
from gemma_lora.records import Message
from gemma_lora.rundir import digest

__all__ = ["Loaded", "load_examples"]


@dataclass(slots=True)
class Loaded:
    """The usable rows of one file, and what became of the others."""

    table: Table
    columns: Columns
    rows: Rows
    problems: list[Problem]
    """Rows that were dropped (`--on-bad-row skip`), by line."""

    @property
    def repeats(self) -> int:
        """Rows that repeat an earlier one word for word."""
        return self.rows.repeats


def load_examples(path: Path, config: DataConfig) -> Loaded:
    """All usable rows of `path`; DataError with all faults unless `config` says to skip them."""
    table = read_table(path, config)
    columns = recognise(table, config)
    rows = Rows()
    problems = list(table.problems)
    seen: Counter[str] = Counter()
    for index, (cells, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        messages = _messages(cells, line, table, columns)
        if isinstance(messages, Problem):
            problems.append(replace(messages, item=table.item(index)))
            continue
        name = digest([[m.role, m.content] for m in messages])[:16]
        seen[name] += 1
        identity = name if seen[name] == 1 else f"{name}-{seen[name]}"
        rows.append(Row(identity, messages, line, table.item(index)))
    if config.on_bad_row == "stop":
        raise_problems(table.where, problems)
    table.release()
    if not len(rows):
        raise_problems(table.where, problems, remedy="correct these places: no row is left")
        raise DataError("no row is left", where=table.where)
    return Loaded(table, columns, rows, sorted(problems))


def _messages(
    cells: list[Cell], line: int, table: Table, columns: Columns
) -> tuple[Message, ...] | Problem:
    talk = (
        _conversation(cells, line, table, columns)
        if columns.get("messages") is not None
        else _pair(cells, line, table, columns)
    )
    if isinstance(talk, Problem):
        return talk
    system = _cell(cells, columns.get("system"))
    if not isinstance(system, str):
        return _nested(line, table, columns, "system")
    if not is_blank(system) and talk[0].role != "system":
        talk.insert(0, Message(role="system", content=system))
    return tuple(talk)


def _conversation(
    cells: list[Cell], line: int, table: Table, columns: Columns
) -> list[Message] | Problem:
    index = columns.parts["messages"]
    turns = turns_of(cells[index])
    if isinstance(turns, str):
        return Problem(
            line, f", column {quoted(table.columns[index], 30)}: {turns}", "conversation"
        )
    return [Message(role=role, content=text) for role, text in turns]


def _pair(cells: list[Cell], line: int, table: Table, columns: Columns) -> list[Message] | Problem:
    texts: dict[str, str] = {}
    for part in ("question", "context", "answer"):
        cell = _cell(cells, columns.get(part))
        if not isinstance(cell, str):
            return _nested(line, table, columns, part)
        texts[part] = cell
    for part in ("question", "answer"):
        if is_blank(texts[part]):
            name = quoted(table.columns[columns.parts[part]], 30)
            return Problem(line, f", column {name}: the {part} is empty", f"empty {part}")
    question = texts["question"]
    if not is_blank(texts["context"]):
        question += "\n\n" + texts["context"]
    return [
        Message(role="user", content=question),
        Message(role="assistant", content=texts["answer"]),
    ]


def _cell(cells: list[Cell], index: int | None) -> Cell:
    return "" if index is None else cells[index]


def _nested(line: int, table: Table, columns: Columns, part: str) -> Problem:
    name = quoted(table.columns[columns.parts[part]], 30)
    return Problem(line, f", column {name}: a list or object where text should be", "nested value")
