"""Further arms and a second judging: each asked once, none paid for twice, none told apart by the judge."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from support.judge_server import Act, JudgeServer, Seen, verdict_text

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.records import AGAIN, DIMENSIONS, Answer, Judgement
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_jsonl


class Drifting:
    """Gives 1 more each time it is asked about the same answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, seen: Seen) -> Act:
        self.asked[seen.answer] += 1
        return Act(
            content=verdict_text(
                dict.fromkeys((*DIMENSIONS, "overall"), 3 + self.asked[seen.answer])
            )
        )


def add_arm(run: RunDir, slug: str, *, say: str = "shown") -> None:
    rows = read_jsonl(run.answers("base"), Answer)
    write_jsonl(
        run.answers(slug),
        [row.model_copy(update={"answer": f"{say} answer {i}"}) for i, row in enumerate(rows)],
    )


def told(config, run, **more) -> tuple[str, list[Judgement]]:
    stream = io.StringIO()
    folder = judging.judge(config, run, Console(stream=stream), **more)
    return stream.getvalue(), read_jsonl(folder / "judgements.jsonl", Judgement)


def test_arms_that_come_later_cost_only_themselves(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = Drifting()
    run = make_run(10)
    add_arm(run, "few-shot")
    add_arm(run, "prompt-p", say="kind")
    told(configured(server.name), run)
    assert len(server.chats) == 20
    _, rows = told(configured(server.name, baseline=("few-shot",)), run)
    assert len(server.chats) == 30
    assert Counter(row.arm for row in rows) == {"base": 10, "tuned": 10, "few-shot": 10}
    both = configured(server.name, baseline=("few-shot", "prompt:x/p.txt"), aa=True)
    said, rows = told(both, run)
    assert len(server.chats) == 50
    assert "to ask: 20 requests" in said
    assert "30 of 50 answers are judged already" in said
    assert Counter(row.arm for row in rows)[AGAIN] == 10
    known = read_json(run.judgements(judging.slug(server.name)) / "judge.json")
    assert known["unscored"] == {"base": 0, "tuned": 0, "few-shot": 0, "prompt-p": 0, AGAIN: 0}
    told(both, run)
    assert len(server.chats) == 50
    # left out, said so, and later again without a request: the replies are kept
    said, rows = told(configured(server.name), run)
    assert "30 earlier judgements are of arms that are left out now" in said
    assert len(rows) == 20
    _, again = told(both, run)
    assert len(server.chats) == 50
    assert {(r.id, r.arm, r.overall) for r in again} >= {(r.id, r.arm, r.overall) for r in rows}


def test_a_second_judging_never_meets_the_replies_to_the_first(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = Drifting()
    run = make_run(6)
    _, rows = told(configured(server.name, aa=True), run)
    assert len(server.chats) == 18
    score = {(row.id, row.arm): row.overall for row in rows}
    for name in {row.id for row in rows}:
        assert sorted([score[name, "base"], score[name, AGAIN]]) == [4, 5], (
            "asked twice, not copied"
        )
        assert score[name, "tuned"] == 4
    # in another folder both judgings come from the cache, each from its own entry
    other = make_run(6, folder="other")
    _, kept = told(configured(server.name, aa=True), other)
    assert len(server.chats) == 18
    assert {(row.id, row.arm): row.overall for row in kept} == score


def test_with_repeats_the_second_judging_has_as_many(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = Drifting()
    run = make_run(3)
    _, rows = told(configured(server.name, aa=True, repeats=2), run)
    assert len(server.chats) == 18
    assert Counter((row.arm, row.repeat) for row in rows) == {
        (arm, repeat): 3 for arm in ("base", "tuned", AGAIN) for repeat in (0, 1)
    }
    assert {row.overall for row in rows if row.arm in ("base", AGAIN)} == {4, 5, 6, 7}


def test_only_the_arm_whose_answers_changed_is_judged_anew(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(5)
    add_arm(run, "few-shot")
    config = configured(server.name, baseline=("few-shot",), aa=True)
    told(config, run)
    assert len(server.chats) == 20
    add_arm(run, "few-shot", say="other")
    said, _ = told(config, run)
    assert "5 earlier judgements are of answers that changed" in said
    assert len(server.chats) == 25
    assert all(seen.answer.startswith("other") for seen in server.chats[20:])


def test_no_request_tells_the_arm_and_the_arms_come_mixed(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(20)
    add_arm(run, "few-shot")
    told(configured(server.name, baseline=("few-shot",), aa=True, judge_concurrency=1), run)
    assert len(server.chats) == 80
    for seen in server.chats:
        text = json.dumps(seen.body).lower()
        assert not [
            word for word in ("few-shot", "base-again", "tuned", "baseline") if word in text
        ]
    arms = ["few-shot" if seen.answer.startswith("shown") else "" for seen in server.chats]
    halves = [arms[:40].count("few-shot"), arms[40:].count("few-shot")]
    assert min(halves) >= 4, halves


def test_the_cost_limit_holds_for_all_arms_together(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(4)
    config = configured(server.name, aa=True, price_input=1.0, price_output=1.0, max_cost=1000.0)
    said, _ = told(config, run)
    assert "to ask: 12 requests" in said
    assert read_json(run.judgements(judging.slug(server.name)) / "judge.json")["requests"] == 12


def test_lexical_judges_every_arm_and_repeats_itself_exactly(make_run, configured) -> None:
    run = make_run(4)
    add_arm(run, "few-shot")
    _, rows = told(configured("lexical", baseline=("few-shot",), aa=True), run)
    score = {(row.id, row.arm): row.overall for row in rows}
    assert len(rows) == 16
    assert all(score[name, "base"] == score[name, AGAIN] for name, _ in score)


def test_a_replay_without_a_further_arm_leaves_it_unscored_and_says_so(
    make_run, configured, tmp_path
) -> None:
    run = make_run(4)
    _, rows = told(configured("lexical"), run)
    write_jsonl(tmp_path / "kept.jsonl", rows)
    said, found = told(configured(f"replay:{tmp_path / 'kept.jsonl'}", aa=True), run)
    assert "not one base answer could be scored a second time (--aa)" in said
    assert [row.unscored_reason for row in found if row.arm == AGAIN] == [
        "not in the replay file"
    ] * 4
    assert [row.overall for row in found if row.arm != AGAIN] == [row.overall for row in rows]


@pytest.mark.parametrize("arms", [("few-shot",), ("few-shot", "prompt:p.txt")])
def test_an_arm_that_answered_other_questions_is_refused(make_run, configured, arms) -> None:
    from gemma_lora.errors import DataError

    run = make_run(4)
    for slug in ("few-shot", "prompt-p"):
        add_arm(run, slug)
    short = read_jsonl(run.answers("few-shot"), Answer)[:-1]
    write_jsonl(run.answers("few-shot"), short)
    with pytest.raises(DataError, match="1 questions are answered by some arms only"):
        judging.judge(configured("lexical", baseline=arms), run, Console(quiet=True))


def test_only_canaries_are_announced_as_canaries(server: JudgeServer, make_run, configured) -> None:
    for canaries, said in ((0, False), (2, True)):
        stream = io.StringIO()
        config = configured(server.name, aa=True, canaries=canaries)
        judging.judge(config, make_run(3, folder=f"run-{canaries}"), Console(stream=stream))
        assert ("4 of them for canaries" in stream.getvalue()) == said
        assert ("for canaries" in stream.getvalue()) == said
