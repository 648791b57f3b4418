"""Small trainings for tests: rows, a run folder with a split, a config, and a child process to kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.records import Example, Message
from gemma_lora.rundir import RunDir, write_jsonl


def example(number: int) -> Example:
    """A row; lengths differ, so that batches need padding."""
    question = f"what is the number of order {number}" + " please" * (number % 4)
    answer = f"the number is {number * 7}." + " thank you" * (number % 5)
    return Example(
        id=f"{number:016x}",
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        cluster=str(number),
        line=number + 2,
    )


def make_run(root: Path, *, train: int = 20, validation: int = 5) -> RunDir:
    run = RunDir(root)
    write_jsonl(run.train_rows, [example(n) for n in range(train)])
    write_jsonl(run.validation_rows, [example(1000 + n) for n in range(validation)])
    return run


def make_config(
    model: Path, *, seed: int = 0, lora: dict[str, Any] | None = None, **train: Any
) -> Config:
    recipe = {"batch": 2, "accumulation": 2, "epochs": 1, "learning_rate": 5e-3, **train}
    return Config.model_validate(
        {
            "model": {"model": str(model), "device": "cpu"},
            "lora": {"rank": 8, "alpha": 16, **(lora or {})},
            "train": recipe,
            "seed": seed,
        }
    )


def quiet() -> Console:
    return Console(quiet=True, stream=io.StringIO())


def text_of(console: Console) -> str:
    assert isinstance(console.stream, io.StringIO)
    return console.stream.getvalue()


def talking() -> Console:
    return Console(stream=io.StringIO(), interval=0.0)


def folder_digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def signed(path):
    """Make the manifest of a changed checkpoint right again, as somebody hostile would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit code as subprocess gives it (-9: killed by SIGKILL)."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
