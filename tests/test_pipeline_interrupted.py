"""A run killed anywhere and started again ends as if nothing had happened, and repeats no finished stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.judge_server import JudgeServer
from support.processes import CliServer, Done, Stop
from support.small_runs import FAST, finished, numbers, write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder) -> Path:
    """A folder with rows.csv and the model `tiny`, where runs are made."""
    folder = tmp_path_factory.mktemp("place")
    write_rows(folder / "rows.csv")
    (folder / "tiny").symlink_to(tiny_folder())
    return folder


def command(out: str, *more: str) -> list[str]:
    return ["run", "rows.csv", "--model", "tiny", "--out", out, *FAST, *more]


@pytest.fixture(scope="module")
def whole(place: Path, cli: CliServer) -> Path:
    """The run that nobody interrupted."""
    done = cli.run(command("whole"), cwd=place)
    assert done.code == 0, done.err
    return place / "whole"


def same_as(whole: Path, run: Path) -> None:
    files = ("split/train.jsonl", "split/test.jsonl", "answers/test/base.jsonl")
    for name in (*files, "adapter/adapter_model.safetensors", "answers/test/tuned.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert numbers(run) == numbers(whole)
    assert not [path for path in run.rglob(".*") if ".writing" in path.name]


def continue_and_compare(cli: CliServer, place: Path, whole: Path, name: str, *more: str) -> Done:
    """Run again; whatever was finished is said to be, and is not touched."""
    run = place / name
    before = finished(run)
    done = cli.run(command(name, *more), cwd=place)
    assert done.code == 0, done.err
    stages = {path.stem for path in (run / ".stamps").glob("*.json")} - {"identity"}
    assert stages >= {"data", "train", "answer"}
    after = finished(run)
    assert {path: after[path] for path in before} == before
    for stage, mark in (("data", "split/"), ("train", "adapter/"), ("answer", "answers/")):
        if any(path.startswith(mark) for path in before):
            assert f"[{stage}] done before" in done.err
    return done


KILLS = {
    "very start": Stop("os.rename", ".stamps/identity.json"),
    "data": Stop("os.rename", "split/validation.jsonl"),
    "data, before its stamp": Stop("os.rename", ".stamps/data.json"),
    "training": Stop("write", "metrics.jsonl", 6),
    "writing a checkpoint": Stop("write", "optimizer.safetensors", 2),
    "renaming a checkpoint": Stop("os.rename", "checkpoints/step-", 2),
    "writing the adapter": Stop("os.rename", "/adapter"),
    "training, before its stamp": Stop("os.rename", ".stamps/train.json"),
    "base answers": Stop("write", "answers/test/base.jsonl", 3),
    "tuned answers": Stop("write", "answers/test/tuned.jsonl", 6),
    "forgetting": Stop("write", "forgetting/items.jsonl", 2),
    "forgetting, before its stamp": Stop("os.rename", ".stamps/forgetting.json"),
    "judging": Stop("write", "lexical/judgements.jsonl"),  # all in one write
    "report": Stop("os.rename", "report.md"),
    "verdict": Stop("os.rename", "/verdict.json", 2),
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_then_continued(when: str, place: Path, whole: Path, cli: CliServer) -> None:
    name = f"killed-{list(KILLS).index(when)}"
    killed = cli.run(command(name), cwd=place, kill=KILLS[when])
    assert killed.code == -signal.SIGKILL, killed.err
    done = continue_and_compare(cli, place, whole, name)
    same_as(whole, place / name)
    if when in ("training", "writing a checkpoint"):
        assert "going on from the checkpoint of step" in done.err
    if "answers" in when:
        assert "continuing" in done.err
    assert "Traceback" not in done.err


def test_killed_twice_and_terminated(place: Path, whole: Path, cli: CliServer) -> None:
    for stop, code in (
        (Stop("write", "metrics.jsonl", 4, int(signal.SIGTERM)), 143),
        (Stop("write", "metrics.jsonl", 4, int(signal.SIGINT)), 130),
        (Stop("write", "answers/test/base.jsonl", 2, int(signal.SIGTERM)), 143),
        (Stop("write", "answers/test/tuned.jsonl", 2, int(signal.SIGINT)), 130),
    ):
        stopped = cli.run(command("signals"), cwd=place, kill=stop)
        assert stopped.code == code, stopped.err
        assert "run the same command again to continue" in stopped.err
        assert "Traceback" not in stopped.err
        if "metrics" in stop.match:
            assert "saving a checkpoint" in stopped.err
    continue_and_compare(cli, place, whole, "signals")
    same_as(whole, place / "signals")


def test_an_interruption_is_one_json_object_too(place: Path, cli: CliServer) -> None:
    stop = Stop("write", "metrics.jsonl", 3, int(signal.SIGTERM))
    stopped = cli.run(command("json-signal", "--json"), cwd=place, kill=stop)
    assert stopped.code == 143
    assert stopped.json["exit_code"] == 143


def test_recorded_judge_replies_are_not_asked_again(
    place: Path, whole: Path, cli: CliServer, tmp_path: Path
) -> None:
    caches = [{"GEMMA_LORA_CACHE": str(tmp_path / name)} for name in ("first", "second")]
    shutil.copytree(whole, place / "served", copy_function=shutil.copy2)
    with JudgeServer() as server:
        again = ["judge", "served", "--judge", server.name, "--judge-concurrency", "2"]
        again += ["--canaries", "0"]
        killed = cli.run(
            again, cwd=place, env=caches[0], kill=Stop("write", "/judgements.jsonl", 6)
        )
        assert killed.code == -signal.SIGKILL, killed.err
        folder = next(p for p in (place / "served/judgements").iterdir() if p.name != "lexical")
        there = [json.loads(line) for line in (folder / "judgements.jsonl").open(encoding="utf-8")]
        assert there
        seen = len(server.chats)
        # another cache: what is not asked again is known from the run folder alone
        done = cli.run(again, cwd=place, env=caches[1])
        assert done.code == 0, done.err
        asked = server.chats[seen + 1 :]  # the first is the probe
        known = {(row["id"], row["arm"]) for row in there}
        answers = {
            (row["id"], arm): row["answer"]
            for arm in ("base", "tuned")
            for row in map(json.loads, (place / f"served/answers/test/{arm}.jsonl").open("rb"))
        }
        new = {answers[key] for key in answers.keys() - known}
        assert {chat.answer for chat in asked} <= new
        assert len(asked) <= len(answers) - len(known)
        rows = [json.loads(line) for line in (folder / "judgements.jsonl").open(encoding="utf-8")]
        assert len(rows) == len(answers)
        kept = {(row["id"], row["arm"]): row for row in rows}
        assert all(kept[row["id"], row["arm"]] == row for row in there)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_while_the_judge_is_asked(
    number: signal.Signals, code: int, place: Path, whole: Path, cli: CliServer, tmp_path: Path
) -> None:
    name = f"asked-{code}"
    shutil.copytree(whole, place / name, copy_function=shutil.copy2)
    with JudgeServer() as server:
        again = ["judge", name, "--judge", server.name, "--judge-concurrency", "2"]
        env = {"GEMMA_LORA_CACHE": str(tmp_path)}
        stop = Stop("write", "/judgements.jsonl", 5, int(number))
        stopped = cli.run(again, cwd=place, env=env, kill=stop)
        assert stopped.code == code, stopped.err
        assert "Traceback" not in stopped.err
        assert "run the same command again" in stopped.err
        done = cli.run([*again, "--json"], cwd=place, env=env)
        assert done.code == 0, done.err
        assert done.json["unscored"] == {"base": 0, "tuned": 0}


def test_a_plain_process_killed_from_outside(place: Path, whole: Path, cli: CliServer) -> None:
    """No hook, no fork: `python -m gemma_lora.cli`, watched by its files, then SIGKILL."""
    run = place / "outside"
    process = subprocess.Popen(
        [sys.executable, "-m", "gemma_lora.cli", *command("outside")],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (run / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.kill()
    error = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, error
    # nothing of the libraries on the way: no warnings, no bars, no look-ups on the hub
    for foreign in ("Warning", "Unable to fetch", "%|", "site-packages"):
        assert foreign not in error
    continue_and_compare(cli, place, whole, "outside")
    same_as(whole, run)


@pytest.mark.full
def test_killed_before_every_fifth_file_operation(place: Path, whole: Path, cli: CliServer) -> None:
    """Forward through the whole run: each attempt is killed later, in a fresh folder."""
    for event, step in (("write", 5), ("os.rename", 2)):
        count = 1
        while True:
            name = f"loop-{event}-{count}"
            killed = cli.run(command(name), cwd=place, kill=Stop(event, name, count))
            if killed.code == 0:
                break
            assert killed.code == -signal.SIGKILL, killed.err
            continue_and_compare(cli, place, whole, name)
            same_as(whole, place / name)
            shutil.rmtree(place / name)
            count += step
        assert count > 10


@pytest.mark.full
def test_killed_again_and_again_in_one_folder(place: Path, whole: Path, cli: CliServer) -> None:
    for count in range(3, 400, 4):
        killed = cli.run(command("stubborn"), cwd=place, kill=Stop("write", "stubborn", count))
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.err
    same_as(whole, place / "stubborn")
