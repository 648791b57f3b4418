"""Where a run's result comes from: hashes, versions, seed, git state, machine.

Reads the files of the run folder, the installed package versions and the git state of the current
folder; `gather` returns plain JSON values and writes nothing. Records no user name, host name,
environment variable or key.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from gemma_lora import __version__
from gemma_lora.config import Config
from gemma_lora.data.source import source_name
from gemma_lora.rundir import RunDir, file_digest, read_json

__all__ = ["gather"]

_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "sacrebleu",
    "openai",
)


def gather(config: Config, run: RunDir, base: dict[str, Any]) -> dict[str, Any]:
    """The content of provenance.json; `base` names the base model, its revision and digests."""
    marker = run.stamp_path("identity")
    files: Any = read_json(marker)["data"] if marker.exists() else {}
    # as it was when the run was made: `judge` may be called where the data file is not
    data = {
        "file": source_name(config.data.path) if config.data.path else None,
        "sha256": files.get("path"),
    }
    if config.data.test:
        data |= {"test_file": source_name(config.data.test), "test_sha256": files.get("test")}
    return {
        "schema_version": 1,
        "gemma_lora": __version__,
        "seed": config.seed,
        "training_seed": config.training_seed,
        "data": data,
        "files": _digests(run),
        "base": base,
        "versions": {name: _version(name) for name in _LIBRARIES},
        "git": _git_state(),
        "host": {
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def _digests(run: RunDir) -> dict[str, str]:
    """SHA-256 of the files that decide the verdict, by path inside the run folder."""
    files = [run.train_rows, run.validation_rows, run.test_rows]
    files += [run.adapter / "adapter_model.safetensors", run.adapter / "adapter_config.json"]
    files += [*sorted(run.answers("base").parent.glob("*.jsonl")), run.forgetting / "items.jsonl"]
    return {
        file.relative_to(run.root).as_posix(): file_digest(file) for file in files if file.is_file()
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the current folder's repository; None outside of one."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, no repository: nothing to record
        return None
    return {"commit": commit, "dirty": bool(dirty)}
