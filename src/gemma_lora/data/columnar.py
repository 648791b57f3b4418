"""Tables with typed columns, that is Parquet files and data sets of the hub, to rows of text.

Text is taken as it is. Whole numbers, fractions and truth values become the text that JSON has for
them, nothing becomes empty text, lists and objects stay for columns of messages. A column of
another type (bytes, images, times, ...) is left out, which is told: what text it should be is not ours
to decide. Reads the Parquet file a part at a time.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from gemma_lora.data.cells import Cell, Cells
from gemma_lora.data.decoding import BAD_CHARACTER
from gemma_lora.data.table import Problem, Table, quoted
from gemma_lora.errors import DataError

__all__ = ["is_parquet", "read_batches", "read_parquet"]

_MAGIC = b"PAR1"
_UNREADABLE = "\udcff"  # stands for text that is not valid UTF-8; found as a bad character


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins with `head` is a Parquet file."""
    return head.startswith(_MAGIC)


def read_parquet(path: Path) -> Table:
    """The rows of a Parquet file; DataError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = str(path)
    try:
        with pq.ParquetFile(path) as file:
            return read_batches(file.iter_batches(1024), file.schema_arrow, where, "parquet")
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot be read as Parquet: {str(error).splitlines()[0]}",
            where=where,
            remedy="write the file again, or export it as CSV or JSON lines",
        ) from None


def read_batches(batches: Iterable[Any], schema: Any, where: str, form: str) -> Table:
    """The rows of Arrow record batches of one `schema`; rows are numbered from 1."""
    usable = [n for n, field in enumerate(schema) if _is_plain(field.type)]
    names: list[str] = [schema[n].name for n in usable]
    rows = Cells()
    table = Table(
        where=where,
        format=form,
        encoding="utf-8",
        encoding_how="by the format",
        delimiter=None,
        columns=[name.strip() for name in names],
        rows=rows,
        lines=array("q"),
    )
    table.notes += [
        f"column {quoted(field.name, 30)} holds no text ({field.type}) and is left out"
        for n, field in enumerate(schema)
        if n not in usable
    ]
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{len(twice)} column names are given twice: {', '.join(map(quoted, twice))}",
            where=where,
        )
    number = 0
    for batch in batches:
        columns = [list(_cells(batch.column(n))) for n in usable]
        for cells in zip(*columns, strict=True):
            number += 1
            _take(cells, number, table, rows)
    return table


def _take(cells: tuple[Cell, ...], number: int, table: Table, rows: Cells) -> None:
    if not any(cells):
        table.blank += 1
        table.empty.append(Problem(0, ": no cell holds text", "blank row", number))
        return
    for name, cell in zip(table.columns, cells, strict=True):
        text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
        if BAD_CHARACTER.search(text):
            table.faulty += 1
            told = f", column {quoted(name, 30)}: a NUL or bytes that are not UTF-8"
            table.problems.append(Problem(0, told, "bad character", number))
            return
    rows.append(cells)
    table.lines.append(0)
    table.items.append(number)


def _is_plain(kind: Any) -> bool:
    """Text, numbers, truth values, nothing, and lists and objects of these."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(n).type) for n in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return text or any(
        check(kind)
        for check in (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    )


def _cells(column: Any) -> Iterator[Cell]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
    for value in values:
        plain = _plain(value)
        yield "" if plain is None else plain


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _UNREADABLE


def _plain(value: Any) -> Any:
    """As `jsonrows` gives it: numbers and, outside of lists and objects, truth values as text."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in cast(list[Any], value)]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return value
