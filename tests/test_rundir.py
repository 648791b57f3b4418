"""Whole or not at all: writing, reading back, lock."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gemma_lora.console import Console
from gemma_lora.errors import DataError, EnvironmentFault
from gemma_lora.rundir import (
    RunDir,
    append_jsonl,
    digest,
    disk_fault,
    file_digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)

CONTEXT = multiprocessing.get_context("fork")


class Row(BaseModel):
    text: str
    number: int = 0


def in_child(work: Any) -> int:
    """Exit code of a forked process that does `work`."""
    child = CONTEXT.Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_kill_while_writing_leaves_the_old_content(moment: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_text(run.audit, "old")

    def work() -> None:
        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Path if moment == "replace" else os, moment, die)
        write_text(run.audit, "new " * 1000)

    assert in_child(work) == -signal.SIGKILL
    assert run.audit.read_text() == "old"
    assert len(list(tmp_path.glob(".audit.json.*"))) == 1, "the killed process left its temporary"
    with run.lock():  # the next process sweeps it away
        assert not list(tmp_path.glob(".audit.json.*"))
    write_text(run.audit, "new")
    assert run.audit.read_text() == "new"


def test_sweeping_touches_nothing_else(tmp_path: Path) -> None:
    names = (".hidden", ".settings.abcdefgh", "notes.part", "answers/test/.inputs.json")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / ".adapter.x1.part.old").mkdir()
    (tmp_path / ".adapter.x1.part.old" / "f").write_text("gone")
    with RunDir(tmp_path).lock():
        assert all((tmp_path / name).exists() for name in names)
        assert not (tmp_path / ".adapter.x1.part.old").exists()


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_others_may_read_results(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "report.md", "x")
    assert stat.S_IMODE((tmp_path / "deep" / "report.md").stat().st_mode) == 0o644


@given(st.lists(st.text(), max_size=5))
def test_rows_survive(texts: list[str]) -> None:
    import tempfile

    usable = [text for text in texts if not any(0xD800 <= ord(c) < 0xE000 for c in text)]
    rows = [Row(text=text, number=i) for i, text in enumerate(usable)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_jsonl(path, rows)
        assert read_jsonl(path, Row) == rows
        for row in rows:
            append_jsonl(path, row)
        assert read_jsonl(path, Row) == rows * 2


def test_line_separators_inside_a_text_do_not_split_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"text": "one\u2028two\u0085three\r\nfour", "number": 1})
    assert read_jsonl(path, Row)[0].text == "one\u2028two\u0085three\r\nfour"
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("torn", ['{"text": "half', "x", "\u00e9"[:1]])
def test_a_torn_last_line_is_cut_off_and_told(torn: str, tmp_path: Path) -> None:
    path, stream = tmp_path / "rows.jsonl", io.StringIO()
    write_jsonl(path, [Row(text="a"), Row(text="b")])
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    rows = read_jsonl(path, Row, Console(stream=stream))
    assert [row.text for row in rows] == ["a", "b"]
    assert path.read_bytes() == whole
    assert "rows.jsonl: the last line was torn off" in stream.getvalue()


def test_a_file_of_one_torn_line_is_empty_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"te')
    assert read_jsonl(path, Row) == []
    assert path.read_bytes() == b""
    assert read_jsonl(tmp_path / "absent.jsonl", Row) == []


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n{"text": "b"}\n')
    with pytest.raises(DataError, match="line 2 is not a Row"):
        read_jsonl(path, Row)


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "bad.json")


def test_digests(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("\ud800")
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f").startswith("ba7816bf")


def test_naming_a_folder_makes_none(tmp_path: Path) -> None:
    assert not RunDir(tmp_path / "run").root.exists()


def test_the_lock_keeps_a_second_process_out_and_ends_with_the_first(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")

    def second() -> None:
        try:
            with run.lock():
                os._exit(0)
        except EnvironmentFault as fault:
            os._exit(fault.exit_code)

    with run.lock():
        assert in_child(second) == 3
    assert in_child(second) == 0

    def killed() -> None:
        with run.lock():
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert in_child(second) == 0, "a kill leaves no lock behind"


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG]
)
def test_disk_faults_say_what_to_do(number: int) -> None:
    fault = disk_fault(OSError(number, os.strerror(number)), Path("run/x.json"))
    assert fault.exit_code == 3
    assert fault.where == "run/x.json"
    assert os.strerror(number) in str(fault)
    assert fault.remedy


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault), RunDir(tmp_path / "file").lock():
        pass
    with pytest.raises(EnvironmentFault):
        write_text(tmp_path / "file" / "a.json", "x")
