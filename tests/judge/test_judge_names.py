"""Names, addresses, folder names and the rule for keys."""

from __future__ import annotations

import re

import pytest

from gemma_lora import judge as judging
from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, JudgeError
from gemma_lora.judge.names import key_for, resolve

NAMES = [
    "lexical",
    "openai:gpt-5",
    "openai:gpt/5",
    "ollama:llama3.3",
    "ollama:hf.co/a/b:Q4",
    "http://localhost:8000/v1#m",
    "http://localhost:8001/v1#m",
    "https://judge.example.org/api/v1#org/model",
    "http://[::1]:8000/v1#m",
    "anthropic:claude-x",
    "anthropic+http://localhost:8000/v1#m",
    "hf:google/gemma-3-27b-it",
    "hf:google/gemma-3-27b-it@main",
    "replay:some/judgements.jsonl",
    "replay:other/judgements.jsonl",
]


def test_every_form_resolves_and_gets_a_folder_of_its_own() -> None:
    slugs = [judging.slug(name) for name in NAMES]
    assert len(set(slugs)) == len(NAMES)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}", slug) for slug in slugs)
    assert slugs[:2] == ["lexical", "openai-gpt-5"]


@pytest.mark.parametrize(
    "name", ["", "gpt-5", "openai", "openai:", "lexical:x", "ftp://x/v1#m", "mock:x", "replay:"]
)
def test_an_unknown_name_lists_the_forms(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(name)
    assert "openai:MODEL" in str(caught.value)
    assert "hf:MODEL" in str(caught.value)
    assert caught.value.exit_code == 2


def test_anthropic_has_its_own_api_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-x")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://thief.example")
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", "own")
    target = resolve("anthropic:claude-x")
    assert (target.address, target.protocol) == ("https://api.anthropic.com/v1", "messages")
    assert key_for(target) == "sk-ant-x"
    assert judging.where_data_goes(JudgeConfig(judge="anthropic:claude-x")) is not None
    gateway = resolve("anthropic+http://localhost:81/v1#claude-x")
    assert (gateway.address, gateway.protocol) == ("http://localhost:81/v1", "messages")
    assert key_for(gateway) == "own", "Anthropic's key goes to Anthropic only"
    assert key_for(resolve("anthropic+https://api.anthropic.com/v1#m")) == "sk-ant-x"
    assert key_for(resolve("anthropic+https://api.anthropic.com.thief.example/v1#m")) == "own"
    assert key_for(resolve("ollama:m")) is None


@pytest.mark.parametrize(
    "name",
    [
        "http://localhost:8000/v1",
        "http:///v1#m",
        "http://h:99999/v1#m",
        "http://user:s3cret@host/v1#m",
        "https://host/v1?key=s3cret#m",
        "http://api.openai.com/v1#gpt-5",
        "https://api.openai.com:8443/v1#gpt-5",
        "http://api.anthropic.com/v1#claude-x",
        "anthropic+http://api.anthropic.com/v1#claude-x",
        "anthropic+http://user:s3cret@host/v1#m",
    ],
)
def test_bad_addresses_are_refused_and_secrets_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(name)
    assert "s3cret" not in str(caught.value)


def test_ollama_host_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("ollama:m").address == "http://127.0.0.1:11434/v1"
    for value, address in [
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("box:1234", "http://box:1234/v1"),
        ("https://box.example/", "https://box.example:443/v1"),
    ]:
        monkeypatch.setenv("OLLAMA_HOST", value)
        assert resolve("ollama:m").address == address
    assert judging.where_data_goes(JudgeConfig(judge="ollama:m")) is not None


def test_each_key_belongs_to_its_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", "own")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://thief.example/v1")
    openai = resolve("openai:gpt-5")
    assert (openai.address, key_for(openai)) == ("https://api.openai.com/v1", "sk-openai")
    assert key_for(resolve("https://API.openai.com/v1#gpt-5")) == "sk-openai"
    for name in ("https://api.openai.com.thief.example/v1#m", "http://localhost:1/v1#m"):
        assert key_for(resolve(name)) == "own"
    for name in ("ollama:m", "hf:m", "lexical"):
        assert key_for(resolve(name)) is None


@pytest.mark.parametrize("host", ["http://api.openai.com:80", "https://api.anthropic.com"])
def test_ollama_gets_no_key_wherever_its_variable_points(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMMA_LORA_JUDGE_KEY"):
        monkeypatch.setenv(name, "sk-secret")
    monkeypatch.setenv("OLLAMA_HOST", host)
    target = resolve("ollama:llama3.3")
    assert target.key_variable is None
    assert key_for(target) is None


def test_a_missing_or_broken_key_stops_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(JudgeError, match="OPENAI_API_KEY is not set") as caught:
        judging.probe(JudgeConfig(judge="openai:gpt-5"), Console(quiet=True))
    assert caught.value.exit_code == 4
    monkeypatch.setenv("OPENAI_API_KEY", "sk-se cret\nX: y")
    with pytest.raises(JudgeError) as caught:
        judging.probe(JudgeConfig(judge="openai:gpt-5"), Console(quiet=True))
    assert "cret" not in str(caught.value)


def test_where_data_goes_names_only_servers_elsewhere() -> None:
    def told(name: str) -> str | None:
        return judging.where_data_goes(JudgeConfig(judge=name))

    assert "api.openai.com" in (told("openai:gpt-5") or "")
    assert "judge.example.org:81" in (told("https://judge.example.org:81/v1#m") or "")
    assert "192.168.1.5" in (told("http://192.168.1.5:8000/v1#m") or "")
    local = (
        "lexical",
        "hf:a/b",
        "replay:f",
        "ollama:m",
        "http://localhost:1/v1#m",
        "http://127.0.0.9/v1#m",
    )
    for name in (*local, "http://[::1]:8/v1#m"):
        assert told(name) is None
    line = judging.where_data_goes(JudgeConfig(judge="openai:gpt-5"), rows=62)
    assert line == (
        "questions, reference answers and both answers of 62 test rows go to api.openai.com (judge openai:gpt-5)"
    )
