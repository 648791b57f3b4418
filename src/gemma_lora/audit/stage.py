"""Read, measure, split, and tell: the order of the data stage.

Reads the data file and, where one is named, the test file. `prepare` writes
split/{train,validation,test}.jsonl (sorted by id, so that the order of the source file changes
nothing), tokens/ for training and audit.json. Whatever is dropped is counted with its reason and its lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemma_lora.audit.facts import (
    answer_facts,
    duplicate_facts,
    leak_facts,
    row_facts,
    source_facts,
    token_facts,
)
from gemma_lora.audit.lengths import Measured, measure
from gemma_lora.audit.view import recognised_lines
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data import (
    Loaded,
    Questions,
    Rows,
    Side,
    cluster_questions,
    load_examples,
    place,
    split_clusters,
)
from gemma_lora.data.source import source_name
from gemma_lora.data.tokens import TokenStore
from gemma_lora.errors import ConfigError, DataError
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Example
from gemma_lora.rundir import RunDir, write_json, write_jsonl

__all__ = ["audit", "prepare"]

SCHEMA_VERSION = 1
FEW_QUESTIONS = 30
"""With fewer test questions only a very large difference can be told from chance."""
LEAKS_SHOWN = 3
"""Pairs in the warning; audit.json has more."""
_SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(slots=True)
class _File:
    """One source file, its usable rows and their lengths."""

    path: Path
    loaded: Loaded
    measured: Measured


Outlook = Callable[[NDArray[Any], NDArray[Any]], dict[str, Any]]
"""Memory that training will take, from tokens and tokens with loss of each training row."""


def prepare(
    config: Config,
    fmt: PromptFormat,
    run: RunDir,
    console: Console,
    *,
    outlook: Outlook | None = None,
) -> dict[str, Any]:
    """Write the split, its tokens and audit.json of `run`; returns the content of audit.json."""
    store = TokenStore(run.tokens)
    try:
        facts, split = _examine(config, fmt, console, store=store, outlook=outlook)
        files = {
            "train": run.train_rows,
            "validation": run.validation_rows,
            "test": run.test_rows,
        }
        for side, path in files.items():
            chosen = split.chosen(side)
            write_jsonl(path, split.examples(chosen))
            if side != "test":  # test questions are asked, not trained on
                store.keep(
                    path,
                    chosen,
                    fmt,
                    max_length=config.train.max_length,
                    keep_answer=config.data.on_long_row == "keep-answer",
                )
    finally:
        store.close()
    write_json(run.audit, facts)
    return facts


def audit(
    config: Config, fmt: PromptFormat, console: Console, *, outlook: Outlook | None = None
) -> dict[str, Any]:
    """The facts that `prepare` writes to audit.json, without a run folder.

    What was recognised is not told on the way, since `show` prints it.
    """
    return _examine(config, fmt, console, tell=False, outlook=outlook)[0]


@dataclass(frozen=True)
class _Split:
    """All rows, those of the data and then those of the user's test file, with their sides."""

    data: Rows
    test: Rows
    clusters: list[str]
    sides: list[Side]

    def chosen(self, side: str) -> list[int]:
        """Numbers of the side's rows, sorted by id."""
        names = [*self.data.ids(), *self.test.ids()]
        mine = (index for index, own in enumerate(self.sides) if own == side)
        return sorted(mine, key=names.__getitem__)

    def examples(self, chosen: Sequence[int]) -> Iterator[Example]:
        own = len(self.data)
        for index in chosen:
            row = self.data[index] if index < own else self.test[index - own]
            yield Example(
                id=row.id,
                messages=row.messages,
                cluster=self.clusters[index],
                line=row.line or row.item,
            )


def _examine(
    config: Config,
    fmt: PromptFormat,
    console: Console,
    *,
    tell: bool = True,
    store: TokenStore | None = None,
    outlook: Outlook | None = None,
) -> tuple[dict[str, Any], _Split]:
    before = len(console.warnings)
    data = _read(_path(config), config, fmt, console, tell, store)
    test: _File | None = None
    if config.data.test is not None:
        if config.data.test_rows is not None:
            raise ConfigError(
                "--test-rows takes rows from the data file, --test brings a file of its own",
                remedy="give one of the two",
            )
        test = _read(Path(config.data.test), config, fmt, console, tell)
        if len(test.measured.rows) < 2:
            raise DataError("fewer than 2 usable rows", where=str(test.path))
    own, test_rows = data.measured.rows, test.measured.rows if test else Rows()
    count = len(own) + len(test_rows)
    console.progress(f"looking for near-duplicates among {count:,} questions")
    questions = cluster_questions(chain(own, test_rows), config.data.near_duplicate)
    sides: list[Side] = split_clusters(
        questions.clusters[: len(own)],
        config.seed,
        test_rows=config.data.test_rows,
        validation_rows=config.data.validation_rows,
        own_test=test is not None,
        different=questions.different(len(own)),
        where=data.loaded.table.where,
    )
    sides.extend("test" for _ in range(len(test_rows)))
    split = _Split(own, test_rows, questions.clusters, sides)
    facts = _facts(config, fmt, data, test, questions, sides, console)
    trained = np.array([side == "train" for side in sides[: len(own)]])
    measured = data.measured
    facts["memory"] = (
        outlook(measured.lengths[trained], measured.supervised[trained]) if outlook else None
    )
    facts["warnings"] = console.warnings[before:]
    return facts, split


def _path(config: Config) -> Path:
    if config.data.path is None:
        raise ConfigError("no data file is named", expected="the argument DATA")
    return Path(config.data.path)


def _read(
    path: Path,
    config: Config,
    fmt: PromptFormat,
    console: Console,
    tell: bool,
    store: TokenStore | None = None,
) -> _File:
    loaded = load_examples(path, config.data)
    for line in recognised_lines(source_facts(path, loaded)) if tell else ():
        console.note(line)
    return _File(path, loaded, measure(loaded, fmt, config, console, store))


def _facts(
    config: Config,
    fmt: PromptFormat,
    data: _File,
    test: _File | None,
    questions: Questions,
    sides: list[Side],
    console: Console,
) -> dict[str, Any]:
    """All of audit.json but the warnings, which go to the console."""
    counts = Counter(sides)
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **source_facts(data.path, data.loaded),
        "rows": row_facts(data.loaded, data.measured),
        "test_file": None,
        "duplicates": duplicate_facts(data.measured.rows, questions),
        "answers": answer_facts(data.measured.rows),
        "leaks": None,
        "split": {
            **{side: counts[side] for side in _SIDES},
            "clusters": {
                side: len({c for c, s in zip(questions.clusters, sides, strict=True) if s == side})
                for side in _SIDES
            },
            "seed": config.seed,
            "near_duplicate": config.data.near_duplicate,
        },
        "tokens": token_facts(data.measured, config.train.max_length),
        "rendered": data.measured.rendered(fmt),
    }
    if test is not None:
        facts["test_file"] = {
            **source_facts(test.path, test.loaded),
            "rows": row_facts(test.loaded, test.measured),
        }
        facts["leaks"] = leak_facts(
            data.measured.rows,
            test.measured.rows,
            questions,
            data_file=source_name(data.path),
            test_file=source_name(test.path),
        )
    _warn(facts, console)
    _warn_of_earlier_answers(data, fmt, console)
    console.note(
        f"split: {counts['train']:,} train, {counts['validation']:,} validation, "
        f"{counts['test']:,} test"
    )
    return facts


def _warn_of_earlier_answers(data: _File, fmt: PromptFormat, console: Console) -> None:
    answers = [sum(m.role == "assistant" for m in row.messages) for row in data.measured.rows]
    several = sum(count > 1 for count in answers)
    if several and not fmt.prefix_consistent:
        console.warn(
            f"{several} of {len(answers)} rows have several answers, and only the last of each is "
            f"trained: when it asks, the template of {fmt.name} writes text that it leaves out of "
            "finished turns. To train an answer, make it the last one of a row"
        )


def _warn(facts: dict[str, Any], console: Console) -> None:
    """What does not stop training, but may spoil its result."""
    for found, name in ((facts, "the data"), (facts["test_file"], "the test file")):
        if found is None:
            continue
        rows = found["rows"]
        if rows["dropped"]:
            reasons = ", ".join(f"{d['count']} x {d['reason']}" for d in rows["dropped_by_reason"])
            console.warn(f"{rows['dropped']} of {rows['read']} rows of {name} dropped: {reasons}")
        if rows["blank"] and found["source"]["format"] in ("json", "jsonl"):
            # an empty line of a CSV file is nothing, an object without text was meant as a row
            shown = ", ".join(rows["blank_places"][:3])
            more = ", …" if rows["blank"] > 3 else ""
            console.warn(
                f"{rows['blank']} rows of {name} hold no text at all and are left out: {shown}{more}"
            )
        if rows["truncated"]:
            console.warn(
                f"{rows['truncated']} rows of {name} are over --max-length and lose the beginning "
                "of their question in training"
            )
        if rows["control_text"]:
            console.warn(
                f"{rows['control_text']} rows of {name} contain text that looks like a control "
                "token of the template; it is encoded as plain text"
            )
    if facts["split"]["test"] < FEW_QUESTIONS:
        console.warn(
            f"only {facts['split']['test']} test questions: with fewer than {FEW_QUESTIONS} a verdict "
            "is weak, and often none can be given; more rows give a larger test"
        )
    duplicates = facts["duplicates"]
    used = facts["rows"]["used"]
    if duplicates["largest_share"] > 0.2:
        console.warn(
            f"one cluster of near-duplicate questions has {duplicates['largest']} of {used} rows "
            f"({duplicates['largest_share']:.0%}): the data say the same thing over and over"
        )
    if duplicates["repeated_rows"] > 0.1 * used:
        console.warn(
            f"{duplicates['repeated_rows']} of {used} rows repeat an earlier row word for word"
        )
    answers = facts["answers"]
    if used >= 20 and answers["most_common_count"] > 0.5 * used:
        console.warn(
            f"{answers['most_common_count']} of {used} rows have the same answer: "
            "the model may learn to say nothing else"
        )
    leaks = facts["leaks"]
    if leaks and leaks["exact"] + leaks["near"]:
        shown = "; ".join(
            f"{e['test_file']} {place(e['test_line'], e.get('test_item', 0))} and "
            f"{e['data_file']} {place(e['data_line'], e.get('data_item', 0))}"
            for e in leaks["examples"][:LEAKS_SHOWN]
        )
        if leaks["exact"] + leaks["near"] > LEAKS_SHOWN:
            shown += "; more pairs in audit.json"
        console.warn(
            f"leak: {leaks['exact']} of {leaks['test_rows']} test questions are in the training or "
            f"validation rows word for word, {leaks['near']} nearly so; their answers may be "
            "remembered, so the verdict is too good. Remove these rows from one of the two files: "
            + shown
        )
