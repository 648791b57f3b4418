"""The command itself: help, usage faults, exit codes, one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_lora import __version__, cli
from gemma_lora.errors import ModelError
from gemma_lora.loading import leaves

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "openai", "scipy", "numpy")
COMMANDS = ("run", "audit", "train", "answer", "judge", "chat")


def process(*argv: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemma_lora.cli", *argv],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def loaded_by(code: str) -> set[str]:
    """Which of the heavy libraries a new process has loaded after `code`."""
    text = f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()} & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import gemma_lora",
        "from gemma_lora.cli import main; assert main(['--help']) == 0",
        "from gemma_lora.cli import main; assert main(['run', '--help']) == 0",
        "from gemma_lora.cli import main; assert main(['--version']) == 0",
        "from gemma_lora.cli import main; assert main(['rum']) == 2",
    ],
)
def test_no_heavy_library_is_loaded(code: str) -> None:
    assert loaded_by(code) == set()


def test_help_answers_at_once(tmp_path: Path) -> None:
    """Under 0.3 s of computing; the clock on the wall depends on what else the machine does."""

    def seconds(*argv: str) -> float:
        before = os.times()
        done = process(*argv, cwd=tmp_path)
        after = os.times()
        assert done.returncode == 0
        return (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )

    assert min(seconds("--help") for _ in range(3)) < 0.3


def test_the_installed_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("gemma-lora")
    if not script.exists():
        pytest.skip("the package is not installed as a command here")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"gemma-lora {__version__}\n")


def test_the_overview_names_every_command(capsys) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert cli.main([]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, capsys) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--quiet", "--debug"):
        assert flag in text
    assert ("--json" in text) == (name != "chat"), "a conversation has no one result"
    if name == "run":
        for leaf in leaves():
            assert leaf.name == "path" or leaf.flag in text
        for flag in ("--config", "--out", "--require"):
            assert flag in text
        assert "[16]" in text, "defaults are shown"
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["rum", "x.csv"], ["no command 'rum'", "did you mean run?", "gemma-lora --help"]),
        (["run", "x.csv", "--epoch", "3"], ["no flag '--epoch'", "did you mean --epochs?"]),
        (["run", "x.csv", "--lr=3"], ["no flag '--lr=3'"]),
        (["run", "x.csv", "y.csv"], ["one argument too many: 'y.csv'"]),
        (["run", "x.csv", "--seed"], ["expected one argument"]),
        (["run", "x.csv", "--rank", "many"], ["--rank: ", "'many'"]),
        (
            ["run", "x.csv", "--rank", "0", "--dropout", "3"],
            ["2 settings are wrong", "--rank", "--dropout"],
        ),
        (["run", "x.csv", "--schedule", "cubic"], ["--schedule", "'cosine'", "'cubic'"]),
        (["run", "x.csv", "--require", "best"], ["--require", "not-worse"]),
        (["run"], ["no data file is named", "gemma-lora run DATA"]),
        (["run", "absent.csv"], ["absent.csv", "there is no such file"]),
        (["run", "."], ["is not a file"]),
        (["run", "x.csv", "--config", "absent.yaml"], ["absent.yaml", "there is no such file"]),
        (["answer"], ["RUN"]),
        (["judge", "nowhere"], ["nowhere", "is not a run folder"]),
        (["answer", "nowhere"], ["is not a run folder"]),
        (["judge", "nowhere", "--epochs", "3"], ["no flag '--epochs' here"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_usage_faults(
    argv: list[str], parts: list[str], as_json: bool, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*argv, *(["--json"] if as_json else [])]) == 2
    out, err = capsys.readouterr()
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"
    if as_json:
        fault = json.loads(out)
        assert fault["exit_code"] == 2
        assert fault["found"]
    else:
        assert out == ""


def break_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_lora import pipeline

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "audit", broken)


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (RuntimeError("wires crossed"), 5, "inner fault: RuntimeError: wires crossed"),
        (ModelError("no weights", remedy="get some"), 3, "model error: no weights"),
        (KeyboardInterrupt(), 130, "run the same command again"),
        (SystemExit(143), 143, "run the same command again"),
    ],
    ids=["bug", "expected", "Ctrl-C", "terminated"],
)
def test_whatever_happens_is_one_json_object(
    error: BaseException, code: int, part: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_with(error, monkeypatch)
    assert cli.main(["audit", "x.csv", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == code
    assert part in err
    assert "Traceback" not in err
    if code == 5:
        assert "--debug" in err
        assert "report it" in err


@pytest.mark.parametrize("error", [RuntimeError("wires crossed"), ModelError("no weights")])
def test_debug_shows_the_traceback(
    error: Exception, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_with(error, monkeypatch)
    assert cli.main(["audit", "x.csv", "--debug"]) == getattr(error, "exit_code", 5)
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        [sys.executable, "-m", "gemma_lora.cli", "run", "--help"],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in child.stderr
    assert "inner fault" not in child.stderr


def test_libraries_are_kept_from_talking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (
        "import os, warnings; from gemma_lora.cli import main; main(['rum']);"
        "warnings.warn('chatter', FutureWarning); print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert "chatter" not in done.stderr
    loud = text.replace("'rum'", "'rum', '--debug'")
    done = subprocess.run([sys.executable, "-c", loud], capture_output=True, text=True, check=True)
    assert "chatter" in done.stderr
