"""Anthropic's messages API: the ladder, faults, limits and the key, against a server that speaks it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.judge_server import Act, Seen, right_scores, verdict_text
from support.messages_server import MessagesServer

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import SCHEMA
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.rundir import RunDir, read_json, read_jsonl

KEY, ANTHROPIC = "own-key-4711-abcdef", "sk-ant-0815-abcdef"


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with MessagesServer("claude-test") as running:
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", ANTHROPIC)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-secret")


def judged(run: RunDir, config, console: Console | None = None) -> tuple[list[Judgement], dict]:
    folder = judging.judge(config, run, console or Console(quiet=True), backoff=0.01)
    return read_jsonl(folder / "judgements.jsonl", Judgement), read_json(folder / "judge.json")


def assert_right(rows: list[Judgement]) -> None:
    for row in rows:
        right = right_scores(f"{row.arm[0]} answer {int(row.id[1:])}")
        assert row.overall == right["overall"]
        assert row.scores == {name: right[name] for name in DIMENSIONS}


def test_native_schema_and_what_is_recorded(server, make_run, configured) -> None:
    rows, known = judged(make_run(6), configured(server.name))
    assert len(rows) == len(server.chats) == 12
    assert_right(rows)
    body = server.chats[0].body
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert body["max_tokens"] == 1024
    assert body["temperature"] == 0
    assert body["system"].startswith("You are an examiner")
    assert [turn["role"] for turn in body["messages"]] == ["user"]
    assert (known["snapshot"], known["rung"]) == ("claude-test-20261101", "json_schema")
    assert known["tokens"] == {"input": 1200, "output": 240}, "cached input is input, too"
    assert known["kind"] == "server"


@pytest.mark.parametrize(
    ("refuses", "rung"), [({"output_config"}, "tool"), ({"output_config", "tools"}, "prose")]
)
def test_the_ladder_has_no_json_mode(refuses, rung, server, make_run, configured) -> None:
    def plan(seen: Seen) -> Act | None:
        found = refuses & set(seen.body)
        if not found:
            return None
        said = f"{found.pop()}: Extra inputs are not permitted"
        return Act(status=400, body={"type": "error", "error": {"message": said}})

    server.plan = plan
    rows, known = judged(make_run(5), configured(server.name))
    assert_right(rows)
    assert known["rungs"] == {rung: 10}
    assert len(server.chats) == 10 + len(refuses)
    if rung == "tool":
        assert server.chats[-1].body["tool_choice"] == {"type": "tool", "name": "record_judgement"}


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (Act(content="Good: 8/10."), "no JSON object"),
        (Act(content=verdict_text(dict.fromkeys((*DIMENSIONS, "overall"), 11))), "not an integer"),
        (Act(content=""), "does not call the tool"),  # it was asked again one rung lower
        (Act(content="no", refusal="yes"), "refused"),
        (Act(content="{", finish="length"), "token limit"),
        (Act(body={"type": "message", "content": None}), "no message"),
        (Act(body="<html>", headers={"content-type": "text/html"}), "content type text/html"),
    ],
)
def test_unusable_replies_are_unscored(act, why, server, make_run, configured) -> None:
    server.plan = lambda seen: act if seen.answer == "t answer 3" else None
    rows, _ = judged(make_run(5), configured(server.name))
    (lost,) = [row for row in rows if row.unscored_reason]
    assert (lost.id, lost.arm) == ("q0003", "tuned")
    assert why in (lost.unscored_reason or "")
    assert_right([row for row in rows if row is not lost])


@pytest.mark.parametrize(
    "act", [Act(status=529), Act(status=429, headers={"retry-after": "0.05"}), Act(reset=True)]
)
def test_passing_faults_are_tried_again(act, server, make_run, configured) -> None:
    server.plan = lambda seen: act if seen.number % 3 == 0 else None
    rows, _ = judged(make_run(6), configured(server.name))
    assert_right(rows)


def test_its_limits_are_read(server, make_run, configured) -> None:
    """Three requests left, and the next whole allowance in a second."""
    from datetime import UTC, datetime, timedelta

    def plan(seen: Seen) -> Act:
        left = max(0, 9 - seen.number) if seen.number < 10 else 100
        moment = datetime.now(UTC) + timedelta(seconds=1)
        names = {"limit": "100", "remaining": str(left), "reset": moment.isoformat()}
        return Act(headers={f"anthropic-ratelimit-requests-{k}": v for k, v in names.items()})

    server.plan = plan
    rows, _ = judged(make_run(10), configured(server.name, judge_concurrency=8))
    assert_right(rows)
    assert server.chats[-1].at - server.chats[0].at > 0.05


def test_no_credit_and_an_unknown_model_end_it(server, configured) -> None:
    said = "Your credit balance is too low to access the Anthropic API."
    server.plan = lambda seen: Act(status=400, body={"error": {"message": said}})
    with pytest.raises(JudgeError, match="no credit left"):
        judging.probe(configured(server.name).judge, Console(quiet=True))
    server.plan = lambda seen: Act(status=404, body={"error": {"message": "model: claude-test"}})
    server.models = ["claude-test-5"]
    with pytest.raises(JudgeError, match="does not know the model") as caught:
        judging.probe(configured(server.name).judge, Console(quiet=True))
    assert "claude-test-5" in str(caught.value)


def test_each_key_goes_to_its_own_host_only(server, make_run, configured, tmp_path: Path) -> None:
    stream = io.StringIO()
    judging.probe(configured(server.name).judge, Console(stream=stream))
    judged(make_run(3), configured(server.name), Console(stream=stream))
    for seen in server.seen:
        headers = {name.lower(): value for name, value in seen.headers.items()}
        assert headers["x-api-key"] == KEY
        assert headers["anthropic-version"] == "2023-06-01"
        assert "authorization" not in headers
        assert not [name for name in headers if name.startswith("x-stainless")]
        for secret in (ANTHROPIC, "token-secret", "sk-openai-secret"):
            assert secret not in str(seen.headers) + str(seen.body)
    files = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    for secret in (KEY, ANTHROPIC):
        assert secret not in files + stream.getvalue()


def test_no_variable_diverts_anthropics_key(server, configured, monkeypatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing may really leave this machine
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    config = configured("anthropic:claude-test", judge_retries=0).judge
    with pytest.raises(JudgeError, match="does not answer"):
        judging.probe(config, Console(quiet=True), backoff=0.01)
    assert not server.seen
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(JudgeError, match="ANTHROPIC_API_KEY is not set"):
        judging.probe(config, Console(quiet=True))
