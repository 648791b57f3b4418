"""Valid replies kept on disk, so that the same question to the same judge is paid for once.

One small JSON file for each reply under `$GEMMA_LORA_CACHE/judge` (else `$XDG_CACHE_HOME/gemma-lora/
judge`, else `~/.cache/gemma-lora/judge`), written whole or not at all, so two processes can share it
and a kill leaves nothing half-written. The name is a digest of the judge (backend, address, model and
the snapshot that it said it is), the template, the rubric but for its weights, the schema, the parameters, the repeat and the fields;
never of the rendered prompt, whose marker code changes with each call. `snapshots/` holds which
snapshot each judge was when it last replied, `forms/` the form in which its server (by address, model and
protocol) was asked when it last brought a usable reply. An entry is validated again when it is read; a damaged
one counts as absent. A folder that cannot be written costs a warning, not the run. Holds no key and
no prompt.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gemma_lora.console import Console
from gemma_lora.judge.asking import SCORES
from gemma_lora.judge.names import Target
from gemma_lora.judge.reading import Unusable, Verdict, validate
from gemma_lora.judge.replies import Distribution
from gemma_lora.judge.wires import Dialect, Wire
from gemma_lora.rundir import digest

__all__ = ["Cached", "ReplyCache", "cache_folder"]


@dataclass(frozen=True)
class Cached:
    """A reply and who gave it."""

    verdict: Verdict
    model: str | None
    fingerprint: str | None
    distributions: Mapping[str, Distribution] | None = None


def cache_folder() -> Path:
    """Where replies are kept."""
    root = os.environ.get("GEMMA_LORA_CACHE")
    if root:
        return Path(root).expanduser() / "judge"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gemma-lora" / "judge"


def _distributions(value: Any, names: Sequence[str]) -> dict[str, Distribution] | None:
    """As they were put; ValueError, KeyError or TypeError where the entry is damaged."""
    if value is None:
        return None
    found: dict[str, Distribution] = {}
    for name in names:
        parts = tuple(float(part) for part in value[name]["probabilities"])
        mass = float(value[name]["mass"])
        right = len(parts) == 10 and min(parts) >= 0 and abs(math.fsum(parts) - 1) < 1e-6
        if not right or not 0 <= mass <= 1:
            raise ValueError(f"{name} is no distribution")
        found[name] = Distribution(parts, mass)
    return found


class ReplyCache:
    """`get` and `put` by digest."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._writable = True

    def get(self, key: str, names: Sequence[str] = SCORES) -> Cached | None:
        """The reply with the scores `names`; None where there is none, or a damaged one."""
        try:
            value: Any = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(value, dict):
            return None
        entry = cast(dict[str, Any], value)
        if not isinstance(entry.get("verdict"), dict):
            return None
        try:
            verdict = validate(entry["verdict"], names)
            distributions = _distributions(entry.get("distributions"), names)
        except (Unusable, KeyError, TypeError, ValueError):
            return None
        return Cached(verdict, entry.get("model"), entry.get("fingerprint"), distributions)

    def has(self, key: str) -> bool:
        """Whether there is an entry, which may prove damaged."""
        try:
            return self._path(key).exists()
        except OSError:  # a folder that may not be looked into
            return False

    def snapshot(self, judge: str) -> str | None:
        """What the judge with this digest called itself when it last replied."""
        try:
            return (self._folder / "snapshots" / judge).read_text(encoding="utf-8") or None
        except (OSError, ValueError):
            return None

    def set_snapshot(self, judge: str, model: str) -> None:
        self._write(self._folder / "snapshots" / judge, model)

    def form(self, target: Target, wire: Wire) -> Dialect | None:
        """How this server was asked when that last worked; None where nothing is known, or it is damaged."""
        try:
            value: Any = json.loads(self._form_path(target).read_text(encoding="utf-8"))
            rung, limit_name = wire.rungs.index(value["rung"]), value["limit_name"]
            temperature, system = value["temperature"], value["system"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        plain = isinstance(temperature, bool) and isinstance(system, bool)
        if not plain or limit_name not in wire.limit_names:
            return None
        return Dialect(rung, limit_name, temperature, system)

    def set_form(self, target: Target, wire: Wire, form: Dialect) -> None:
        entry = {**asdict(form), "rung": wire.rungs[form.rung]}
        self._write(self._form_path(target), json.dumps(entry))

    def put(self, key: str, cached: Cached) -> None:
        verdict = {"reasoning": cached.verdict.reasoning, **cached.verdict.scores}
        entry: dict[str, Any] = {
            "verdict": verdict,
            "model": cached.model,
            "fingerprint": cached.fingerprint,
        }
        if cached.distributions:
            entry["distributions"] = {
                name: {"probabilities": found.probabilities, "mass": found.mass}
                for name, found in cached.distributions.items()
            }
        self._write(self._path(key), json.dumps(entry))

    def _write(self, path: Path, text: str) -> None:
        if not self._writable:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(text)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._writable = False
            self._console.warn(
                f"replies of the judge cannot be cached in {self._folder}: {error.strerror}; "
                "set GEMMA_LORA_CACHE to a folder that can be written"
            )

    def _form_path(self, target: Target) -> Path:
        server = digest(target.address, target.model, target.protocol)
        return self._folder / "forms" / f"{server}.json"

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
