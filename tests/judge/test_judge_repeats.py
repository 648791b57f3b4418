"""--repeats K: K judgements of each answer, each with its number, averaged inside the question."""

from __future__ import annotations

import io
import json
import statistics
from collections import Counter, defaultdict

import pytest
from support.judge_server import Act, JudgeServer, Seen, verdict_text

from gemma_lora import judge as judging
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.decision.pairing import pair_up
from gemma_lora.records import ARMS, DIMENSIONS, Answer, Judgement
from gemma_lora.rundir import read_json, read_jsonl


def drifting(seen: Seen) -> Act:
    """A judge that gives another overall each time it is asked the same, as hosted ones do at 0."""
    drifting.asked[seen.answer] += 1  # type: ignore[attr-defined]
    scores = dict.fromkeys((*DIMENSIONS, "overall"), 4 + drifting.asked[seen.answer])  # type: ignore[attr-defined]
    return Act(content=verdict_text(scores))


@pytest.fixture(autouse=True)
def none_asked_yet() -> None:
    drifting.asked = Counter()  # type: ignore[attr-defined]


def test_each_answer_is_judged_that_often_and_the_mean_counts(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = drifting
    run, stream = make_run(6), io.StringIO()
    config = configured(server.name, repeats=3)
    folder = judging.judge(config, run, Console(stream=stream))
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert [(row.id, row.arm, row.repeat) for row in rows] == [
        (f"q{i:04d}", arm, repeat) for i in range(6) for arm in ARMS for repeat in range(3)
    ]
    assert len(server.chats) == 36
    by_answer: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        by_answer[row.id, row.arm].append(row.overall or 0)
    assert all(sorted(scores) == [5, 6, 7] for scores in by_answer.values())
    known = read_json(folder / "judge.json")
    assert known["repeats"] == 3
    assert known["repeat_spread"] == pytest.approx(statistics.stdev([5, 6, 7]))
    assert "3 judgements an answer; they differ by 1.00" in stream.getvalue()
    answers = {arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS}
    paired, strangers = pair_up([], answers, rows)
    assert strangers == 0
    assert all(
        q.scored[arm].overall == 6 and q.scored[arm].repeats == 3 for q in paired for arm in ARMS
    )


def test_more_repeats_keep_those_that_are_there_and_fewer_leave_them_out(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = drifting
    run = make_run(5)
    judging.judge(configured(server.name), run, Console(quiet=True))
    assert len(server.chats) == 10
    folder = judging.judge(configured(server.name, repeats=3), run, Console(quiet=True))
    assert len(server.chats) == 30
    stream = io.StringIO()
    judging.judge(configured(server.name, repeats=2), run, Console(stream=stream))
    assert "10 earlier judgements are further repeats, which are left out now" in stream.getvalue()
    assert len(read_jsonl(folder / "judgements.jsonl", Judgement)) == 20
    judging.judge(configured(server.name, repeats=3), run, Console(quiet=True))
    assert len(server.chats) == 30, "the cache has them, repeat by repeat"
    again = make_run(5, folder="again")
    judging.judge(configured(server.name, repeats=3), again, Console(quiet=True))
    assert len(server.chats) == 30
    rows = [
        read_jsonl(r.judgements(judging.slug(server.name)) / "judgements.jsonl", Judgement)
        for r in (run, again)
    ]
    assert rows[0] == rows[1]


def test_judges_that_repeat_themselves_are_asked_once(make_run, configured) -> None:
    stream = io.StringIO()
    run = make_run(4)
    folder = judging.judge(configured("lexical", repeats=5), run, Console(stream=stream))
    assert len(read_jsonl(folder / "judgements.jsonl", Judgement)) == 8
    assert "each answer is judged once" in stream.getvalue()
    assert judging.fingerprint(JudgeConfig(judge="lexical", repeats=5)) == judging.fingerprint(
        JudgeConfig(judge="lexical")
    )


def test_recorded_repeats_are_replayed(make_run, tmp_path) -> None:
    lines = [
        {
            "id": f"q{i:04d}",
            "arm": arm,
            "repeat": r,
            "overall": 3 + r,
            "scores": dict.fromkeys(DIMENSIONS, 5),
        }
        for i in range(3)
        for arm in ARMS
        for r in range(2)
    ]
    file = tmp_path / "recorded.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Config(judge=JudgeConfig(judge=f"replay:{file}", repeats=2))
    folder = judging.judge(config, make_run(3), Console(quiet=True))
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert [row.overall for row in rows] == [3, 4] * 6


def test_the_number_of_repeats_is_part_of_what_decides() -> None:
    one, three = (judging.fingerprint(JudgeConfig(judge="ollama:m", repeats=k)) for k in (1, 3))
    assert one != three


def test_a_judge_that_became_another_is_not_mixed_with_its_past(
    server: JudgeServer, make_run, configured
) -> None:
    """The cache is keyed by the snapshot: replies of the earlier one do not count, and the change is said."""
    judging.judge(configured(server.name), make_run(5), Console(quiet=True))
    assert len(server.chats) == 10
    server.model = "stub-judge-new"  # the name asked for stays; what answers is another
    more = make_run(8, folder="more")
    folder = judging.judge(configured(server.name), more, Console(quiet=True))
    assert len(server.chats) == 10 + 16, "ten kept replies are of the other snapshot"
    assert read_json(folder / "judge.json")["snapshot"] == "stub-judge-new-2026-11-01"
    third = make_run(8, folder="third")
    judging.judge(configured(server.name), third, Console(quiet=True))
    assert len(server.chats) == 26


def test_a_judge_that_changes_while_it_judges_is_told(
    server: JudgeServer, make_run, configured
) -> None:
    def plan(seen: Seen) -> None:
        if seen.number == 7:
            server.model = "stub-judge-new"

    server.plan = plan
    console = Console(quiet=True, stream=io.StringIO())
    folder = judging.judge(configured(server.name, judge_concurrency=1), make_run(6), console)
    assert read_json(folder / "judge.json")["snapshot"] == (
        "stub-judge-2026-11-01, stub-judge-new-2026-11-01"
    )
    (warning,) = [text for text in console.warnings if "the judge changed" in text]
    assert "stub-judge-2026-11-01 and then stub-judge-new-2026-11-01" in warning
