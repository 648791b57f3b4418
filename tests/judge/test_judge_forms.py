"""The form in which a server wants to be asked: found by the probe, kept for later calls, found out anew."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.judge_server import Act, JudgeServer, Seen
from support.messages_server import MessagesServer

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.records import Judgement
from gemma_lora.rundir import read_json, read_jsonl

KEY = "own-key-4711-abcdef"


def rung(seen: Seen) -> str:
    """How the request demands its form."""
    if "output_config" in seen.body:
        return "json_schema"
    if "tools" in seen.body:
        return "tool"
    return seen.body.get("response_format", {}).get("type", "prose")


def heeds(*rungs: str) -> Callable[[Seen], Act | None]:
    """A server that takes every form, and pays heed to `rungs` only."""
    return lambda seen: None if rung(seen) in rungs else Act(content="It is good: 8 of 10.")


def takes(*rungs: str) -> Callable[[Seen], Act | None]:
    """A server that refuses all forms but `rungs`."""
    return lambda seen: None if rung(seen) in rungs else Act(status=400)


def probed(server: JudgeServer, configured) -> str:
    stream = io.StringIO()
    judging.probe(configured(server.name).judge, Console(stream=stream), backoff=0.01)
    return stream.getvalue()


def judged(server: JudgeServer, run, configured, **settings) -> tuple[list[str], dict, str]:
    """The forms of the requests in order, judge.json and what was said; every answer must be scored."""
    begun, stream = len(server.chats), io.StringIO()
    config = configured(server.name, judge_concurrency=1, **settings)
    folder = judging.judge(config, run, Console(stream=stream), backoff=0.01)
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert not [row.unscored_reason for row in rows if row.unscored_reason]
    forms = [rung(seen) for seen in server.chats[begun:]]
    return forms, read_json(folder / "judge.json"), stream.getvalue()


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], list[dict]]:
    """What is kept of forms, one for each server."""
    folder = tmp_path / "cache" / "judge" / "forms"
    return lambda: [json.loads(file.read_text()) for file in sorted(folder.glob("*"))]


@pytest.mark.parametrize("make", [JudgeServer, MessagesServer])
@pytest.mark.parametrize("works", ["tool", "prose"])
def test_the_probe_goes_down_the_ladder_and_judging_begins_where_it_arrived(
    make: type[JudgeServer], works: str, make_run, configured, kept
) -> None:
    """A server that takes a schema and pays no heed to it never got past the probe before."""
    with make() as server:
        server.plan = heeds(works)
        text = probed(server, configured)
        assert "it calls itself stub-judge-2026" in text
        assert f"; {works}; " in text
        assert [found["rung"] for found in kept()] == [works]
        assert set(kept()[0]) == {"rung", "limit_name", "temperature", "system"}
        forms, facts, said = judged(server, make_run(5), configured)
        assert forms == [works] * 10, "no answer is lost to what is known"
        assert facts["rungs"] == {works: 10}
        assert f"gave usable replies so before; asking for {works}" in said


def test_the_probe_ends_when_the_last_form_has_failed_and_names_them(
    server: JudgeServer, configured, kept
) -> None:
    server.plan = heeds()
    with pytest.raises(JudgeError, match="gave no usable judgement") as caught:
        judging.probe(configured(server.name).judge, Console(quiet=True), backoff=0.01)
    assert "(asked 12 times, by json_schema, tool, json_object, prose)" in str(caught.value)
    assert [rung(seen) for seen in server.chats] == [
        name for name in ("json_schema", "tool", "json_object", "prose") for _ in range(3)
    ]
    assert kept() == [], "nothing has proven itself"


@pytest.mark.parametrize("contents", ["", "prose without sense"])
def test_the_probe_ends_also_where_replies_are_empty(
    contents: str, server: JudgeServer, configured
) -> None:
    server.plan = lambda seen: Act(content="" if rung(seen) != "prose" else contents)
    with pytest.raises(JudgeError, match="gave no usable judgement"):
        judging.probe(configured(server.name).judge, Console(quiet=True), backoff=0.01)
    assert rung(server.chats[-1]) == "prose"
    assert len(server.chats) <= 24


def test_the_probe_gets_past_forms_that_are_empty(server: JudgeServer, configured) -> None:
    server.plan = lambda seen: {
        "json_schema": Act(content=""),
        "tool": Act(content="Good.", ignore_tool=True),
    }.get(rung(seen))
    assert "; json_object; " in probed(server, configured)


def test_every_parameter_that_the_server_does_not_take_is_known_to_the_next_call(
    server: JudgeServer, make_run, configured
) -> None:
    def plan(seen: Seen) -> Act | None:
        for name in ("max_tokens", "temperature"):
            if name in seen.body:
                return Act(status=400, body={"error": {"message": f"no {name} here"}})
        system = seen.body["messages"][0]["role"] == "system"
        return Act(status=400, body={"error": "System role not supported"}) if system else None

    server.plan = plan
    probed(server, configured)
    assert len(server.chats) == 4
    judged(server, make_run(5), configured)
    assert len(server.chats) == 4 + 10, "judging needs no refusal to know them"


@pytest.mark.parametrize("now", [takes("json_schema"), takes("json_object"), takes("prose")])
def test_where_the_server_refuses_what_it_took_before_all_forms_are_tried_again(
    now: Callable[[Seen], Act | None], server: JudgeServer, make_run, configured, kept
) -> None:
    server.plan = takes("tool")
    probed(server, configured)
    server.plan = now
    forms, facts, said = judged(server, make_run(5), configured)
    ladder = ["json_schema", "tool", "json_object", "prose"]
    (found,) = facts["rungs"]
    assert forms == ["tool", *ladder[: ladder.index(found)], *[found] * 10]
    assert "refuses what it took before (tool); trying all forms again" in said
    assert kept()[0]["rung"] == found
    assert kept()[0]["temperature"] is True, "nothing else is given up for it"


def test_where_the_server_pays_no_heed_any_more_it_begins_at_the_top_again(
    server: JudgeServer, make_run, configured, kept
) -> None:
    server.plan = takes("json_object")
    probed(server, configured)
    server.plan = lambda seen: heeds("json_schema")(seen) or takes("json_schema")(seen)
    answers = {arm: [f"{arm} {i}" for i in range(6)] for arm in ("base", "tuned")}
    begun = len(server.chats)
    config = configured(server.name, judge_concurrency=1)
    folder = judging.judge(config, make_run(answers=answers), Console(quiet=True), backoff=0.01)
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert sum(row.unscored_reason is not None for row in rows) == 1
    assert [rung(s) for s in server.chats[begun:]] == ["json_object"] * 3 + ["json_schema"] * 11
    assert kept()[0]["rung"] == "json_schema"


def test_a_server_that_became_better_is_found_so_by_the_next_probe(
    server: JudgeServer, make_run, configured, kept
) -> None:
    server.plan = takes("prose")
    probed(server, configured)
    server.plan = lambda seen: None
    assert "; json_schema; " in probed(server, configured)
    assert kept()[0]["rung"] == "json_schema"
    forms, _, said = judged(server, make_run(3), configured)
    assert forms == ["json_schema"] * 6
    assert "so before" not in said, "the strictest form needs no words"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{torn",
        "[]",
        "null",
        '"tool"',
        '{"rung": "tool"}',
        '{"rung": "yaml", "limit_name": "max_tokens", "temperature": true, "system": true}',
        '{"rung": "tool", "limit_name": "tokens", "temperature": true, "system": true}',
        '{"rung": "tool", "limit_name": "max_tokens", "temperature": 1, "system": true}',
        '{"rung": "tool", "limit_name": ["max_tokens"], "temperature": true, "system": true}',
        '{"rung": ["tool"], "limit_name": "max_tokens", "temperature": true, "system": true}',
        "[" * 100_000,
    ],
    ids=range(12),
)
def test_a_damaged_record_counts_as_none(
    damage: str, server: JudgeServer, make_run, configured, tmp_path: Path, kept
) -> None:
    server.plan = takes("tool")
    probed(server, configured)
    (file,) = (tmp_path / "cache" / "judge" / "forms").glob("*.json")
    file.write_text(damage)
    forms, _, _ = judged(server, make_run(2), configured)
    assert forms == ["json_schema", *["tool"] * 4]
    assert kept()[0]["rung"] == "tool", "and is written anew"
    assert not list((tmp_path / "cache").rglob(".new-*"))


def test_each_server_and_model_has_its_own(
    server: JudgeServer, make_run, configured, monkeypatch, tmp_path: Path, kept
) -> None:
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", KEY)
    server.plan = takes("tool")
    probed(server, configured)
    begun = len(server.chats)
    config = configured(f"{server.url}#another-model", judge_concurrency=1)
    judging.judge(config, make_run(2), Console(quiet=True))
    assert rung(server.chats[begun]) == "json_schema", "nothing is known of the other model"
    assert len(kept()) == 2
    for file in (tmp_path / "cache").rglob("*"):
        assert not file.is_file() or KEY not in file.read_text()


def test_answers_that_were_asked_about_in_a_form_that_was_then_left_are_asked_again(
    server: JudgeServer, make_run, configured
) -> None:
    """Two are asked about a second time when the third unusable reply comes; each gets its turn in the next form."""

    def plan(seen: Seen) -> Act | None:
        if rung(seen) == "tool":
            return None
        until = time.monotonic() + 20
        while len(server.chats) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        # two come back and are asked again; meanwhile the third is one too many
        return Act(content="8 of 10", delay={0: 0.0, 1: 0.0, 2: 0.5}.get(seen.number, 1.5))

    server.plan = plan
    config = configured(server.name, judge_concurrency=3)
    folder = judging.judge(config, make_run(12), Console(quiet=True), backoff=0.01)
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert len(rows) == 24
    assert [row.unscored_reason for row in rows if row.unscored_reason] == []


def test_one_answer_that_is_never_usable_does_not_bring_the_form_down(
    server: JudgeServer, make_run, configured
) -> None:
    """Only the probe asks on and on: its answer is ours, and harmless."""
    seen_first: list[str] = []

    def plan(seen: Seen) -> Act | None:
        seen_first.append(seen.answer)
        return Act(content="no") if seen.answer == seen_first[0] else None

    server.plan = plan
    config = configured(server.name, judge_concurrency=1)
    folder = judging.judge(config, make_run(4), Console(quiet=True), backoff=0.01)
    facts = read_json(folder / "judge.json")
    assert facts["rungs"] == {"json_schema": 7}
    assert sum(facts["unscored"].values()) == 1
    assert seen_first.count(seen_first[0]) == 2
