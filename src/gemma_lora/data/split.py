"""Train, validation and test: whole clusters of near-duplicate questions, the same in any order.

The order of clusters is a hash of the seed and of what is in them, so neither the order of the file
nor rows added elsewhere move a row without need. Sizes where none are asked for: test a fifth of the
rows, at least 60 and at most 200, never over a third; validation a tenth, 16 to 200, never over a
sixth. Validation serves early stopping and the choice of the checkpoint; only answering and judging
read test. Reads and writes no file.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gemma_lora.data.cells import Row
from gemma_lora.data.duplicates import groups_of
from gemma_lora.data.shingles import Ints, Texts
from gemma_lora.errors import DataError

__all__ = [
    "MIN_ROWS",
    "Questions",
    "Side",
    "cluster_questions",
    "cluster_rows",
    "default_sizes",
    "split_clusters",
]

Side = Literal["train", "validation", "test"]

MIN_ROWS = 8
"""Fewer rows cannot be split into three parts that mean something."""


@dataclass(frozen=True)
class Questions:
    """What belongs together among N rows."""

    clusters: list[str]
    """(N,) name of each row's cluster: the smallest id in it, so independent of order."""
    number: Ints
    """(N,) which of the different questions each row asks."""

    def different(self, rows: int) -> int:
        """How many different questions the first `rows` rows ask."""
        return len(np.unique(self.number[:rows]))


def cluster_questions(rows: Iterable[Row], threshold: float) -> Questions:
    """Clusters of the rows; goes through them once."""
    import pyarrow as pa

    ids: list[str] = []

    def questions() -> Iterator[str]:
        for row in rows:
            ids.append(row.id)
            yield row.question

    texts = Texts(questions())
    groups = groups_of(texts, threshold).tolist()
    names: dict[int, str] = {}
    for group, name in zip(groups, ids, strict=True):
        names[group] = min(names.get(group, name), name)
    found = Questions([names[group] for group in groups], texts.number)
    del texts
    pa.default_memory_pool().release_unused()
    return found


def cluster_rows(rows: Iterable[Row], threshold: float) -> list[str]:
    """For each row the name of its cluster."""
    return cluster_questions(rows, threshold).clusters


def default_sizes(rows: int, *, own_test: bool) -> tuple[int, int]:
    """Rows of test (0 where the user brings a test file) and of validation for `rows` rows."""
    test = 0 if own_test else max(1, min(max(rows // 5, 60), 200, rows // 3))
    validation = max(1, min(max(rows // 10, 16), 200, rows // 6))
    return test, validation


def split_clusters(
    clusters: Sequence[str],
    seed: int,
    *,
    test_rows: int | None,
    validation_rows: int | None,
    own_test: bool = False,
    different: int | None = None,
    where: str | None = None,
) -> list[Side]:
    """For each row (given by its cluster) its side; DataError where the sizes cannot be met.

    `test_rows`, `validation_rows`: sizes asked for, to be met exactly; None for the rule.
    `different`: how many different questions there are, for the remedy; `where`: the file, for errors.
    """
    total = len(clusters)
    if total < MIN_ROWS:
        raise DataError(
            f"{total} usable rows are too few to train on and to judge",
            where=where,
            expected=f"at least {MIN_ROWS} rows; 100 and more for a verdict that means something",
            remedy="add rows to the file",
        )
    if different == 1:
        raise DataError(
            f"all {total} rows ask the same question",
            where=where,
            expected="different questions, since those for the test must not be among the learned ones",
            remedy="add rows with other questions",
        )
    rule_test, rule_validation = default_sizes(total, own_test=own_test)
    wanted_test = 0 if own_test else test_rows or rule_test
    wanted_validation = validation_rows or rule_validation
    if wanted_test + wanted_validation > total * 0.9:
        raise DataError(
            f"{wanted_test} test and {wanted_validation} validation rows leave "
            f"{max(0, total - wanted_test - wanted_validation)} of {total} rows for training",
            where=where,
            expected="at least a tenth of the rows for training",
            remedy="choose smaller --test-rows and --validation-rows",
        )
    sizes = Counter(clusters)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    sides: dict[str, Side] = defaultdict(lambda: "train")
    try:
        _fill(sides, "test", wanted_test, order, sizes, exact=test_rows is not None)
        _fill(
            sides, "validation", wanted_validation, order, sizes, exact=validation_rows is not None
        )
    except _CannotFill as fault:
        raise _cannot_fill(fault, sizes, different, where) from None
    _check_some_training_rows(sides, sizes, total, where)
    return [sides[name] for name in clusters]


class _CannotFill(Exception):
    """`side` gets only `count` of the `wanted` rows."""

    def __init__(self, side: Side, count: int, wanted: int) -> None:
        super().__init__(side, count, wanted)
        self.side, self.count, self.wanted = side, count, wanted


def _cannot_fill(
    fault: _CannotFill, sizes: Counter[str], different: int | None, where: str | None
) -> DataError:
    # where clusters hold identical questions only, no threshold would take them apart
    alike = different is None or different > len(sizes)
    other = (
        "raise --near-duplicate (1.0 keeps only identical questions together)"
        if alike
        else "add rows with other questions"
    )
    return DataError(
        f"{fault.count} of the {fault.wanted} {fault.side} rows can be had without splitting "
        + ("near-duplicates" if alike else "rows that ask the same question"),
        where=where,
        details=[f"{len(sizes)} clusters of questions; the largest has {max(sizes.values())} rows"],
        remedy=f"ask for another number with --{fault.side}-rows, or {other}",
    )


def _fill(
    sides: dict[str, Side],
    side: Side,
    wanted: int,
    order: list[str],
    sizes: Counter[str],
    *,
    exact: bool,
) -> None:
    """Give `side` clusters in their order until it has `wanted` rows; big clusters come last.

    _CannotFill where an exact number cannot be met, or no cluster is small enough.
    A cluster that would be over a fifth of the side could decide a result alone.
    """
    if wanted == 0:
        return
    count = 0
    for biggest in (max(1, wanted // 5), wanted):
        for name in order:
            if name not in sides and sizes[name] <= min(biggest, wanted - count):
                sides[name] = side
                count += sizes[name]
        if count == wanted:
            return
    if count == 0 and not exact:
        # only big clusters are left: the smallest of them, if training keeps most of the rows
        free = [name for name in order if name not in sides]
        smallest = min(free, key=lambda name: sizes[name], default=None)
        if smallest is not None and sizes[smallest] <= sum(sizes.values()) // 3:
            sides[smallest] = side
            return
    if count == 0 or exact:
        raise _CannotFill(side, count, wanted)


def _check_some_training_rows(
    sides: dict[str, Side], sizes: Counter[str], total: int, where: str | None
) -> None:
    held_out = sum(sizes[name] for name, side in sides.items() if side != "train")
    if total - held_out < max(2, total // 10):
        raise DataError(
            f"only {total - held_out} of {total} rows are left for training",
            where=where,
            remedy="choose smaller --test-rows and --validation-rows",
        )
