"""Rows as token ids and loss masks: encoded once, kept in Arrow files, mapped into memory.

`tokenised` gives the rows of a split file. Where the run folder has their tokens, made from the same
rows with the same template, tokenizer and lengths, they are mapped, which takes no time and no memory;
else they are encoded and kept. `TokenStore` is how the audit, which encodes all rows to measure
them, leaves them there, so that training need not encode again. A damaged file is made anew, with a
notice. Reads split/*.jsonl; writes tokens/<name>.arrow and .json, whole or not at all.

Shapes: T tokens of a row.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.prompt import Encoded
from gemma_lora.records import Example, Message
from gemma_lora.rundir import (
    PART,
    digest,
    disk_fault,
    file_digest,
    iter_jsonl,
    read_json,
    whole_file,
    write_json,
)

if TYPE_CHECKING:
    import datasets

    from gemma_lora.prompt import PromptFormat

__all__ = ["TokenStore", "Tokenised", "batches", "fitted", "tokenise", "tokenised"]

_FORMAT = 1
"""Changes when other ids would be made of the same rows."""
_TOGETHER = 1024
"""Rows encoded together, and rows of one Arrow batch."""

T = TypeVar("T")


@dataclass(frozen=True)
class Tokenised:
    """Token ids and loss masks of rows, with what had to be changed to get them."""

    table: datasets.Dataset
    """Row i is `table[i]`: `ids` (int32) and `mask` (bool), both (T,) numpy arrays."""
    lengths: np.ndarray = field(repr=False)
    """(rows,) tokens of each row."""
    supervised: np.ndarray = field(repr=False)
    """(rows,) tokens with loss of each row."""
    shortened: int
    """Rows whose question was cut from the left to fit."""
    dropped: int
    """Rows left out because they are too long."""

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, chosen: Sequence[int]) -> tuple[int, int]:
        """Tokens of the rows numbered `chosen`, and those of them with loss."""
        rows = list(chosen)
        return int(self.lengths[rows].sum()), int(self.supervised[rows].sum())


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """`rows` in lists of as many as are encoded together."""
    source = iter(rows)
    while batch := list(islice(source, _TOGETHER)):
        yield batch


def fitted(
    encoded: Encoded,
    messages: Sequence[Message],
    fmt: PromptFormat,
    *,
    max_length: int,
    keep_answer: bool,
) -> Encoded | None:
    """The row itself, or with `keep_answer` cut to `max_length` tokens; None where it cannot fit."""
    if len(encoded) <= max_length:
        return encoded
    if not keep_answer:
        return None
    try:
        return fmt.example(messages, max_length=max_length)
    except DataError:  # the answer alone is too long
        return None


def tokenise(
    rows: Iterable[Example], fmt: PromptFormat, *, max_length: int, keep_answer: bool
) -> Tokenised:
    """Encode `rows`, in memory; those over `max_length` are cut (`keep_answer`) or dropped, and counted."""
    import datasets
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    made = _encode(rows, fmt, sink, max_length=max_length, keep_answer=keep_answer)
    return _opened(datasets.Dataset.from_buffer(sink.getvalue()), made)


def tokenised(
    path: Path,
    fmt: PromptFormat,
    *,
    max_length: int,
    keep_answer: bool,
    folder: Path,
    console: Console,
) -> Tokenised:
    """The rows of the split file `path` from `folder`, encoded and kept there where need be.

    No rows where there is no such file.
    """
    import datasets

    if not path.exists():
        return tokenise((), fmt, max_length=max_length, keep_answer=keep_answer)
    file, facts = _files(folder, path)
    known = _known(file, facts, _key(path, fmt, max_length, keep_answer), console)
    if known is None:
        with whole_file(file) as sink:
            rows = iter_jsonl(path, Example, console)
            known = _encode(rows, fmt, sink, max_length=max_length, keep_answer=keep_answer)
        # hashed again: reading cuts off a torn last line
        _tell(file, facts, _key(path, fmt, max_length, keep_answer), known)
    return _opened(datasets.Dataset.from_file(str(file)), known)


class TokenStore:
    """Tokens of rows as the audit measures them, until it is known to which file each row goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=".rows.", suffix=PART)
        except OSError as error:
            raise disk_fault(error, folder) from error
        self._path = Path(name)
        self._stream = os.fdopen(handle, "wb")
        self._writer = _Writer(self._stream)
        self._shortened: list[bool] = []

    def add(self, encoded: Encoded, *, shortened: bool) -> None:
        """The next row."""
        try:
            self._writer.add(encoded)
        except OSError as error:
            raise disk_fault(error, self._path) from error
        self._shortened.append(shortened)

    def keep(
        self,
        path: Path,
        chosen: Sequence[int],
        fmt: PromptFormat,
        *,
        max_length: int,
        keep_answer: bool,
    ) -> None:
        """Keep the rows numbered `chosen`, in that order, as those of the split file `path`."""
        import pyarrow as pa

        try:
            self._writer.close()
            self._stream.close()
        except OSError as error:
            raise disk_fault(error, self._path) from error
        file, facts = _files(self._folder, path)
        with pa.memory_map(str(self._path)) as source:
            parts = list(pa.ipc.open_stream(source))
            with whole_file(file) as sink:
                writer = _Writer(sink)
                for index in chosen:
                    row = parts[index // _TOGETHER].slice(index % _TOGETHER, 1)
                    ids, mask = (row.column(name).flatten() for name in ("ids", "mask"))
                    writer.add_arrays(ids.to_numpy(), mask.to_numpy(zero_copy_only=False))
                writer.close()
        made = _Made(sum(self._shortened[index] for index in chosen), 0)
        _tell(file, facts, _key(path, fmt, max_length, keep_answer), made)

    def close(self) -> None:
        """Remove what was not kept."""
        self._stream.close()
        self._path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- Arrow


@dataclass(frozen=True)
class _Made:
    shortened: int
    dropped: int


class _Writer:
    """Rows to an Arrow stream, `_TOGETHER` a batch."""

    def __init__(self, sink: Any) -> None:
        import pyarrow as pa

        self._schema = pa.schema({"ids": pa.list_(pa.int32()), "mask": pa.list_(pa.bool_())})
        self._stream = pa.ipc.new_stream(sink, self._schema)
        self._open = True
        self._ids: list[NDArray[np.int32]] = []
        self._masks: list[NDArray[np.bool_]] = []

    def add(self, encoded: Encoded) -> None:
        self.add_arrays(
            np.fromiter(encoded.ids, dtype=np.int32, count=len(encoded)),
            np.fromiter(encoded.supervised, dtype=np.bool_, count=len(encoded)),
        )

    def add_arrays(self, ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> None:
        self._ids.append(ids)
        self._masks.append(mask)
        if len(self._ids) == _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        offsets = np.cumsum([0, *map(len, self._ids)], dtype=np.int32)
        columns = [
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(parts)))
            for parts in (self._ids, self._masks)
        ]
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._ids, self._masks = [], []

    def close(self) -> None:
        """Write what is left; closing twice does nothing."""
        if self._open:
            if self._ids:
                self._flush()
            self._stream.close()
        self._open = False


def _arrays(batch: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_], list[int]]:
    """Ids and masks of a batch's rows one after the other, and where each row begins and ends."""
    ids, masks = batch.column("ids"), batch.column("mask")
    offsets: list[int] = ids.offsets.to_pylist()
    return ids.values.to_numpy(), masks.values.to_numpy(zero_copy_only=False), offsets


def _encode(
    rows: Iterable[Example], fmt: PromptFormat, sink: Any, *, max_length: int, keep_answer: bool
) -> _Made:
    writer = _Writer(sink)
    shortened = dropped = 0
    for batch in batches(rows):
        for row, whole in zip(batch, fmt.examples([row.messages for row in batch]), strict=True):
            if isinstance(whole, DataError):
                raise whole
            encoded = fitted(
                whole, row.messages, fmt, max_length=max_length, keep_answer=keep_answer
            )
            if encoded is None:
                dropped += 1
                continue
            shortened += encoded is not whole
            writer.add(encoded)
    writer.close()
    return _Made(shortened, dropped)


def _opened(table: datasets.Dataset, made: _Made) -> Tokenised:
    lengths: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    supervised: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    for batch in table.data.to_batches():
        _, mask, offsets = _arrays(batch)
        edges = np.array(offsets)
        before = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        lengths.append(np.diff(edges))
        # nothing predicts a row's first token
        supervised.append(before[edges[1:]] - before[edges[:-1]] - mask[edges[:-1]])
    return Tokenised(
        table=table.with_format("numpy"),
        lengths=np.concatenate(lengths),
        supervised=np.concatenate(supervised),
        shortened=made.shortened,
        dropped=made.dropped,
    )


# ---------------------------------------------------------------------- files


def _files(folder: Path, path: Path) -> tuple[Path, Path]:
    return folder / f"{path.stem}.arrow", folder / f"{path.stem}.json"


def _key(path: Path, fmt: PromptFormat, max_length: int, keep_answer: bool) -> str:
    """Names all that the tokens of the split file `path` depend on."""
    rows = file_digest(path)
    return digest(_FORMAT, rows, fmt.template_hash, fmt.tokenizer_hash, max_length, keep_answer)


def _tell(file: Path, facts: Path, key: str, made: _Made) -> None:
    """Write beside the tokens what they were made from, and their hash, to know damage by."""
    known = {
        "key": key,
        "sha256": file_digest(file),
        "shortened": made.shortened,
        "dropped": made.dropped,
    }
    write_json(facts, known)


def _known(file: Path, facts: Path, key: str, console: Console) -> _Made | None:
    """What is kept, if it is whole and of this key; a notice says why it is not."""
    if not facts.exists():  # never finished
        return None
    try:
        known = read_json(facts)
        if known["key"] != key:
            why = "was made from other rows or settings"
        elif file_digest(file) != known["sha256"]:
            why = "is damaged"
        else:
            return _Made(int(known["shortened"]), int(known["dropped"]))
    except (DataError, OSError, KeyError, TypeError, ValueError):
        why = "is damaged"
    console.note(f"{file.parent.name}/{file.name} {why}: the rows are encoded anew")
    return None
