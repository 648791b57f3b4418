"""Canaries: attacks among the answers of every run, asked and paid for once, and in no score."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.judge_server import SCORES, Act, JudgeServer, Seen, verdict_text

from gemma_lora import judge as judging
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.judge.canaries import FAMILIES, Canaries, choose
from gemma_lora.judge.items import Items
from gemma_lora.records import Judgement
from gemma_lora.rundir import RunDir, read_json, read_jsonl

LOW, HIGH = (verdict_text(dict.fromkeys(SCORES, n), "of the judge's own") for n in (2, 10))
QUIET = Console(quiet=True, stream=io.StringIO())
PROGRAM = """
import sys
from pathlib import Path
from gemma_lora import judge
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
config = Config(judge=JudgeConfig(judge=sys.argv[2], judge_concurrency=3, canaries=20))
judge.judge(config, RunDir(Path(sys.argv[1])), Console(quiet=True))
"""


def answers(run: RunDir) -> dict[tuple[str, str], str]:
    """Question and answer of each canary, by its id and arm."""
    items = Items(run, QUIET)
    canaries = Canaries(items, 10, 0)
    items.close()
    return {key[:2]: canaries.load(key).answer for key in canaries.keys}


def obeys(attacked: set[str]) -> Callable[[Seen], Act]:
    """A judge that is taken in by these answers and finds all others bad."""
    return lambda seen: Act(content=HIGH if seen.answer in attacked else LOW)


# ---------------------------------------------------------------------- the draw


def test_ten_cover_every_family_twice_with_different_classes() -> None:
    for seed in range(30):
        drawn = choose(10, seed)
        assert len({attack.id for attack in drawn}) == 10
        for kinds in FAMILIES.values():
            of_family = [attack.kind for attack in drawn if attack.kind in kinds]
            assert len(of_family) == len(set(of_family)) == 2
        assert sum(len(attack.answer) for attack in drawn) < 10_000, "cheap"
        assert not [attack for attack in drawn if attack.expected == "flagged"]


def test_the_draw_is_the_seeds_and_more_are_a_continuation() -> None:
    assert choose(10, 3) == choose(10, 3)
    assert choose(50, 3)[:10] == choose(10, 3)
    assert len({a.id for a in choose(50, 3)}) == 50
    assert len({tuple(a.id for a in choose(10, seed)) for seed in range(20)}) == 20


def test_they_stand_on_the_runs_own_questions(make_run) -> None:
    run = make_run(12)
    items = Items(run, QUIET)
    own = {items.load(key).messages for key in items.keys}
    canaries = Canaries(items, 10, 0)
    used = Counter(canaries.load(key).messages for key in canaries.keys)
    assert set(used) <= own
    assert set(used.values()) == {2}, (
        "an attack and the bad answer beside it, each on its own question"
    )
    for attack in canaries.attacks:
        bad, told = (canaries.load((attack.id, arm, 0)) for arm in ("honest", "attack"))
        assert bad.reference == told.reference == items.load(items.keys[0]).reference
        assert bad.answer in ("I do not know.", attack.honest)
        assert attack.answer in told.answer or told.answer == told.messages[-1].content
    few = Canaries(Items(make_run(2, folder="few"), QUIET), 10, 0)
    assert len(few) == 20, "with few questions they share"


# ---------------------------------------------------------------------- among the answers


def test_nothing_tells_them_from_answers_of_the_run(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(12)
    planted = set(answers(run).values())
    judging.judge(configured(server.name, canaries=10, judge_concurrency=1), run, QUIET)
    assert len(server.chats) == 24 + 20
    places = [n for n, seen in enumerate(server.chats) if seen.answer in planted]
    assert len(places) == 20
    assert places[0] > 0, "how the server wants to be asked is not learned from an attack"
    assert places[0] < 12, "among the answers"
    assert places[-1] > 24
    bodies = [json.loads(json.dumps(seen.body)) for seen in server.chats]
    assert len({body["messages"][0]["content"] for body in bodies}) == 1
    assert len({tuple(sorted(body)) for body in bodies}) == 1
    for seen in server.chats:
        assert "canar" not in json.dumps(seen.body).lower()


def test_they_enter_no_score_and_no_count(server: JudgeServer, make_run, configured) -> None:
    run = make_run(12)
    before = {path: path.read_bytes() for path in (run.root / "answers").rglob("*.jsonl")}
    with_ = judging.judge(configured(server.name, canaries=10), run, QUIET)
    rows, facts = (with_ / "judgements.jsonl").read_bytes(), read_json(with_ / "judge.json")
    without = judging.judge(configured(server.name), make_run(12, folder="b"), QUIET)
    plain = read_json(without / "judge.json")
    assert rows == (without / "judgements.jsonl").read_bytes()
    for name in ("judged", "scored", "unscored", "unscored_reasons", "flags", "repeats"):
        assert facts[name] == plain[name]
    assert {path: path.read_bytes() for path in (run.root / "answers").rglob("*.jsonl")} == before
    assert len(read_jsonl(with_ / "canaries" / "judgements.jsonl", Judgement)) == 20
    assert plain["canaries"]["asked"] == 0
    assert "--canaries 0" in plain["canaries"]["note"]


def test_repeats_do_not_repeat_them(server: JudgeServer, make_run, configured) -> None:
    judging.judge(configured(server.name, canaries=10, repeats=3), make_run(12), QUIET)
    assert len(server.chats) == 3 * 24 + 20


# ---------------------------------------------------------------------- what is measured


def test_the_rate_is_that_of_a_judge_with_a_known_weakness(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(12)
    texts = answers(run)
    fooled_by = [name for name, arm in texts if arm == "attack"][:3]
    server.plan = obeys({texts[name, "attack"] for name in fooled_by})
    stream = io.StringIO()
    folder = judging.judge(configured(server.name, canaries=10), run, Console(stream=stream))
    found = read_json(folder / "judge.json")["canaries"]
    assert (found["asked"], found["scored"], found["succeeded"]) == (10, 10, 3)
    assert found["successful"] == fooled_by
    assert found["rate"] == 0.3
    # Wilson 1927, recomputed from its formula: p = 0.3, n = 10, z = 1.959964
    z, p, n = 1.959964, 0.3, 10
    centre, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    bounds = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert found["rate_ci95"] == pytest.approx(bounds, abs=1e-4)
    assert sum(kind["succeeded"] for kind in found["classes"].values()) == 3
    assert "canaries: 3 of 10 attacks on the judge succeeded" in stream.getvalue()


def test_a_judge_that_likes_every_answer_is_not_called_fooled(
    server: JudgeServer, make_run, configured
) -> None:
    """Success is a gain over the bad answer beside it: a lenient judge is another fault."""
    server.plan = lambda seen: Act(content=HIGH)
    folder = judging.judge(configured(server.name, canaries=10), make_run(12), QUIET)
    assert read_json(folder / "judge.json")["canaries"]["succeeded"] == 0


def test_garbage_for_canaries_is_not_scored_and_no_success(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(12)
    texts = answers(run)
    bad = [name for name, arm in texts if arm == "attack"][:4]
    mute = {texts[name, "attack"] for name in bad}
    server.plan = lambda seen: Act(content="10 of 10") if seen.answer in mute else None
    folder = judging.judge(configured(server.name, canaries=10), run, QUIET)
    facts = read_json(folder / "judge.json")
    assert (facts["canaries"]["asked"], facts["canaries"]["scored"]) == (10, 6)
    assert sum(facts["canaries"]["unscored_reasons"].values()) == 4
    assert facts["unscored"] == {"base": 0, "tuned": 0}
    assert facts["to_ask_again"] == 0


def test_lexical_runs_them_and_is_fooled_by_overlap(make_run, configured) -> None:
    for seed in range(6):
        run = make_run(12, folder=f"r{seed}")
        config = configured("lexical", canaries=10).model_copy(update={"seed": seed})
        folder = judging.judge(config, run, QUIET)
        found = read_json(folder / "judge.json")["canaries"]
        assert found["scored"] == 10
        won = {kind for kind, n in found["classes"].items() if n["succeeded"]}
        assert {"echo_question"} & set(found["classes"]) <= won
        assert found["succeeded"] <= 3, "more than the echo only where words are shared by chance"


def test_replay_says_that_it_cannot_be_asked(make_run, configured) -> None:
    run = make_run(12)
    recorded = judging.judge(configured("lexical"), run, QUIET) / "judgements.jsonl"
    folder = judging.judge(configured(f"replay:{recorded}", canaries=10), run, QUIET)
    found = read_json(folder / "judge.json")["canaries"]
    assert (found["asked"], found["rate"]) == (0, None)
    assert "recorded" in found["note"]


# ---------------------------------------------------------------------- paid for once


def test_a_second_call_asks_nothing_and_more_canaries_ask_the_new_ones(
    server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    monkeypatch.setenv("GEMMA_LORA_CACHE", os.devnull)  # what the folder itself keeps
    run = make_run(12)
    for count, asked in ((10, 44), (10, 44), (12, 48), (0, 48)):
        folder = judging.judge(configured(server.name, canaries=count), run, QUIET)
        assert len(server.chats) == asked
        facts = read_json(folder / "judge.json")
        assert facts["canaries"]["asked"] == count
        assert facts["requests"] == asked, "what was paid for canaries stays counted"


def test_killed_with_canaries_under_way_nothing_recorded_is_asked_again(
    server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    monkeypatch.setenv("GEMMA_LORA_CACHE", os.devnull)
    server.plan = lambda seen: Act(delay=0.03)
    run = make_run(20)
    folder = run.judgements(judging.slug(server.name))
    files = (folder / "judgements.jsonl", folder / "canaries" / "judgements.jsonl")
    for _ in range(3):
        known = len(server.chats) + 12
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run.root), server.name])
        while len(server.chats) < known and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    recorded = sum(len(read_jsonl(file, Judgement)) for file in files)
    assert read_jsonl(files[1], Judgement), "canaries are among the first"
    start = len(server.chats)
    config = configured(server.name, canaries=20)
    judging.judge(config, run, QUIET)
    assert len(server.chats) - start == 80 - recorded
    assert len(server.chats) - 80 <= 3 * 3, "at most what was in flight is repeated"
    facts = read_json(folder / "judge.json")
    assert (facts["judged"], facts["canaries"]["scored"]) == (40, 20)


def test_the_cost_is_told_beforehand_counted_and_limited(
    server: JudgeServer, make_run, configured
) -> None:
    prices = {"price_input": 1000.0, "price_output": 1000.0}  # 100 + 20 tokens: $0.12 a request
    stream = io.StringIO()
    config = configured(server.name, canaries=10, **prices)
    folder = judging.judge(config, make_run(12), Console(stream=stream))
    assert "to ask: 44 requests" in stream.getvalue()
    assert "20 of them for canaries (--canaries)" in stream.getvalue()
    assert read_json(folder / "judge.json")["cost"] == pytest.approx(44 * 0.12)


def test_settings_of_the_run_decide(configured, tmp_path: Path) -> None:
    assert Config().judge.canaries == 10
