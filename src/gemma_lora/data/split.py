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
from collections.abc import Sequence
from typing import Literal

from gemma_lora.data.duplicates import near_duplicate_groups
from gemma_lora.data.examples import Row
from gemma_lora.errors import DataError

__all__ = ["MIN_ROWS", "Side", "cluster_rows", "default_sizes", "split_clusters"]

Side = Literal["train", "validation", "test"]

MIN_ROWS = 8
"""Fewer rows cannot be split into three parts that mean something."""


def cluster_rows(rows: Sequence[Row], threshold: float) -> list[str]:
    """For each row the name of its cluster: the smallest id in it, so independent of order."""
    groups = near_duplicate_groups([row.question for row in rows], threshold).tolist()
    names: dict[int, str] = {}
    for group, row in zip(groups, rows, strict=True):
        names[group] = min(names.get(group, row.id), row.id)
    return [names[group] for group in groups]


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
) -> list[Side]:
    """For each row (given by its cluster) its side; DataError where the sizes cannot be met.

    `test_rows`, `validation_rows`: sizes asked for, to be met exactly; None for the rule.
    """
    total = len(clusters)
    if total < MIN_ROWS:
        raise DataError(
            f"{total} usable rows are too few to train on and to judge",
            expected=f"at least {MIN_ROWS} rows; 100 and more for a verdict that means something",
            remedy="add rows to the file",
        )
    rule_test, rule_validation = default_sizes(total, own_test=own_test)
    wanted_test = 0 if own_test else test_rows or rule_test
    wanted_validation = validation_rows or rule_validation
    if wanted_test + wanted_validation > total * 0.9:
        raise DataError(
            f"{wanted_test} test and {wanted_validation} validation rows leave "
            f"{max(0, total - wanted_test - wanted_validation)} of {total} rows for training",
            expected="at least a tenth of the rows for training",
            remedy="choose smaller --test-rows and --validation-rows",
        )
    sizes = Counter(clusters)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    sides: dict[str, Side] = defaultdict(lambda: "train")
    _fill(sides, "test", wanted_test, order, sizes, exact=test_rows is not None)
    _fill(sides, "validation", wanted_validation, order, sizes, exact=validation_rows is not None)
    _check_some_training_rows(sides, sizes, total)
    return [sides[name] for name in clusters]


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
        raise DataError(
            f"{count} of the {wanted} {side} rows can be had without splitting near-duplicates",
            details=[
                f"{len(sizes)} clusters of questions; the largest has {max(sizes.values())} rows"
            ],
            remedy=f"ask for another number with --{side}-rows, or raise --near-duplicate "
            "(1.0 keeps only identical questions together)",
        )


def _check_some_training_rows(sides: dict[str, Side], sizes: Counter[str], total: int) -> None:
    held_out = sum(sizes[name] for name, side in sides.items() if side != "train")
    if total - held_out < max(2, total // 10):
        raise DataError(
            f"only {total - held_out} of {total} rows are left for training",
            remedy="choose smaller --test-rows and --validation-rows",
        )
