"""Token lengths of rows, and what is done with rows that are too long.

Each row is encoded once, exactly as training will encode it (`PromptFormat.example`). Rows over the
maximum length are dropped, or, with `--on-long-row keep-answer`, kept for training to cut; more than
5 % dropped stops with the length that would fit. No row without a supervised token stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data import Loaded, Problem, Row, raise_problems
from gemma_lora.errors import DataError
from gemma_lora.prompt import PromptFormat

__all__ = ["MOST_LONG_ROWS", "Measured", "measure"]

MOST_LONG_ROWS = 0.05
"""Share of rows that may be dropped for their length before it is an error."""


@dataclass(slots=True)
class Measured:
    """The rows that stay, their lengths, and what happened to the rest."""

    rows: list[Row] = field(default_factory=list[Row])
    lengths: list[int] = field(default_factory=list[int])
    """Tokens of each row as trained, so at most the maximum length."""
    supervised: list[int] = field(default_factory=list[int])
    """Tokens of each row that carry loss."""
    too_long: list[Row] = field(default_factory=list[Row])
    """Rows dropped for their length."""
    truncated: list[Row] = field(default_factory=list[Row])
    """Rows that training will cut."""
    rejected: list[Problem] = field(default_factory=list[Problem])
    """Rows that the template cannot take, dropped."""
    cells_trimmed: int = 0
    control_text: int = 0

    def rendered(self, fmt: PromptFormat) -> dict[str, Any] | None:
        """A row of middling length as training sees it: ids with loss flags, and text runs."""
        if not self.rows:
            return None
        order = sorted(range(len(self.rows)), key=lambda i: (self.lengths[i], self.rows[i].id))
        row = self.rows[order[len(order) // 2]]
        encoded = fmt.example(row.messages, max_length=max(self.lengths))
        return {
            "id": row.id,
            "line": row.line,
            "place": row.place,
            "ids": list(encoded.ids),
            "loss": [int(flag) for flag in encoded.supervised],
            "runs": [[text, loss] for text, loss in fmt.runs(encoded)],
        }


def measure(loaded: Loaded, fmt: PromptFormat, config: Config, console: Console) -> Measured:
    """Encode all rows of one file; DataError where too many would be dropped."""
    limit = config.train.max_length
    keep = config.data.on_long_row == "keep-answer"
    found = Measured()
    lengths: list[int] = []  # of all rows, as they come
    markers = _markers(fmt)
    for number, row in enumerate(loaded.rows, start=1):
        if number % 500 == 0:
            console.progress(f"counting tokens: row {number:,} of {len(loaded.rows):,}")
        try:
            encoded = fmt.example(row.messages)
        except DataError as error:
            found.rejected.append(Problem(row.line, f": {error.found}", "template", row.item))
            continue
        lengths.append(len(encoded))
        if len(encoded) > limit:
            try:
                encoded = fmt.example(row.messages, max_length=limit) if keep else None
            except DataError:
                encoded = None
            if encoded is None:
                found.too_long.append(row)
                continue
            found.truncated.append(row)
        supervised = sum(encoded.supervised)
        if not supervised:
            found.rejected.append(
                Problem(row.line, ": no token would carry loss", "no loss", row.item)
            )
            continue
        found.rows.append(row)
        found.lengths.append(len(encoded))
        found.supervised.append(supervised)
        found.cells_trimmed += fmt.cells_changed(row.messages)
        found.control_text += any(m in t.content for t in row.messages for m in markers)
    where = loaded.table.where
    if config.data.on_bad_row == "stop":
        raise_problems(where, found.rejected)
    _check_too_long(found, lengths, limit, keep, where)
    return found


def _markers(fmt: PromptFormat) -> list[str]:
    """Literals that the data should not contain: special tokens, and those of the template."""
    return sorted({str(token) for token in fmt.tokenizer.all_special_tokens} | fmt.markers)


def _check_too_long(
    found: Measured, lengths: list[int], limit: int, keep: bool, where: str
) -> None:
    dropped = len(found.too_long)
    if dropped <= MOST_LONG_ROWS * len(lengths) and (found.rows or not dropped):
        if not found.rows:
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
