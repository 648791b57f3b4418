"""The run folder: names of its files, writing them whole or not at all, lock.

Stages meet only through these files (docs/architecture.md lists them). `write_*` goes through a
temporary file in the same folder, fsync and rename; `append_jsonl` is for rows that must survive a
kill one by one, and `read_jsonl` drops a torn last line and says so.
Refuses a second process in the same folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from gemma_lora.console import Console
from gemma_lora.errors import DataError, EnvironmentFault

__all__ = [
    "SEEDS",
    "RunDir",
    "append_jsonl",
    "digest",
    "disk_fault",
    "file_digest",
    "iter_jsonl",
    "read_json",
    "read_jsonl",
    "read_saved",
    "whole_file",
    "write_json",
    "write_jsonl",
    "write_text",
]

Row = TypeVar("Row", bound=BaseModel)

SEEDS = "seeds"
"""Folder of the runs of `--seeds`, each a run folder of its own, named by its training seed."""

PART = ".part"
"""Ending of temporary names; what a killed process leaves under one is removed by the next `lock`."""


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either all of it or what it held before."""
    with whole_file(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def whole_file(path: Path) -> Generator[IO[bytes]]:
    """A stream; `path` holds all that was written to it once that is done, and till then what it held."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)  # mkstemp makes it private; results are meant to be shared
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
    except OSError as error:
        raise disk_fault(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON; NaN and infinity are refused, since other readers cannot parse them."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[BaseModel]) -> None:
    """One record a line."""
    with whole_file(path) as stream:
        for row in rows:
            stream.write(row.model_dump_json().encode("utf-8") + b"\n")


def append_jsonl(path: Path, *rows: BaseModel | Mapping[str, Any]) -> None:
    """Append lines and flush them to the disk together; a kill leaves at most a torn last line."""
    lines = [
        row.model_dump_json()
        if isinstance(row, BaseModel)
        else json.dumps(row, ensure_ascii=False, allow_nan=False)
        for row in rows
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise disk_fault(error, path) from error


def read_json(path: Path) -> Any:
    """The JSON value in `path`; DataError where it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None


def read_saved(path: Path) -> dict[str, Any]:
    """The JSON object that a stage saved in `path`; DataError with the remedy where it is damaged."""
    remedy = "delete the file and run the same command again"
    try:
        value: Any = read_json(path)
    except DataError as error:
        raise DataError(error.found, where=str(path), remedy=remedy) from None
    if not isinstance(value, dict):
        raise DataError("is not a JSON object", where=str(path), remedy=remedy)
    return cast(dict[str, Any], value)


def read_jsonl(path: Path, kind: type[Row], console: Console | None = None) -> list[Row]:
    """All rows of `path`. A torn last line (no newline) is cut off the file, with a notice."""
    return list(iter_jsonl(path, kind, console))


def iter_jsonl(path: Path, kind: type[Row], console: Console | None = None) -> Iterator[Row]:
    """The rows of `path` one by one, as `read_jsonl` gives them all."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_fault(error, path) from error
    with stream:
        _cut_torn_line(path, console)
        for number, line in enumerate(stream, start=1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"line {number} is not a {kind.__name__}: {error.errors()[0]['msg']}",
                    where=str(path),
                    remedy="delete the file to make this stage run again",
                ) from None


def _cut_torn_line(path: Path, console: Console | None) -> None:
    size = end = path.stat().st_size
    with path.open("rb") as stream:
        while end > 0:  # from the end back to the last line end
            start = max(0, end - 65536)
            stream.seek(start)
            at = stream.read(end - start).rfind(b"\n")
            end = start + at + 1 if at >= 0 else start
            if at >= 0:
                break
    if end == size:
        return
    if console is not None:
        console.note(f"{path.name}: the last line was torn off by an interruption and is dropped")
    with path.open("r+b") as stream:
        stream.truncate(end)


def digest(*parts: Any) -> str:
    """SHA-256 (hex) of JSON-serialisable values; equal values give equal digests."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_FREE_SPACE = "free some space, then run the same command again: it continues where it stopped"


def disk_fault(error: OSError, path: Path) -> EnvironmentFault:
    """An OSError as an expected fault with its remedy."""
    remedy = {
        errno.ENOSPC: _FREE_SPACE,
        errno.EDQUOT: _FREE_SPACE,
        errno.EFBIG: "raise the limit on file sizes (ulimit -f), then run the same command again",
        errno.EROFS: "choose a folder that can be written with --out",
        errno.EACCES: "choose a folder that can be written with --out",
        errno.EPERM: "choose a folder that can be written with --out",
    }.get(error.errno or 0)
    return EnvironmentFault(
        f"cannot be written: {error.strerror or error}", where=str(path), remedy=remedy
    )


class RunDir:
    """Paths inside one run folder. Making a RunDir touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.provenance = root / "provenance.json"
        self.audit = root / "audit.json"
        self.split = root / "split"
        self.tokens = root / "tokens"
        self.train_rows = root / "split" / "train.jsonl"
        self.validation_rows = root / "split" / "validation.jsonl"
        self.test_rows = root / "split" / "test.jsonl"
        self.checkpoints = root / "checkpoints"
        self.metrics = root / "metrics.jsonl"
        self.training = root / "training.json"
        self.adapter = root / "adapter"
        self.forgetting = root / "forgetting"
        self.verdict = root / "verdict.json"
        self.report_html = root / "report.html"
        self.report_md = root / "report.md"
        self.baselines = root / "answers" / "test" / "baselines.json"

    def answers(self, arm: str, questions: str = "test") -> Path:
        return self.root / "answers" / questions / f"{arm}.jsonl"

    def judgements(self, judge: str) -> Path:
        return self.root / "judgements" / judge

    def child(self, seed: int) -> RunDir:
        """The run of `--seeds` with this training seed."""
        return RunDir(self.root / SEEDS / str(seed))

    def stamp_path(self, stage: str) -> Path:
        return self.root / ".stamps" / f"{stage}.json"

    @contextmanager
    def lock(self) -> Generator[None]:
        """Hold the folder for this process; a second one gets an EnvironmentFault at once."""
        path = self.root / ".lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+")
        except OSError as error:
            raise disk_fault(error, self.root) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EnvironmentFault(
                    "another gemma-lora process works in this folder",
                    where=str(self.root),
                    remedy="wait for it to end, or use another folder",
                ) from None
            except OSError as error:  # a file system without locks
                raise disk_fault(error, path) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what a killed process was writing; only the holder of the lock may.

        The runs below `seeds/` have locks of their own, which others may hold.
        """
        seeds = self.root / SEEDS
        for path in [*self.root.rglob(f".*{PART}"), *self.root.rglob(f".*{PART}.old")]:
            if path.is_relative_to(seeds):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
