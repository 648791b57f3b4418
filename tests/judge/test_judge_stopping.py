"""Ctrl-C and SIGTERM while judging: what is under way is paid for, so it is waited for and kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from support.judge_server import Act, JudgeServer

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.records import Judgement
from gemma_lora.rundir import read_jsonl

PROGRAM = """
import sys
from pathlib import Path
from gemma_lora import judge
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
config = Config(judge=JudgeConfig(judge=sys.argv[2], judge_concurrency=4, canaries=0))
judge.judge(config, RunDir(Path(sys.argv[1])), Console())
"""


NOTEBOOK = f"""
import asyncio, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
async def cell():
{textwrap.indent(PROGRAM, "    ")}
try:
    asyncio.new_event_loop().run_until_complete(cell())  # a notebook's loop has no handler of SIGINT
except KeyboardInterrupt:
    print("interrupted")
    time.sleep(1)  # the kernel lives on
    print([thread.name for thread in threading.enumerate()])
"""


def start(run, server: JudgeServer, after: int, program: str = PROGRAM) -> subprocess.Popen:
    """A process that judges, with `after` requests at the server."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(run.root), server.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(server.chats) < after and process.poll() is None:
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_keeps_what_is_under_way(
    number: signal.Signals, server: JudgeServer, make_run, configured
) -> None:
    server.plan = lambda seen: Act(delay=0.3)
    run = make_run(50)
    process = start(run, server, 10)
    os.kill(process.pid, number)
    text = process.communicate(timeout=20)[1]
    code = process.returncode
    assert code == (143 if number == signal.SIGTERM else code)
    assert code != 0
    assert "waiting for the requests under way, which are paid for" in text
    path = run.judgements(judging.slug(server.name)) / "judgements.jsonl"
    asked = len(server.chats)
    assert len(read_jsonl(path, Judgement)) == asked < 20, "not one of them is lost"
    server.plan = lambda seen: None
    judging.judge(configured(server.name), run, Console(quiet=True))
    assert len(server.chats) == 100, "and none is asked again"


def test_a_second_signal_drops_it(server: JudgeServer, make_run) -> None:
    server.plan = lambda seen: Act(delay=20 if seen.number > 6 else 0.01)
    process = start(make_run(50), server, 11)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it waits"
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5


def test_pauses_are_not_waited_out(server: JudgeServer, make_run) -> None:
    server.plan = lambda seen: (
        Act(status=429, headers={"retry-after": "60"}) if seen.number > 6 else None
    )
    process = start(make_run(50), server, 8)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode != 0


def test_a_part_does_not_pass_for_the_whole(
    server: JudgeServer, make_run, configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where workers end without a word, there is no judge.json, and the next call goes on."""
    from gemma_lora.judge import engine, stage

    async def ends_early(scorer, answers, keys, progress) -> None:
        await engine.ask_all(scorer, answers, keys[:7], progress)

    run, config = make_run(10), configured(server.name)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "ask_all", ends_early)
        with pytest.raises(JudgeError, match="13 answers were not judged"):
            judging.judge(config, run, Console(quiet=True))
    folder = run.judgements(judging.slug(server.name))
    assert not (folder / "judge.json").exists()
    assert judging.judge(config, run, Console(quiet=True)) == folder
    assert len(server.chats) == 20


def test_a_notebook_is_interrupted_like_a_program(
    server: JudgeServer, make_run, configured
) -> None:
    """Its loop is running, so judging has a thread; nothing may be asked when the caller is free again."""
    server.plan = lambda seen: Act(delay=0.3)
    run = make_run(50)
    process = start(run, server, 10, NOTEBOOK)
    os.kill(process.pid, signal.SIGINT)
    out, text = process.communicate(timeout=30)
    assert "waiting for the requests under way, which are paid for" in text
    assert out.splitlines() == ["interrupted", "['MainThread']"]
    path = run.judgements(judging.slug(server.name)) / "judgements.jsonl"
    asked = len(server.chats)
    assert len(read_jsonl(path, Judgement)) == asked < 20
    server.plan = lambda seen: None
    judging.judge(configured(server.name), run, Console(quiet=True))
    assert len(server.chats) == 100


def test_a_second_interrupt_in_a_notebook_drops_what_is_under_way(
    server: JudgeServer, make_run
) -> None:
    server.plan = lambda seen: Act(delay=20 if seen.number > 6 else 0.01)
    process = start(make_run(50), server, 11, NOTEBOOK)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it waits"
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    out = process.communicate(timeout=20)[0]
    assert time.monotonic() - began < 8
    assert out.splitlines() == ["interrupted", "['MainThread']"]
