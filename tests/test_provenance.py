"""Provenance: hashes, versions and the machine, but nobody's name."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
from pathlib import Path

import pytest

from gemma_lora import __version__
from gemma_lora.config import Config, DataConfig
from gemma_lora.provenance import gather
from gemma_lora.rundir import RunDir, file_digest, write_json, write_text


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    write_text(run.test_rows, "{}\n")
    write_json(run.stamp_path("identity"), {"data": {"path": "ab" * 32, "test": None}})
    return run


CONFIG = Config(data=DataConfig(path="/home/alice/secret project/rows.csv"), seed=7)


def test_what_is_recorded(run: RunDir) -> None:
    facts = gather(CONFIG, run, {"name": "starter"})
    assert facts["schema_version"] == 1
    assert facts["gemma_lora"] == __version__
    assert facts["seed"] == 7
    assert facts["data"] == {"file": "rows.csv", "sha256": "ab" * 32}
    assert facts["files"] == {"split/test.jsonl": file_digest(run.test_rows)}
    assert facts["base"] == {"name": "starter"}
    for name in ("torch", "transformers", "peft", "numpy"):
        assert re.match(r"\d+\.\d+", facts["versions"][name])


def test_no_person_no_machine_no_folder(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hf_secret_4711")
    text = json.dumps(gather(CONFIG, run, {}))
    for word in ("alice", "/home", "hf_secret", socket.gethostname(), f'"{getpass.getuser()}"'):
        assert word not in text
    assert set(json.loads(text)["host"]) == {"python", "system", "machine", "cores"}


def test_git_state(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert gather(CONFIG, run, {})["git"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert gather(CONFIG, run, {})["git"] is None, "no commit yet"
    (folder / "a").write_text("a")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    clean = gather(CONFIG, run, {})["git"]
    assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (folder / "a").write_text("b")
    assert gather(CONFIG, run, {})["git"] == {"commit": clean["commit"], "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert gather(CONFIG, run, {})["git"] is None
