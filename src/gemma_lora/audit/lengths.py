"""Token lengths of rows, and what is done with rows that are too long.

Each row is encoded once, exactly as training will have it, and kept for it. Rows over the
maximum length are dropped, or, with `--on-long-row keep-answer`, kept for training to cut; more than
5 % dropped stops with the length that would fit. No row without a supervised token stays.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data import Loaded, Problem, Rows, raise_problems
from gemma_lora.data.tokens import TokenStore, batches, fitted
from gemma_lora.errors import DataError
from gemma_lora.prompt import PromptFormat

__all__ = ["MOST_LONG_ROWS", "Measured", "measure"]

MOST_LONG_ROWS = 0.05
"""Share of rows that may be dropped for their length before it is an error."""


@dataclass(slots=True)
class Measured:
    """The rows that stay, their lengths, and what happened to the rest."""

    rows: Rows
    lengths: NDArray[np.int64]
    """Tokens of each row as trained, so at most the maximum length."""
    supervised: NDArray[np.int64]
    """Tokens of each row that carry loss."""
    too_long: Rows
    """Rows dropped for their length."""
    truncated: int
    """Rows that training will cut."""
    rejected: list[Problem]
    """Rows that the template cannot take, dropped."""
    cells_trimmed: int
    control_text: int

    def rendered(self, fmt: PromptFormat) -> dict[str, Any] | None:
        """A row of middling length as training sees it: ids with loss flags, and text runs."""
        if not len(self.rows):
            return None
        middle = len(self.rows) // 2
        length = np.partition(self.lengths, middle)[middle]
        alike = self.rows.choose(np.flatnonzero(self.lengths == length))
        at = middle - int((self.lengths < length).sum())
        row = alike[sorted(range(len(alike)), key=alike.ids().__getitem__)[at]]
        encoded = fmt.example(row.messages, max_length=int(self.lengths.max()))
        return {
            "id": row.id,
            "line": row.line,
            "place": row.place,
            "ids": list(encoded.ids),
            "loss": [int(flag) for flag in encoded.supervised],
            "runs": [[text, loss] for text, loss in fmt.runs(encoded)],
        }


def measure(
    loaded: Loaded,
    fmt: PromptFormat,
    config: Config,
    console: Console,
    store: TokenStore | None = None,
) -> Measured:
    """Encode all rows of one file; DataError where too many would be dropped.

    The tokens of the rows that stay go to `store`, in their order.
    """
    limit = config.train.max_length
    keep = config.data.on_long_row == "keep-answer"
    used, lengths, supervised = array("q"), array("q"), array("q")
    whole_lengths, too_long = array("q"), array("q")
    rejected: list[Problem] = []
    truncated = cells_trimmed = control_text = number = 0
    markers = re.compile("|".join(map(re.escape, _markers(fmt))))
    for batch in batches(loaded.rows):
        console.progress(f"counting tokens: row {number:,} of {len(loaded.rows):,}")
        encoded = fmt.examples([row.messages for row in batch])
        for index, (row, whole) in enumerate(zip(batch, encoded, strict=True), start=number):
            if isinstance(whole, DataError):
                rejected.append(Problem(row.line, f": {whole.found}", "template", row.item))
                continue
            whole_lengths.append(len(whole))
            fits = fitted(whole, row.messages, fmt, max_length=limit, keep_answer=keep)
            if fits is None:
                too_long.append(index)
                continue
            truncated += fits is not whole
            loss = sum(fits.supervised)
            if not loss:
                problem = Problem(row.line, ": no token would carry loss", "no loss", row.item)
                rejected.append(problem)
                continue
            used.append(index)
            lengths.append(len(fits))
            supervised.append(loss)
            if store is not None:
                store.add(fits, shortened=fits is not whole)
            cells_trimmed += fmt.cells_changed(row.messages)
            control_text += any(markers.search(turn.content) for turn in row.messages)
        number += len(batch)
    where = loaded.table.where
    if config.data.on_bad_row == "stop":
        raise_problems(where, rejected)
    found = Measured(
        rows=loaded.rows.choose(used),
        lengths=np.array(lengths, dtype=np.int64),
        supervised=np.array(supervised, dtype=np.int64),
        too_long=loaded.rows.choose(too_long),
        truncated=truncated,
        rejected=rejected,
        cells_trimmed=cells_trimmed,
        control_text=control_text,
    )
    _check_too_long(found, np.array(whole_lengths), limit, keep, where)
    return found


def _markers(fmt: PromptFormat) -> list[str]:
    """Literals that the data should not contain: special tokens, and those of the template."""
    return sorted({str(token) for token in fmt.tokenizer.all_special_tokens} | fmt.markers)


def _check_too_long(
    found: Measured, lengths: NDArray[np.int64], limit: int, keep: bool, where: str
) -> None:
    dropped = len(found.too_long)
    if dropped <= MOST_LONG_ROWS * len(lengths) and (len(found.rows) or not dropped):
        if not len(found.rows):
            raise DataError("no usable row is left", where=where)
        return
    enough = int(np.ceil(np.percentile(lengths, 99, method="higher") / 64) * 64)
    items = found.too_long[0].item > 0
    listed = ", ".join(str(row.item or row.line) for row in found.too_long[:20])
    what = "cannot keep their answer within" if keep else "are longer than"
    raise DataError(
        f"{dropped} of {len(lengths)} rows ({dropped / len(lengths):.0%}) {what} {limit} tokens",
        where=where,
        details=[
            ("items " if items else "lines ")
            + listed
            + (f" and {dropped - 20} more" if dropped > 20 else "")
        ],
        expected=f"at most {MOST_LONG_ROWS:.0%} of the rows",
        remedy=f"--max-length {enough} (fits 99 % of the rows; more memory and time)"
        + ("" if keep else ", or --on-long-row keep-answer (cuts the questions)"),
    )
