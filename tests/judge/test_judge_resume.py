"""Killed with SIGKILL and started again, the stage asks no recorded reply a second time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.judge_server import Act, JudgeServer, Seen, completion, good_reply, right_scores

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import DataError, JudgeError
from gemma_lora.records import Judgement
from gemma_lora.rundir import append_jsonl, read_json, read_jsonl

PROGRAM = """
import sys
from pathlib import Path
from gemma_lora import judge
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
config = Config(judge=JudgeConfig(judge=sys.argv[2], judge_concurrency=4, canaries=0))
judge.judge(config, RunDir(Path(sys.argv[1])), Console(quiet=True))
"""


@pytest.mark.parametrize(
    ("cache", "most"),
    [
        (False, 2),
        pytest.param(True, 10, marks=pytest.mark.full),
        pytest.param(False, 10, marks=pytest.mark.full),
    ],
)
def test_kills_lose_and_repeat_nothing(
    cache: bool, most: int, server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    if not cache:  # resume must not lean on the cache
        monkeypatch.setenv("GEMMA_LORA_CACHE", os.devnull)
    server.plan = lambda seen: Act(delay=0.03)
    run = make_run(60)
    path = run.judgements(judging.slug(server.name)) / "judgements.jsonl"
    recorded_before_kill: set[str] = set()
    asked_again: list[str] = []
    kills = 0
    while kills < most:
        start, known = len(server.chats), len(server.chats) + 8
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run.root), server.name])
        while len(server.chats) < known and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        asked_again += [s.answer for s in server.chats[start:] if s.answer in recorded_before_kill]
        recorded_before_kill = {
            f"{row.arm[0]} answer {int(row.id[1:])}" for row in read_jsonl(path, Judgement)
        }
    assert kills == most
    start = len(server.chats)
    judging.judge(configured(server.name), run, Console(quiet=True))
    asked_again += [s.answer for s in server.chats[start:] if s.answer in recorded_before_kill]
    assert asked_again == []
    rows = read_jsonl(path, Judgement)
    assert len(rows) == 120
    assert all(
        row.overall == right_scores(f"{row.arm[0]} answer {int(row.id[1:])}")["overall"]
        for row in rows
    )
    counts = Counter(seen.answer for seen in server.chats)
    assert len(counts) == 120
    assert sum(counts.values()) - 120 <= 4 * kills, "at most what was in flight is repeated"


def test_a_judge_that_changed_between_two_calls_is_warned_of(
    server: JudgeServer, make_run, configured
) -> None:
    run, config = make_run(5), configured(server.name, judge_concurrency=1)

    def as_model(name: str, most: int) -> None:
        def plan(seen: Seen) -> Act:
            body = completion(name, good_reply(seen))
            return Act(body=body) if len(server.chats) <= most else Act(status=401)

        server.plan = plan

    as_model("first", 5)
    with pytest.raises(JudgeError):
        judging.judge(config, run, Console(quiet=True))
    as_model("second", 99)
    console = Console(quiet=True)
    folder = judging.judge(config, run, console)
    (told,) = console.warnings
    assert "it called itself first-2026-11-01 and then second-2026-11-01" in told
    assert read_json(folder / "judge.json")["warnings"] == [told]
    judging.judge(config, run, Console(quiet=True))
    assert read_json(folder / "judge.json")["warnings"] == [told], "said once"


def test_a_torn_last_line_costs_one_question(server: JudgeServer, make_run, configured) -> None:
    run, config = make_run(5), configured(server.name)
    folder = judging.judge(config, run, Console(quiet=True))
    for name in ("judgements.jsonl", "usage.jsonl"):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:-20])
    server.seen.clear()
    judging.judge(config, run, Console(quiet=True))
    assert len(server.chats) == 0, "the cache still has it"
    assert len(read_jsonl(folder / "judgements.jsonl", Judgement)) == 10
    assert read_json(folder / "judge.json")["judged"] == 10


@pytest.mark.parametrize("name", ["judge.json", "inputs.json"])
@pytest.mark.parametrize("content", ['{"identity": "0', "[]"])
def test_a_damaged_file_of_ours_is_named_with_the_remedy(
    name: str, content: str, make_run, configured
) -> None:
    run, config = make_run(3), configured("lexical")
    folder = judging.judge(config, run, Console(quiet=True))
    (folder / name).write_text(content)
    with pytest.raises(DataError) as caught:
        judging.judge(config, run, Console(quiet=True))
    assert caught.value.where == str(folder / name)
    assert caught.value.remedy == "delete the file and run the same command again"
    (folder / name).unlink()
    judging.judge(config, run, Console(quiet=True))


def test_scores_that_were_edited_off_the_scale_are_refused_by_line(make_run, configured) -> None:
    run, config = make_run(3), configured("lexical")
    path = judging.judge(config, run, Console(quiet=True)) / "judgements.jsonl"
    whole = path.read_text()
    for field, value in (("relevance", "13.55"), ("overall", "0.5"), ("accuracy", "NaN")):
        lines = [json.loads(line) for line in whole.splitlines()]
        edited = lines[1] if field == "overall" else lines[1]["scores"]
        edited[field] = float(value)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(DataError, match="line 2 is not a Judgement") as caught:
            judging.judge(config, run, Console(quiet=True))
        assert f"scores go from 1 to 10, found {field} = {value.lower()}" in caught.value.found
        assert caught.value.where == str(path)
        assert "delete the file" in (caught.value.remedy or "")


def test_of_two_lines_for_one_answer_the_last_counts(
    server: JudgeServer, make_run, configured
) -> None:
    run, config = make_run(3), configured(server.name)
    folder = judging.judge(config, run, Console(quiet=True))
    (first, *_) = read_jsonl(folder / "judgements.jsonl", Judgement)
    append_jsonl(folder / "judgements.jsonl", first.model_copy(update={"reasoning": "newer"}))
    judging.judge(config, run, Console(quiet=True))
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert len(rows) == 6
    assert rows[0].reasoning == "newer"


def test_two_processes_share_the_cache(server: JudgeServer, make_run, configured) -> None:
    runs = [make_run(20, folder=name) for name in "ab"]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(run.root), server.name])
        for run in runs
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    before = len(server.chats)
    third = make_run(20, folder="c")
    judging.judge(configured(server.name), third, Console(quiet=True))
    assert len(server.chats) == before
    files = [
        run.judgements(judging.slug(server.name)) / "judgements.jsonl" for run in (*runs, third)
    ]
    assert len({file.read_bytes() for file in files}) == 1
