"""Checkpoints that are complete or absent.

One is a folder `step-00000012` with the adapter's weights, the optimiser's moments and the random
states as safetensors, the rest as JSON, and a manifest with the SHA-256 of each file. It is written
under a temporary name, flushed to the disk and renamed, so a kill at any moment leaves older ones
intact; what is incomplete or damaged is named and set aside under another name, so that it takes no
whole one's place. Only regular files of a size that can be are opened. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
from torch import Tensor

from gemma_lora.console import Console
from gemma_lora.rundir import disk_fault, fsync_folder

__all__ = ["Checkpoint", "at_step", "newest", "prune", "read_tensors", "save", "set_aside"]

_TENSORS = ("weights", "optimizer", "rng")
_FILES = (*(f"{name}.safetensors" for name in _TENSORS), "state.json")
_TEMPORARY = ".writing-"
_ASIDE = "set-aside-"
_MOST = {
    "weights.safetensors": 2**36,
    "optimizer.safetensors": 2**36,
    "rng.safetensors": 2**20,
    "state.json": 2**26,
    "manifest.json": 2**16,
}
"""Bytes beyond which a file is not one of ours; it is not read."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, verified against its manifest."""

    path: Path
    step: int
    state: dict[str, Any]
    raw_state: bytes
    """`state` as its file has it."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        return read_tensors(self.path / f"{name}.safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    return safetensors.torch.load(path.read_bytes())


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def save(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of `step`; `tensors` has `weights`, `optimizer` and `rng`."""
    final = folder_of(root, step)
    temporary = root / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        content = {
            f"{name}.safetensors": safetensors.torch.save(
                {key: value.detach().cpu().contiguous() for key, value in tensors[name].items()}
            )
            for name in _TENSORS
        }
        content["state.json"] = _json(state)
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        content["manifest.json"] = _json({"step": step, "sha256": manifest})
        for name, data in content.items():
            _write(temporary / name, data)
        fsync_folder(temporary)
        if final.exists():  # the same step again, now with its validation
            replaced = root / f"{_TEMPORARY}replaced-{final.name}-{os.getpid()}"
            final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            temporary.rename(final)
        fsync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_fault(error, root) from error
    return final


def newest(
    root: Path,
    console: Console,
    *,
    fault: Callable[[Checkpoint], str | None] = lambda _: None,
) -> Checkpoint | None:
    """The newest whole checkpoint with which `fault` finds nothing wrong; others are named and set aside.

    Those are at steps that the training will make again: left there, they would count as the newest ones
    and push out whole ones, or pass for a step that is saved. Leftovers of an interrupted write are removed.
    """
    if not root.is_dir():
        return None
    for path in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    chosen, passed = None, list[Path]()
    for path in sorted(root.glob("step-*"), reverse=True):
        found = _opened(path)
        why = found if isinstance(found, str) else fault(found)
        if not isinstance(found, str) and why is None:
            chosen = found
            break
        console.note(f"checkpoint {path.name} is ignored: {why}")
        passed.append(path)
    set_aside(root, console, passed)
    return chosen


def set_aside(root: Path, console: Console, paths: Sequence[Path] | None = None) -> None:
    """Rename `paths` (None: every checkpoint), so that nothing here reads, counts or removes them again.

    Renamed and not removed: what cannot be gone on from here may be whole for another version. In the
    same folder, since moving a folder into another one takes the right to write in it.
    """
    every = sorted(root.glob("step-*")) if paths is None else paths
    if not every:
        return
    try:
        for path in every:
            names = (root / f"{_ASIDE}{n}-{path.name}" for n in count(1))
            path.rename(next(name for name in names if not os.path.lexists(name)))
        fsync_folder(root)
    except OSError as error:
        raise disk_fault(error, root) from error
    console.note(
        f"{len(every)} checkpoint{'s are' if len(every) > 1 else ' is'} set aside in {root} "
        f"({_ASIDE}*): nothing reads or removes them from here on"
    )


def at_step(root: Path, step: int) -> Checkpoint | None:
    """The checkpoint of `step`, or None where it is absent or damaged."""
    found = _opened(folder_of(root, step))
    return None if isinstance(found, str) else found


def prune(root: Path, *, best: int | None, newest_kept: int = 2) -> None:
    """Keep the best and the newest; remove the others."""
    paths = sorted(root.glob("step-*"))
    keep = {folder_of(root, best)} if best is not None else set[Path]()
    keep |= set(paths[-newest_kept:])
    for path in paths:
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _opened(path: Path) -> Checkpoint | str:
    """A checkpoint folder, or what is wrong with it. The manifest is read before anything else."""
    reading = "its manifest"
    try:
        manifest = json.loads(_regular(path / "manifest.json").read_bytes())
        step, expected = manifest["step"], manifest["sha256"]
        if f"step-{step:08d}" != path.name or set(expected) != set(_FILES):
            return "its manifest does not describe it"
        for name in _FILES:
            with _regular(path / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected[name]:
                    return f"{name} is damaged"
        reading = "its state"
        raw = (path / "state.json").read_bytes()
        state = json.loads(raw)
        if not isinstance(state, dict):
            return "its state is not a training's"
        return Checkpoint(path, step, cast(dict[str, Any], state), raw)
    except OSError as error:
        return f"it is incomplete ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{reading} cannot be read"


def _regular(path: Path) -> Path:
    """`path`; OSError where opening it could wait, lead elsewhere or fill the memory."""
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if facts.st_size > _MOST[path.name]:
        raise OSError(f"{path.name} has {facts.st_size:,} bytes")
    return path


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False, sort_keys=True).encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
