"""Which column is the question, the answer, the context, the system text, or the conversation.

Flags win; the rest goes by the usual names (`names.py`). Nothing is decided by content, with one
exception that is told: a context column that says the same in every row adds nothing and is left
out. Two equally good candidates are an error that lists the columns and the flags, as is a missing
answer column: a wrong guess would train the wrong thing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from gemma_lora.config import DataConfig
from gemma_lora.data.names import NAMES, key
from gemma_lora.data.table import Table, quoted, raise_problems
from gemma_lora.errors import DataError

__all__ = ["PARTS", "Columns", "recognise"]

PARTS = ("question", "answer", "context", "system", "messages")

_ALPACA = {key("instruction"), key("instructions"), key("Anweisung"), key("指令")}
_ALPACA_INPUT = {key("input"), key("Eingabe"), key("输入")}


@dataclass(slots=True)
class Columns:
    """Index of the column for each part that the file has, and how it was found."""

    parts: dict[str, int] = field(default_factory=dict[str, int])
    how: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def get(self, part: str) -> int | None:
        """Index of the column of `part`, or None."""
        return self.parts.get(part)


def recognise(table: Table, config: DataConfig) -> Columns:
    """The columns of `table`; DataError with all that is ambiguous or missing."""
    if not table.columns:  # no object of a JSON file could be read: that is the fault
        raise_problems(table.where, table.problems, remedy="correct these places: no row is left")
    found, off = _named(table, config)
    taken = set(found.parts.values())
    free = {i: key(name) for i, name in enumerate(table.columns) if name and i not in taken}
    candidates = {
        part: _candidates(free, part) if part not in found.parts and part not in off else []
        for part in PARTS
    }
    _alpaca_input(found, free, candidates, off)
    has = {part: part in found.parts or bool(candidates[part]) for part in PARTS}
    named_pair = "question" in found.parts or "answer" in found.parts
    faults: list[str] = []
    if "messages" in found.parts or (has["messages"] and not named_pair and not _pair(has)):
        wanted = ("messages", "system")
    else:
        wanted = ("question", "answer", "context", "system")
        if has["messages"] and not named_pair:
            names = ", ".join(quoted(table.columns[i], 30) for i in candidates["messages"])
            faults.append(
                f"there are question and answer columns, and a column of conversations: {names} "
                "(--messages-column, or --question-column and --answer-column)"
            )
    for part in wanted:
        options = candidates[part]
        if len(options) > 1:
            names = ", ".join(quoted(table.columns[i], 30) for i in options)
            faults.append(
                f"{len(options)} columns could be the {part}: {names} (--{part}-column NAME)"
            )
        elif options:
            found.parts[part] = options[0]
            found.how[part] = "by its name"
        elif part in ("question", "answer") and part not in found.parts:
            faults.append(f"no column looks like the {part} (--{part}-column NAME)")
    if faults:
        raise _not_recognised(table, faults)
    _drop_constant_context(table, found)
    return found


def _named(table: Table, config: DataConfig) -> tuple[Columns, set[str]]:
    """Parts that flags name, and parts that a flag switches off with `none`."""
    found, off = Columns(), set[str]()
    faults: list[str] = []
    for part in PARTS:
        name: str | None = getattr(config, f"{part}_column")
        if name is None:
            continue
        flag = f"--{part}-column"
        index = _find(table.columns, name)
        if index is None and key(name) == "none" and part not in ("question", "answer"):
            off.add(part)
        elif index is None:
            close = difflib.get_close_matches(name, [c for c in table.columns if c], n=1)
            hint = f"; did you mean {quoted(close[0], 30)}?" if close else ""
            faults.append(f"{flag}: there is no column {quoted(name, 30)}{hint}")
        elif index in found.parts.values():
            other = next(p for p, i in found.parts.items() if i == index)
            faults.append(f"{flag} and --{other}-column name the same column {quoted(name, 30)}")
        else:
            found.parts[part] = index
            found.how[part] = f"named by {flag}"
    if faults:
        raise _not_recognised(table, faults)
    return found, off


def _find(columns: list[str], name: str) -> int | None:
    if name in columns:
        return columns.index(name)
    alike = [i for i, column in enumerate(columns) if column and key(column) == key(name)]
    return alike[0] if len(alike) == 1 else None


def _candidates(free: dict[int, str], part: str) -> list[int]:
    names = NAMES[part]
    strong = [i for i, name in free.items() if name in names.strong]
    letters = {"q", "a"} <= set(free.values())  # alone, a column `a` is just a column
    return strong or [
        i for i, name in free.items() if name in names.weak and (len(name) > 1 or letters)
    ]


def _alpaca_input(
    found: Columns, free: dict[int, str], candidates: dict[str, list[int]], off: set[str]
) -> None:
    """`instruction` + `input`: the input is the context, as in Alpaca and its many kin."""
    if "context" in found.parts or "context" in off:
        return
    if not any(free.get(i) in _ALPACA for i in candidates["question"]):
        return
    candidates["context"] += [i for i, name in free.items() if name in _ALPACA_INPUT]


def _pair(has: dict[str, bool]) -> bool:
    return has["question"] and has["answer"]


def _drop_constant_context(table: Table, found: Columns) -> None:
    index = found.get("context")
    if index is None or found.how["context"] != "by its name" or len(table.rows) < 2:
        return
    first = table.rows[0][index]
    if isinstance(first, str) and first.strip() and all(r[index] == first for r in table.rows):
        name = table.columns[index]
        del found.parts["context"], found.how["context"]
        found.notes.append(
            f"column {quoted(name, 30)} says {quoted(first, 40)} in every row and is left out; "
            f"--context-column {name} would add it to every question"
        )


def _not_recognised(table: Table, faults: list[str]) -> DataError:
    listed = [
        f"column {i}: {quoted(name, 40)}"
        + (f", first {_sample(table, i - 1)}" if len(table.rows) else "")
        for i, name in enumerate(table.columns, start=1)
        if name
    ]
    more = [f"and {len(listed) - 20} more columns"] if len(listed) > 20 else []
    if any(problem.kind == "duplicate key" for problem in table.problems):
        count = sum(problem.kind == "duplicate key" for problem in table.problems)
        faults = [f"{count} x duplicate key", *faults]  # they may be what hides the column
    broken = [str(problem) for problem in sorted(table.problems)[:10]]
    if len(table.problems) > 10:
        broken.append(f"and {len(table.problems) - 10} more rows that cannot be read")
    header = f" (header in line {table.header_line})" if table.header_line else ""
    return DataError(
        "; ".join(faults),
        where=table.where,
        details=[*listed[:20], *more, *broken],
        expected=f"a question and an answer column, or one of conversations{header}",
        remedy="name the columns with --question-column and --answer-column; "
        "a file without a header needs one as its first line",
    )


def _sample(table: Table, index: int) -> str:
    cell = next((row[index] for row in table.rows if row[index]), "")
    return quoted(cell if isinstance(cell, str) else str(cell), 40)
