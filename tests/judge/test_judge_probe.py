"""The probe: one small real request before hours are spent, and the cause where it fails."""

from __future__ import annotations

import io

import pytest
from support.judge_server import Act, JudgeServer

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError


def probe(configured, name: str, **settings) -> str:
    stream = io.StringIO()
    judging.probe(configured(name, **settings).judge, Console(stream=stream), backoff=0.01)
    return stream.getvalue()


def test_a_good_judge_is_told_by_its_own_name(server: JudgeServer, configured) -> None:
    text = probe(configured, server.name)
    assert "stub-judge-2026-11-01; json_schema; 100 + 20 tokens" in text
    assert len(server.chats) == 1
    probe(configured, server.name)
    assert len(server.chats) == 2, "a cached reply would prove nothing"


def test_offline_judges_need_none(configured, tmp_path) -> None:
    assert probe(configured, "lexical") == ""
    with pytest.raises(JudgeError, match="no such replay file"):
        probe(configured, f"replay:{tmp_path / 'absent.jsonl'}")


def test_unreachable(configured) -> None:
    with JudgeServer() as gone:
        pass
    with pytest.raises(JudgeError, match="does not answer: connection failed") as caught:
        probe(configured, gone.name, judge_retries=1)
    assert "start the server" in str(caught.value)
    assert caught.value.exit_code == 4


def test_an_unknown_model_lists_what_there_is(server: JudgeServer, configured) -> None:
    server.plan = lambda seen: Act(status=404, body={"error": {"message": "model not found"}})
    server.models = ["llama3.3", "stub-judge-2", *(f"m{i}" for i in range(20))]
    with pytest.raises(JudgeError, match="does not know the model 'stub-judge'") as caught:
        probe(configured, server.name)
    assert "expected: stub-judge-2, " in str(caught.value)
    assert "and 14 more" in str(caught.value)


def test_a_wrong_path_is_told_apart(server: JudgeServer, configured) -> None:
    server.plan = lambda seen: Act(status=404)
    server.models = []
    with pytest.raises(JudgeError, match="no such address or model"):
        probe(configured, server.name)


@pytest.mark.parametrize(
    ("act", "remedy"),
    [
        (Act(status=500), "wait a while, or lower --judge-concurrency"),
        (Act(status=429), "wait a while, or lower --judge-concurrency"),
        (Act(delay=2.0), "raise --judge-timeout"),
        (Act(body="<html>", headers={"content-type": "text/html"}), "OpenAI-compatible endpoint"),
        (Act(body="no JSON"), "OpenAI-compatible endpoint"),
        (Act(body={"ok": True}), "OpenAI-compatible endpoint"),
        (Act(status=400), "that it serves this model"),
        (Act(content="{}"), "choose a judge that follows instructions"),
    ],
)
def test_each_fault_has_its_own_remedy(
    act: Act, remedy: str, server: JudgeServer, configured
) -> None:
    server.plan = lambda seen: act
    with pytest.raises(JudgeError) as caught:
        probe(configured, server.name, judge_retries=0, judge_timeout=1.0)
    assert remedy in (caught.value.remedy or "")
    assert "start the server" not in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (
            Act(content="Four is right. 10/10!"),
            "no usable judgement: unusable reply: the reply holds no JSON",
        ),
        (Act(content="{}"), "no JSON object with scores"),
        (
            Act(body="<html>login</html>", headers={"content-type": "text/html"}),
            "content type text/html",
        ),
        (Act(status=400), "rejects the request"),
        (Act(status=500), "HTTP 500"),
    ],
)
def test_bad_replies(act: Act, why: str, server: JudgeServer, configured) -> None:
    server.plan = lambda seen: act
    with pytest.raises(JudgeError, match=why):
        probe(configured, server.name, judge_retries=1)
