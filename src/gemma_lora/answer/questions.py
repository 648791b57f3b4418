"""What is asked: the run's test rows, or the rows of a user's file, with or without answers.

Reads split/test.jsonl, or any data file through `data`'s reader and its recognition of columns; a
file without an answer column is read as if that column were there and empty. Writes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_lora.config import DataConfig
from gemma_lora.data.columns import Columns, recognise
from gemma_lora.data.conversations import turns_of
from gemma_lora.data.reading import read_table
from gemma_lora.data.table import Cell, Problem, Table, quoted, raise_problems
from gemma_lora.errors import DataError
from gemma_lora.records import Example, Message
from gemma_lora.rundir import digest

__all__ = ["Question", "load_questions", "set_name", "test_questions"]


@dataclass(frozen=True)
class Question:
    """One prompt with the user's own answer, if there is one."""

    id: str
    messages: tuple[Message, ...]
    reference: str | None
    cluster: str


def test_questions(rows: list[Example]) -> list[Question]:
    """The run's test rows."""
    return [Question(row.id, row.prompt, row.reference, row.cluster) for row in rows]


def set_name(path: Path) -> str:
    """Name of the folder below answers/ for a file of questions; never `test`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:60] or "file"
    return f"questions-{stem}"


def load_questions(path: Path, config: DataConfig) -> list[Question]:
    """All questions of `path`; DataError for what cannot be asked, all of it together."""
    table = read_table(path, config)
    columns, table = _columns(table, config)
    found: list[Question] = []
    problems = list(table.problems)
    seen: dict[str, int] = {}
    for cells, line in zip(table.rows, table.lines, strict=True):
        row = _question(cells, line, table, columns)
        if isinstance(row, Problem):
            problems.append(row)
            continue
        messages, reference = row
        name = digest([[m.role, m.content] for m in messages])[:16]
        seen[name] = seen.get(name, 0) + 1
        identity = name if seen[name] == 1 else f"{name}-{seen[name]}"
        found.append(Question(identity, messages, reference, cluster=name))
    if config.on_bad_row == "stop":
        raise_problems(table.where, problems)
    if not found:
        raise DataError("there is no question in the file", where=table.where)
    return found


def _columns(table: Table, config: DataConfig) -> tuple[Columns, Table]:
    """Columns with the answer optional; flags that name the training file's columns are tried first."""
    bare = DataConfig(delimiter=config.delimiter, encoding=config.encoding)
    padded = replace(
        table, columns=[*table.columns, "answer"], rows=[[*row, ""] for row in table.rows]
    )
    faults: list[DataError] = []
    for settings, candidate in ((config, table), (bare, table), (config, padded), (bare, padded)):
        try:
            return recognise(candidate, settings), candidate
        except DataError as error:
            faults.append(error)
    raise faults[1]


def _question(
    cells: list[Cell], line: int, table: Table, columns: Columns
) -> tuple[tuple[Message, ...], str | None] | Problem:
    if columns.get("messages") is not None:
        turns = turns_of(cells[columns.parts["messages"]])
        if isinstance(turns, str):
            return Problem(line, f": {turns}", "conversation")
        talk = [Message(role=role, content=text) for role, text in turns]
        return tuple(talk[:-1]), talk[-1].content
    texts: dict[str, str] = {}
    for part in ("question", "context", "system", "answer"):
        index = columns.get(part)
        cell = "" if index is None else cells[index]
        if not isinstance(cell, str):
            name = quoted(table.columns[columns.parts[part]], 30)
            return Problem(line, f", column {name}: no text", "nested value")
        texts[part] = cell
    if not texts["question"].strip():
        return Problem(line, ": the question is empty", "empty question")
    question = texts["question"] + ("\n\n" + texts["context"] if texts["context"].strip() else "")
    messages = [Message(role="user", content=question)]
    if texts["system"].strip():
        messages.insert(0, Message(role="system", content=texts["system"]))
    return tuple(messages), texts["answer"] if texts["answer"].strip() else None
