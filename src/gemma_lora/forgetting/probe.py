"""The questions with which forgetting is measured: bundled, the user's own, or a published set.

`load_probe` reads `general` (probe/general.jsonl of this package), a table with questions and answers
(any format of `data`; with `choices` or columns A, B, C, ... where there are options), MMLU's CSV files
as they are published (no header: question, A, B, C, D, letter), a folder of those, and GSM8K's JSON
lines. Writes nothing. Refuses a file with all its faults together; no row is left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

from gemma_lora.config import DataConfig
from gemma_lora.data.cells import Cell
from gemma_lora.data.columns import recognise
from gemma_lora.data.names import key
from gemma_lora.data.reading import read_table
from gemma_lora.data.table import Problem, Table, is_blank, quoted, raise_problems
from gemma_lora.errors import ConfigError, DataError
from gemma_lora.rundir import digest

__all__ = ["GENERAL", "LETTERS", "NONE", "Probe", "ProbeItem", "load_probe"]

GENERAL, NONE = "general", "none"
LETTERS = "ABCDEFGHIJ"
_MMLU = "six cells without a header: question, four options, and the letter A, B, C or D"
_FINAL = re.compile(r"\n#### \S[^\n]*\s*$")
"""How an answer of GSM8K ends."""


@dataclass(frozen=True)
class ProbeItem:
    """One question with its reference answer and, where it has them, options."""

    id: str
    category: str
    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    right: str | None = None
    """Letter of the right option."""

    @property
    def cluster(self) -> str:
        """Items with the same question share it."""
        return digest(" ".join(self.question.split()).casefold())[:16]

    @property
    def choice_question(self) -> str:
        """The question with its options, as MMLU asks: a letter is wanted."""
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices or ())]  # noqa: B905
        return "\n".join([self.question, "", *lines, "", "Answer with the letter only."])


@dataclass(frozen=True)
class Probe:
    name: str
    """`general`, or the last part of the path."""
    kind: str
    """`bundled`, `own`, `MMLU` or `GSM8K`."""
    items: tuple[ProbeItem, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that is asked."""
        return digest(
            [[i.id, i.category, i.question, i.answer, i.choices, i.right] for i in self.items]
        )


def load_probe(name: str) -> Probe | None:
    """The probe that `--probe` names; None for `none`. ConfigError, or DataError with all faults."""
    if name == NONE:
        return None
    if name == GENERAL:
        bundled = resources.files("gemma_lora").joinpath("probe", "general.jsonl")
        with resources.as_file(bundled) as path:
            return Probe(GENERAL, "bundled", _from_table(path))
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            "there is no such file or folder",
            where=f"--probe {name}",
            expected="`general`, `none`, a file of questions and answers, or a folder of MMLU's CSV files",
        )
    if path.is_dir():
        return Probe(path.resolve().name, "MMLU", _from_folder(path))
    if path.suffix.lower() == ".csv" and _is_mmlu(path):
        return Probe(path.name, "MMLU", _from_mmlu([path]))
    items = _from_table(path)
    gsm8k = all(item.choices is None and _FINAL.search(item.answer) for item in items)
    if gsm8k:
        return Probe(path.name, "GSM8K", tuple(replace(i, category="gsm8k") for i in items))
    return Probe(path.name, "own", items)


# ---------------------------------------------------------------------- MMLU


def _from_folder(folder: Path) -> tuple[ProbeItem, ...]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".csv")
    if not files:
        inner = sorted(part.name for part in folder.iterdir() if part.is_dir())
        raise DataError(
            "there is no CSV file in the folder",
            where=str(folder),
            details=[f"folders in it: {', '.join(inner[:10])}"] if inner else (),
            expected=f"MMLU's files, as in its folder data/test: {_MMLU}",
        )
    return _from_mmlu(files)


def _is_mmlu(path: Path) -> bool:
    """Whether the first record is one of MMLU's; a header is not."""
    try:
        first = next(_records(path), (1, [""]))[1]
    except (csv.Error, UnicodeDecodeError):
        return False
    return len(first) == 6 and first[-1].strip() in tuple("ABCD")


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it begins at."""
    text = path.read_bytes().decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begin = 1
    for cells in reader:
        yield begin, cells
        begin = reader.line_num + 1


def _from_mmlu(files: Sequence[Path]) -> tuple[ProbeItem, ...]:
    items: list[ProbeItem] = []
    details: list[str] = []
    subjects = [re.sub(r"_(test|dev|val)$", "", file.stem) for file in files]
    for file, subject in zip(files, subjects, strict=True):
        # several files of one subject (x_test, x_val) number their questions apart
        prefix = subject if subjects.count(subject) == 1 else file.stem
        number = 0
        try:
            for line, cells in _records(file):
                if not cells:
                    continue  # an empty line at the end
                number += 1
                fault = _mmlu_fault(cells)
                if fault:
                    details.append(f"{file.name}, line {line}: {fault}")
                    continue
                question, *choices, letter = cells
                right = letter.strip()
                answer = choices[LETTERS.index(right)]
                items.append(
                    ProbeItem(
                        f"{prefix}-{number}", subject, question, answer, tuple(choices), right
                    )
                )
        except (csv.Error, UnicodeDecodeError) as error:
            details.append(f"{file.name}: {error}")
        if not number:
            details.append(f"{file.name}: there is no question in it")
    counts = Counter(item.id for item in items)
    details += [f"the id {name} is that of {n} questions" for name, n in counts.items() if n > 1]
    _refuse(str(files[0].parent if len(files) > 1 else files[0]), details, expected=_MMLU)
    return tuple(items)


def _mmlu_fault(cells: Sequence[str]) -> str | None:
    if len(cells) != 6:
        return f"{len(cells)} cells"
    if cells[-1].strip() not in tuple("ABCD"):
        return f"the last cell is {quoted(cells[-1], 30)}, not a letter A to D"
    empty = [
        name for name, cell in zip(("question", *"ABCD"), cells, strict=False) if is_blank(cell)
    ]
    return f"empty: {', '.join(empty)}" if empty else None


def _refuse(where: str, details: Sequence[str], *, expected: str) -> None:
    if not details:
        return
    shown = [*details[:20], *([f"and {len(details) - 20} more"] if len(details) > 20 else [])]
    noun = "place is" if len(details) == 1 else "places are"
    raise DataError(
        f"{len(details)} {noun} wrong",
        where=where,
        details=shown,
        expected=expected,
        remedy="correct them, or name another --probe",
    )


# ---------------------------------------------------------------------- tables


def _from_table(path: Path) -> tuple[ProbeItem, ...]:
    table = read_table(path, DataConfig())
    columns = recognise(table, DataConfig())
    if columns.get("question") is None or columns.get("answer") is None:
        raise DataError(
            "a probe is made of questions and answers",
            where=table.where,
            expected="columns `question` and `answer`, with options also `choices` or A, B, C, ...",
        )
    problems = list(table.problems)
    items: list[ProbeItem] = []
    for index, (cells, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        made = _item(index, cells, table, columns.parts)
        if isinstance(made, str):
            problems.append(Problem(line, f": {made}", "row", table.item(index)))
        else:
            items.append(made)
    seen: dict[str, int] = {}
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
    twice = [name for name, count in seen.items() if count > 1]
    raise_problems(
        table.where,
        problems,
        first=[f"the id {quoted(name, 30)} stands {seen[name]} times" for name in twice],
        remedy="correct these places, or name another --probe",
    )
    return tuple(items)


def _item(index: int, cells: list[Cell], table: Table, parts: dict[str, int]) -> ProbeItem | str:
    texts: dict[str, str] = {}
    for part in ("question", "answer"):
        cell = cells[parts[part]]
        if not isinstance(cell, str) or is_blank(cell):
            return f"the {part} is {'empty' if isinstance(cell, str) else 'no text'}"
        texts[part] = cell
    if "context" in parts and isinstance(context := cells[parts["context"]], str):
        texts["question"] += "" if is_blank(context) else "\n\n" + context
    by_name = {key(name): cell for name, cell in zip(table.columns, cells, strict=False) if name}
    category = by_name.get(key("category"), by_name.get(key("subject"), ""))
    identity = by_name.get("id", "")
    name = identity if isinstance(identity, str) and identity else f"row-{index + 1}"
    kind = category if isinstance(category, str) and category else "all"
    choices = _choices(table, cells)
    if isinstance(choices, str):
        return choices
    if choices is None:
        return ProbeItem(name, kind, texts["question"], texts["answer"])
    stated = by_name.get("right", "")
    right = _right(texts["answer"], choices, stated if isinstance(stated, str) else "")
    if right is None:
        return (
            f"the answer {quoted(texts['answer'], 30)} is none of the choices and no letter of one"
        )
    answer = texts["answer"]
    if answer.strip() in tuple(LETTERS[: len(choices)]) and answer not in choices:
        answer = choices[LETTERS.index(answer.strip())]
    return ProbeItem(name, kind, texts["question"], answer, choices, right)


def _choices(table: Table, cells: Sequence[Cell]) -> tuple[str, ...] | str | None:
    """The options of a row; None where it has none, or what is wrong with them."""
    for name, cell in zip(table.columns, cells, strict=False):
        if key(name) in (key("choices"), key("options")):
            if isinstance(cell, str) and is_blank(cell):
                return None
            return _checked(_listed(cell))
    by_letter = dict(zip(table.columns, cells, strict=False))
    found: list[Any] = []
    for letter in LETTERS:
        cell = by_letter.get(letter, "")
        if isinstance(cell, str) and is_blank(cell):
            break
        found.append(cell)
    return _checked(found) if found else None


def _listed(cell: Cell) -> Any:
    if isinstance(cell, str):
        try:
            return json.loads(cell)
        except ValueError:
            return None
    return cell


def _checked(found: Any) -> tuple[str, ...] | str:
    options = cast(list[Any], found) if isinstance(found, list) else []
    texts = [text for text in options if isinstance(text, str) and not is_blank(text)]
    if len(texts) != len(options) or not 2 <= len(texts) <= len(LETTERS):
        return f"the choices are not a list of 2 to {len(LETTERS)} texts"
    if len(set(texts)) != len(texts):
        return "a choice stands there twice"
    return tuple(texts)


def _right(answer: str, choices: Sequence[str], stated: str) -> str | None:
    letters = LETTERS[: len(choices)]
    if stated.strip():
        return stated.strip() if stated.strip() in tuple(letters) else None
    if answer in choices:
        return letters[list(choices).index(answer)]
    return answer.strip() if answer.strip() in tuple(letters) else None
