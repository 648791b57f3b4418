"""The key goes to its own server and nowhere else: no header, no redirect, no log, no file, no error."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from support.judge_server import Act, JudgeServer, Seen, completion, right_scores, verdict_text

from gemma_lora import judge as judging
from gemma_lora.cli import main
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, EnvironmentFault, JudgeError
from gemma_lora.loading import dump
from gemma_lora.records import Judgement
from gemma_lora.rundir import read_json, read_jsonl

KEY = "own-key-4711-abcdef"
OPENAI = "sk-openai-0815-abcdef"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", OPENAI)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-abcdef")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Extra: secret-extra\nAuthorization: Bearer stolen-one"
    )


def everything(folder: Path) -> str:
    return "\n".join(p.read_text(errors="replace") for p in folder.rglob("*") if p.is_file())


def test_only_the_named_servers_own_key_is_sent(
    server: JudgeServer, make_run, configured, tmp_path, caplog
) -> None:
    caplog.set_level(logging.DEBUG)
    stream = io.StringIO()
    judging.probe(configured(server.name).judge, Console(stream=stream))
    judging.judge(configured(server.name), make_run(3), Console(stream=stream), backoff=0.01)
    for seen in server.seen:
        assert {k.lower(): v for k, v in seen.headers.items()}["authorization"] == f"Bearer {KEY}"
        text = str(seen.headers) + str(seen.body)
        for secret in (OPENAI, "admin", "org-secret", "proj-secret", "secret-extra", "stolen"):
            assert secret not in text
    for text in (everything(tmp_path), stream.getvalue(), caplog.text):
        assert KEY not in text
        assert OPENAI not in text


def test_ollama_and_keyless_servers_get_none(
    server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port}")
    judging.judge(configured("ollama:stub-judge"), make_run(2), Console(quiet=True))
    monkeypatch.delenv("GEMMA_LORA_JUDGE_KEY")
    judging.judge(configured(server.name), make_run(2, folder="b"), Console(quiet=True))
    assert len(server.chats) == 8
    assert not [
        seen for seen in server.seen if "authorization" in {k.lower() for k in seen.headers}
    ]


def test_the_base_url_variable_diverts_nothing(
    server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    """OpenAI's host cannot be reached from here; what matters is that the other server hears nothing."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing may really leave this machine
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(JudgeError, match="does not answer"):
        judging.probe(
            configured("openai:stub-judge", judge_retries=0).judge,
            Console(quiet=True),
            backoff=0.01,
        )
    assert not server.seen


def test_a_redirect_is_not_followed(make_run, configured) -> None:
    with JudgeServer() as thief, JudgeServer() as server:
        server.plan = lambda seen: Act(
            status=307, headers={"location": f"{thief.url}/chat/completions"}
        )
        with pytest.raises(JudgeError, match="redirects to") as caught:
            judging.judge(configured(server.name), make_run(2), Console(quiet=True), backoff=0.01)
        assert not thief.seen
        assert len(server.seen) == 1
        assert f"127.0.0.1:{thief.port}" in str(caught.value)


def test_a_proxy_is_not_asked_for_this_machine(
    server: JudgeServer, make_run, configured, monkeypatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    judging.judge(configured(server.name), make_run(2), Console(quiet=True), backoff=0.01)
    assert len(server.chats) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 418, 500])
def test_a_server_that_echoes_the_key_does_not_get_it_shown(
    status: int, server: JudgeServer, make_run, configured, tmp_path
) -> None:
    said = f"Incorrect API key provided: {KEY}, or Bearer {KEY} or sk-ab***xyz\x1b[2J"
    server.plan = lambda seen: (
        Act(status=status, body={"error": {"message": said}})
        if seen.answer != "b answer 0"
        else None
    )
    stream = io.StringIO()
    shown = ""
    try:
        judging.judge(
            configured(server.name, judge_retries=0),
            make_run(3),
            Console(stream=stream),
            backoff=0.01,
        )
    except JudgeError as error:
        shown = f"{error} {error.as_json()}"
    for text in (shown, stream.getvalue(), everything(tmp_path)):
        for secret in (KEY, "sk-ab", "\x1b"):
            assert secret not in text


ECHOES = [KEY, "sk-gateway-4711-abcdef", "local", "accurate", 'odd"key\\4711']
"""Keys: plain, like OpenAI's, short, a word of the reasoning, and one that JSON must escape."""


@pytest.mark.parametrize("key", ECHOES)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_gateway_that_repeats_the_key_in_valid_replies_gets_it_into_no_file(
    key: str, escaped: bool, make_run, configured, tmp_path, monkeypatch
) -> None:
    """In the reasoning, the model's name and the fingerprint; nothing else of them changes, and no score."""
    monkeypatch.setenv("GEMMA_LORA_JUDGE_KEY", key)
    reasoning = f"Bearer {key} asks; localized, it is {key}, so fine\n\ttold 'by {key}'."

    def plan(seen: Seen) -> Act:
        text = verdict_text(right_scores(seen.answer), reasoning)
        if escaped:  # as JSON may write any character
            spelled = "".join(f"\\u{ord(char):04x}" for char in key)
            text = text.replace(json.dumps(key)[1:-1], spelled)
        body = completion(f"judge-{key}", text)
        body["model"] = f"judge {key} " + "x" * 180 + key
        body["system_fingerprint"] = f"fp {key}"
        return Act(body=body)

    stream = io.StringIO()
    with JudgeServer() as server:
        server.plan = plan
        config = configured(server.name)
        judging.probe(config.judge, Console(stream=stream))
        folder = judging.judge(config, make_run(3), Console(stream=stream), backoff=0.01)
        asked = len(server.chats)
        again = judging.judge(config, make_run(3, folder="again"), Console(stream=stream))
        assert len(server.chats) == asked, "the cache knows the judge by the name without the key"
    if key in ECHOES[:2]:  # the others are words of the rubric, or of paths
        assert key not in stream.getvalue() + everything(tmp_path)
    for place in (folder, again):
        rows = read_jsonl(place / "judgements.jsonl", Judgement)
        assert {row.reasoning for row in rows} == {
            "Bearer [key] asks; localized, it is [key], so fine\n\ttold 'by [key]'."
        }
        assert_right_scores(rows)
        assert read_json(place / "judge.json")["system_fingerprints"] == ["fp [key]"]
        assert read_json(place / "judge.json")["snapshot"].startswith("judge [key] xxx")


def assert_right_scores(rows: list[Judgement]) -> None:
    for row in rows:
        right = right_scores(f"{row.arm[0]} answer {int(row.id[1:])}")
        assert {**row.scores, "overall": row.overall} == right


def test_what_a_server_lists_or_breaks_off_with_shows_no_key(
    server: JudgeServer, configured
) -> None:
    server.plan = lambda seen: Act(status=404)
    server.models = [f"m-{KEY}", f"n-{'x' * 290}{KEY}"]
    with pytest.raises(JudgeError, match="does not know the model") as caught:
        judging.probe(configured(server.name).judge, Console(quiet=True))
    assert KEY[:8] not in f"{caught.value} {caught.value.as_json()}"
    assert "m-[key]" in (caught.value.expected or "")
    server.plan = lambda seen: Act(headers={f"bad header {KEY}": "1"})
    with pytest.raises(JudgeError, match="connection failed") as caught:
        judging.probe(configured(server.name, judge_retries=0).judge, Console(quiet=True))
    assert KEY[:8] not in f"{caught.value} {caught.value.as_json()}"


def test_a_refused_key_is_named_by_its_variable(server: JudgeServer, configured) -> None:
    server.plan = lambda seen: Act(status=401)
    with pytest.raises(JudgeError, match="refuses access") as caught:
        judging.probe(configured(server.name).judge, Console(quiet=True), backoff=0.01)
    assert "GEMMA_LORA_JUDGE_KEY was sent" in str(caught.value)


REMOTE = "http://192.0.2.1:8000/v1#m"
"""A server that nobody has (RFC 5737)."""


@pytest.mark.parametrize(
    ("name", "more", "variables", "code"),
    [
        (REMOTE, [], {}, 4),
        (REMOTE, ["--repeats", "2"], {"GEMMA_LORA_JUDGE_KEY_HOST": "192.0.2.1"}, 4),
        ("http://192.0.2.1/v1#m", [], {"GEMMA_LORA_JUDGE_KEY_HOST": "192.0.2.1"}, 4),
        ("anthropic+https://gateway.example/v1#m", [], {}, 4),
        # what stops these is that the folder holds no training
        (REMOTE, ["--judge", REMOTE], {}, 2),
        (REMOTE, [], {"GEMMA_LORA_JUDGE_KEY_HOST": "other, 192.0.2.1:8000"}, 2),
        ("https://gateway.example/v1#m", [], {"GEMMA_LORA_JUDGE_KEY_HOST": "Gateway.example"}, 2),
        (REMOTE, [], {"GEMMA_LORA_JUDGE_KEY": ""}, 2),
        ("http://127.0.0.1:9/v1#m", [], {}, 2),
        ("lexical", [], {}, 2),
    ],
)
def test_a_server_that_only_the_run_folder_names_gets_no_key(
    name: str, more: list[str], variables: dict[str, str], code: int, tmp_path, capsys, monkeypatch
) -> None:
    """The folder may be somebody else's, and its server theirs."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.yaml").write_text(dump(Config(judge=JudgeConfig(judge=name))))
    assert main(["judge", str(tmp_path / "theirs"), *more]) == code
    said = capsys.readouterr().err
    assert KEY not in said
    assert ("the run folder names this server, not you" in said) == (code == 4)
    assert (f"--judge '{name}'" in said) == (code == 4)


ADDRESSES = [
    "http://user:s3cret@h/v1#m",
    "http:/user:s3cret@h/v1#m",
    "http:user:s3cret@h/v1#m",
    "https:///user:s3cret@h/v1#m",
    "http:\\\\user:s3cret@h/v1#m",
    "HTTP://s3cret@h#m",
    "http://[user:s3cret@h/v1#m",
    "htp://user:s3cret@h/v1#m",
    "anthropic+http:/user:s3cret@h/v1#m",
    "https://h/v1?key=s3cret#m",
]


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_secret_in_an_address_is_refused_before_anything_is_written(
    name: str, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("question,answer\na,b\n")
    assert main(["run", "q.csv", "--judge", name, "--out", "new", "--json"]) == 2
    (tmp_path / "c.yaml").write_text("judge: {judge: '" + name + "'}\n")
    assert main(["run", "q.csv", "--config", "c.yaml", "--out", "new"]) == 2
    with pytest.raises(ValueError, match="GEMMA_LORA_JUDGE_KEY") as caught:
        JudgeConfig(judge=name)
    with pytest.raises(ConfigError) as resolved:
        judging.resolve(name)
    out, err = capsys.readouterr()
    assert "s3cret" not in f"{out} {err} {caught.value} {resolved.value}"
    assert "--judge: the judge's address holds a user name, a password or a query" in err
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", "c.yaml"}


@pytest.mark.parametrize(
    "name", ["http://h/v1#m@main", "hf:google/gemma-3-27b-it@main", "https://h/p/@x/v1#m?"]
)
def test_an_at_sign_elsewhere_is_no_secret(name: str) -> None:
    assert JudgeConfig(judge=name).judge == name
    assert judging.resolve(name).name == name


STEERING = "\x1b]0;pwned\x07\x1b[2J\x9b2J\u202e"


def test_no_text_of_a_server_steers_the_terminal(server: JudgeServer) -> None:
    settings = JudgeConfig(judge=server.name, judge_retries=0)
    stream = io.StringIO()
    body = completion(f"m{STEERING}", verdict_text(right_scores("It is 4.")))
    server.plan = lambda seen: Act(body=body)
    judging.probe(settings, Console(stream=stream))
    assert "it calls itself m\\x1b]0;pwned" in stream.getvalue()
    faults: list[JudgeError] = []
    server.models = [f"m{STEERING}"]
    for act in (
        Act(status=404),
        Act(status=302, headers={"location": "http://h\x1b]0;pwned\x07/"}),
        Act(status=302, headers={"location": "http://h[\x1b[2J/"}),
    ):
        server.plan = lambda seen, act=act: act
        with pytest.raises(JudgeError) as caught:
            judging.probe(settings, Console(stream=stream))
        faults.append(caught.value)
        Console(stream=stream).note(str(caught.value))
    assert [fault.found.startswith("the judge's server redirects") for fault in faults] == [
        False,
        True,
        True,
    ]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", stream.getvalue())


def test_the_command_line_prints_no_control_character(tmp_path, capsys) -> None:
    assert main(["judge", str(tmp_path / STEERING), "--json"]) == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "pwned" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://user:s3cret@127.0.0.1:9"),
        ("HTTPS_PROXY", "ftp://user:s3cret@127.0.0.1:9"),
        ("HTTPS_PROXY", "http://user:s3cret@proxy:8o80"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ],
)
def test_surroundings_that_allow_no_connection_are_an_expected_fault(
    variable: str, value: str, monkeypatch
) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(EnvironmentFault) as caught:
        judging.probe(JudgeConfig(judge="openai:m", judge_retries=0), Console(quiet=True))
    fault = caught.value
    assert fault.where == variable
    assert fault.expected
    assert fault.remedy
    assert "s3cret" not in str(fault)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b" " * (9 << 20), {}, "the body is longer than 8 MiB"),
        (
            gzip.compress(b"\0" * 200_000_000, 1),
            {"content-encoding": "gzip"},
            "the body is gzip, which was not asked for",
        ),
    ],
    ids=["long", "bomb"],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_body_without_end_is_read_up_to_a_limit(
    server: JudgeServer, make_run, configured, body: bytes, headers: dict, said: str, status: int
) -> None:
    """A plain long body, and a gzip bomb, sent although nothing encoded was asked for."""
    server.plan = lambda seen: Act(status=status, body=body, headers=headers)
    tracemalloc.start()
    with pytest.raises(JudgeError, match=said if status == 200 else "HTTP 400"):
        judging.judge(
            configured(server.name, judge_concurrency=1), make_run(1), Console(quiet=True)
        )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 150_000_000
    assert {s.headers.get("accept-encoding") for s in server.chats} == {"identity"}


def test_the_list_of_models_is_waited_for_no_longer_than_a_judgement(
    server: JudgeServer,
) -> None:
    server.plan = lambda seen: Act(status=404)
    server.models = ["m" * 200]
    server.drip_models = 0.2
    began = time.monotonic()
    with pytest.raises(JudgeError, match="knows no such address or model"):
        judging.probe(JudgeConfig(judge=server.name, judge_timeout=1.0), Console(quiet=True))
    assert time.monotonic() - began < 8
