"""Read one data file (CSV, TSV, JSON, JSON lines, Parquet) or data set of the hub into a `Table`.

The content decides the format, with the file's name as a hint. Nothing is inferred about cells:
they are text as written. Every fault comes back located in `Table.problems`; what concerns the
file as a whole (missing, empty, binary, no header) raises DataError at once.
"""

from __future__ import annotations

import re
from pathlib import Path

from gemma_lora.config import DataConfig
from gemma_lora.data.columnar import is_parquet, read_parquet
from gemma_lora.data.decoding import Decoded, decode
from gemma_lora.data.delimited import read_delimited
from gemma_lora.data.jsonrows import looks_like_json, read_json_rows
from gemma_lora.data.names import key
from gemma_lora.data.source import is_hub, read_hub
from gemma_lora.data.table import Table
from gemma_lora.errors import DataError

__all__ = ["read_table"]

_JSON_NAMES = (".json", ".jsonl", ".ndjson")


def read_table(path: Path, config: DataConfig) -> Table:
    """The rows of `path`; `config` gives encoding, delimiter and the columns that flags name."""
    if is_hub(path):
        return _some(read_hub(path))
    where = str(path)
    raw = _bytes(path)
    if is_parquet(raw[:4]) and config.encoding is None:
        del raw
        return _some(read_parquet(path))
    decoded = decode(raw, config.encoding, where)
    del raw
    if re.fullmatch(rb"(?:\xef\xbb\xbf|[\x00 \t\r\n])*", decoded.text.data):
        raise DataError("the file is empty", where=where, expected="a header line and rows")
    suffix = path.suffix.lower()
    if looks_like_json(decoded.text.head()) or suffix in _JSON_NAMES:
        table = _json_table(decoded, where, suffix)
    else:
        table = _delimited_table(decoded, where, suffix, config)
    return _some(table)


def _some(table: Table) -> Table:
    if not len(table.rows) and not table.problems:
        raise DataError(
            "there is a header, but no row" if table.columns else "there is no row",
            where=table.where,
            details=[f"columns: {', '.join(table.columns)}"] if table.columns else (),
        )
    return table


def _bytes(path: Path) -> bytes:
    where = str(path)
    try:
        if path.is_dir():
            raise DataError("is a folder", where=where, expected="a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("there is no such file", where=where, remedy="check the path") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=where) from None


def _json_table(decoded: Decoded, where: str, suffix: str) -> Table:
    found = read_json_rows(decoded.text, where=where, lines_wanted=suffix in (".jsonl", ".ndjson"))
    return Table(
        where=where,
        format=found.format,
        encoding=decoded.encoding,
        encoding_how=decoded.how,
        delimiter=None,
        columns=found.columns,
        rows=found.rows,
        lines=found.lines,
        items=found.items,
        blank=found.blank,
        empty=found.empty,
        faulty=len(found.problems),
        problems=found.problems,
        notes=found.notes,
    )


def _delimited_table(decoded: Decoded, where: str, suffix: str, config: DataConfig) -> Table:
    named = (
        config.question_column,
        config.answer_column,
        config.system_column,
        config.context_column,
        config.messages_column,
    )
    wanted = frozenset(key(name) for name in named if name and key(name) != "none")
    delimiter = config.delimiter
    if delimiter is None and suffix in (".tsv", ".tab") and b"\t" in decoded.text.data:
        delimiter = "tab"
    found = read_delimited(decoded.text, where=where, delimiter=delimiter, wanted=wanted)
    return Table(
        where=where,
        format="tsv" if found.delimiter == "\t" else "csv",
        encoding=decoded.encoding,
        encoding_how=decoded.how,
        delimiter=found.delimiter,
        columns=found.columns,
        rows=found.rows,
        lines=found.lines,
        header_line=found.header_line,
        blank=found.blank,
        empty=found.empty,
        faulty=found.faulty,
        problems=found.problems,
        notes=found.notes,
    )
