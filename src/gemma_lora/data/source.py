"""What the argument DATA may name: a file, or a data set of the Hugging Face hub.

`hf:OWNER/NAME`, with `@REVISION`, `:CONFIG` and `:SPLIT` after it where needed, is fetched through
`datasets` into its own cache; data are downloaded, code never runs. Without a split, `train` is taken,
or the only one. Reads the file or the cache; the network only for `hf:`. Refuses names that are
nothing, and says what would help where the hub cannot be reached.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gemma_lora.data.columnar import read_batches
from gemma_lora.data.table import Table
from gemma_lora.errors import DataError
from gemma_lora.rundir import digest, file_digest

__all__ = ["is_hub", "need_source", "read_hub", "source_bytes", "source_digest", "source_name"]

_HUB = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^:\s]+))?"
    r"(?::(?P<config>[^:\s]*))?(?::(?P<split>[^:\s]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORM = "hf:OWNER/NAME, hf:OWNER/NAME@REVISION, or hf:OWNER/NAME:CONFIG:SPLIT"


@dataclass(frozen=True)
class _Fetched:
    """A split of a data set of the hub in the local cache."""

    name: str
    commit: str
    config: str
    split: str
    rows: Any


def is_hub(path: Path | str) -> bool:
    """Whether `path` names a data set of the hub."""
    return str(path).startswith("hf:")


def need_source(path: Path | str) -> None:
    """DataError unless `path` is a file, or the well-formed name of a data set."""
    if is_hub(path):
        _parsed(str(path))
        return
    file = Path(path)
    if not file.exists():
        raise DataError("there is no such file", where=str(file), remedy="check the path")
    if not file.is_file():
        raise DataError(
            "is not a file",
            where=str(file),
            expected="a CSV, TSV, JSON, JSON-lines or Parquet file, or hf:OWNER/NAME",
        )


def source_name(path: Path | str) -> str:
    """What reports call it: the file's name without its folder, or the name on the hub."""
    return str(path) if is_hub(path) else Path(path).name


def source_digest(path: Path | str) -> str:
    """SHA-256 (hex) of the file, or what names the same rows of a data set: its commit and split."""
    if not is_hub(path):
        return file_digest(Path(path))
    found = _fetch(str(path))
    return digest(found.name, found.commit, found.config, found.split)


def source_bytes(path: Path | str) -> int:
    """Size of the file, or of the data set in memory."""
    return int(_fetch(str(path)).rows.data.nbytes) if is_hub(path) else Path(path).stat().st_size


def read_hub(path: Path | str) -> Table:
    """The rows of a data set of the hub."""
    found = _fetch(str(path))
    rows = found.rows
    batches = (batch for start in range(0, len(rows), 1024) for batch in _slice(rows, start))
    table = read_batches(batches, rows.features.arrow_schema, str(path), "hub")
    table.notes.insert(
        0, f"config '{found.config}', split '{found.split}', commit {found.commit[:12]}"
    )
    return table


def _slice(rows: Any, start: int) -> list[Any]:
    return rows.with_format("arrow")[start : start + 1024].combine_chunks().to_batches()


def _parsed(text: str) -> dict[str, str | None]:
    match = _HUB.fullmatch(text)
    if match is None:
        raise DataError("is no name of a data set on the hub", where=text, expected=_FORM)
    return {key: value or None for key, value in match.groupdict().items()}


@lru_cache(maxsize=4)
def _fetch(text: str) -> _Fetched:
    """Download what is not in the cache; once a process, so that all stages see the same rows."""
    import datasets

    wanted = _parsed(text)
    name = str(wanted["name"])
    with _plain_faults(text, name), _quiet():
        builder: Any = datasets.load_dataset_builder(
            f"hf://datasets/{name}",  # by its name alone a local folder would be taken first
            wanted["config"],
            revision=wanted["revision"],
        )
        commit = str(builder.hash)
        asked = wanted["revision"] or ""
        if _COMMIT.fullmatch(asked) and asked != commit:  # offline, any cached commit is given
            raise DataError(
                f"only commit {commit[:12]} is in the local cache",
                where=text,
                remedy="ask for that one, or run once with a network",
            )
        builder.download_and_prepare()
        splits = sorted(builder.info.splits or {})
        split = wanted["split"] or ("train" if "train" in splits else None)
        if split is None and len(splits) == 1:
            split = splits[0]
        if split is None or split not in splits:
            raise DataError(
                f"there is no split {split!r}" if split else "it is not said which split to take",
                where=text,
                expected=", ".join(splits),
                remedy=f"for example hf:{name}:{wanted['config'] or ''}:{splits[0]}",
            )
        return _Fetched(name, commit, builder.config.name, split, builder.as_dataset(split=split))


@contextmanager
def _plain_faults(text: str, name: str) -> Generator[None]:
    """The faults of `datasets` in plain words."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    page = f"https://huggingface.co/datasets/{name}"
    try:
        yield
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise DataError(
                "the data set is gated: its terms must be accepted first",
                where=text,
                remedy=f"accept them on {page}, then `hf auth login` or set HF_TOKEN",
            ) from None
        if "Revision" in str(error):
            raise DataError(str(error), where=text, remedy=f"see {page}/commits/main") from None
        raise DataError(
            "there is no such data set, or it is private",
            where=text,
            expected=_FORM,
            remedy="check the name; for a private one, `hf auth login` or set HF_TOKEN",
        ) from None
    except ConnectionError:
        raise DataError(
            "the hub cannot be reached, and the data set is not in the local cache",
            where=text,
            remedy="check the network and HF_HUB_OFFLINE, or fetch its Parquet file elsewhere and name that",
        ) from None
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"cannot be loaded: {lines[0][:300]}",
            where=text,
            details=[line.strip() for line in lines[1:6] if line.strip()],
            expected=_FORM,
            remedy=f"choose a config and a split as shown on {page}",
        ) from None


@contextmanager
def _quiet() -> Generator[None]:
    """Without the libraries' bars and warnings: what matters is told as a note or an error."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    levels = datasets.logging.get_verbosity(), hub_logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if not bars:
            datasets.enable_progress_bars()
