"""Fixtures that several test modules share; everything is built without a network."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only cost time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a shell starts background jobs with Ctrl-C ignored; the tests that send it need Python's handler
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))  # `support` is importable from every test folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a tiny random model of a family, made once: `tiny_folder("gemma2")`."""
    from support.tiny import save_tiny

    made: dict[str, Path] = {}

    def make(family: str = "gemma") -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp("tiny") / family, family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def large_tokenizer():
    """The 256,000-piece tokenizer with Gemma's ids (about a second to build)."""
    from support.tiny import large_tokenizer as build

    return build()


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory):
    """The command line in forked processes: `cli.run(["run", ...], cwd=folder)`."""
    from support.processes import CliServer

    with CliServer(tmp_path_factory.mktemp("streams")) as server:
        yield server
