"""What is asked: the run's test rows, or the rows of a user's file, with or without answers.

Reads split/test.jsonl, or any data file through `data`'s reader and its recognition of columns; a
file without an answer column is read as if that column were there and empty, and a conversation may
end with the user. What cannot be asked is an error; rows are never left out. Writes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_lora.config import DataConfig
from gemma_lora.data.cells import Cell
from gemma_lora.data.columns import Columns, recognise
from gemma_lora.data.conversations import turns_of
from gemma_lora.data.reading import read_table
from gemma_lora.data.table import Problem, Table, is_blank, quoted, raise_problems
from gemma_lora.errors import DataError
from gemma_lora.records import Example, Message
from gemma_lora.rundir import digest

__all__ = ["Question", "load_questions", "set_name", "test_questions"]


_FLAG = re.compile(r" \(--[^)]*\)")


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
    # a row without any text is meant as a question here, unlike an empty line at the file's end
    problems = [*table.problems, *(replace(p, kind="empty question") for p in table.empty)]
    seen: dict[str, int] = {}
    for index, (cells, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        row = _question(cells, line, table, columns)
        if isinstance(row, Problem):
            problems.append(replace(row, item=table.item(index)))
            continue
        messages, reference = row
        name = digest([[m.role, m.content] for m in messages])[:16]
        seen[name] = seen.get(name, 0) + 1
        identity = name if seen[name] == 1 else f"{name}-{seen[name]}"
        found.append(Question(identity, messages, reference, cluster=name))
    raise_problems(table.where, problems, remedy="correct or remove these rows")
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
    fault = faults[1]
    if not table.columns:
        raise fault  # no row could be read: not a matter of columns
    raise DataError(
        _FLAG.sub("", fault.found),  # `answer` has no flags for columns
        where=fault.where,
        details=fault.details,
        expected="a column of questions, or one of conversations",
        remedy="call the column of the questions `question` in the file's header",
    )


def _question(
    cells: list[Cell], line: int, table: Table, columns: Columns
) -> tuple[tuple[Message, ...], str | None] | Problem:
    if columns.get("messages") is not None:
        turns = turns_of(cells[columns.parts["messages"]], answered=False)
        if isinstance(turns, str):
            return Problem(line, f": {turns}", "conversation")
        talk = [Message(role=role, content=text) for role, text in turns]
        index = columns.get("system")
        system = "" if index is None else cells[index]
        if isinstance(system, str) and not is_blank(system) and talk[0].role != "system":
            talk.insert(0, Message(role="system", content=system))
        if talk[-1].role == "user":
            return tuple(talk), None
        return tuple(talk[:-1]), talk[-1].content
    texts: dict[str, str] = {}
    for part in ("question", "context", "system", "answer"):
        index = columns.get(part)
        cell = "" if index is None else cells[index]
        if not isinstance(cell, str):
            name = quoted(table.columns[columns.parts[part]], 30)
            return Problem(line, f", column {name}: no text", "nested value")
        texts[part] = cell
    if is_blank(texts["question"]):
        return Problem(line, ": the question is empty", "empty question")
    question = texts["question"] + (
        "\n\n" + texts["context"] if not is_blank(texts["context"]) else ""
    )
    messages = [Message(role="user", content=question)]
    if not is_blank(texts["system"]):
        messages.insert(0, Message(role="system", content=texts["system"]))
    return tuple(messages), None if is_blank(texts["answer"]) else texts["answer"]
