"""What is told, where, and how often."""

from __future__ import annotations

import io
import subprocess
import sys

from gemma_lora.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_everything_goes_to_stderr(capsys) -> None:
    console = Console()
    console.note("a fact")
    console.stage("train")
    console.warn("careful")
    console.progress("1/2", final=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a fact\n\n[train]\nwarning: careful\n1/2\n"


def test_quiet_keeps_warnings_only() -> None:
    stream = io.StringIO()
    console = Console(quiet=True, stream=stream)
    console.note("a fact")
    console.stage("train", "again")
    console.progress("1/2", final=True)
    console.warn("careful")
    assert stream.getvalue() == "warning: careful\n"
    assert console.warnings == ["careful"]


def test_a_warning_is_said_once_and_kept() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    for text in ("a", "b", "a"):
        console.warn(text)
    assert stream.getvalue() == "warning: a\nwarning: b\n"
    assert console.warnings == ["a", "b"]


def test_off_a_terminal_progress_is_seldom_but_ends() -> None:
    stream = io.StringIO()
    console = Console(stream=stream, interval=3600)
    for number in range(100):
        console.progress(f"step {number}")
    console.progress("step 100", final=True)
    assert stream.getvalue() == "step 0\nstep 100\n"
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_the_line_is_redrawn_and_not_written_into() -> None:
    stream = Terminal()
    console = Console(stream=stream)
    console.progress("step 1")
    console.progress("step 2")
    console.note("a fact")
    console.progress("step 3", final=True)
    console.note("done")
    text = stream.getvalue()
    assert text.startswith("\r\x1b[2Kstep 1\r\x1b[2Kstep 2\na fact\n")
    assert text.endswith("step 3\ndone\n")


def test_work_goes_on_when_nobody_reads(tmp_path) -> None:
    """As in `gemma-lora run ... 2>&1 | head -1`."""
    script = (
        "import sys, pathlib; from gemma_lora.console import Console; console = Console()\n"
        "for number in range(20000): console.note(f'line {number}')\n"
        "console.warn('kept'); pathlib.Path(sys.argv[1]).write_text(str(console.warnings))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "done")], stderr=subprocess.PIPE, text=True
    ) as work:
        assert work.stderr is not None
        assert work.stderr.readline() == "line 0\n"
        work.stderr.close()
        assert work.wait(60) == 0
    assert (tmp_path / "done").read_text() == "['kept']"
