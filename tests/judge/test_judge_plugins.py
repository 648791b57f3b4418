"""Judges of other packages: real distributions with entry points, loaded only where they are named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.plugins import install

from gemma_lora import judge as judging
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, GemmaLoraError, JudgeError
from gemma_lora.records import Judgement
from gemma_lora.rundir import read_json, read_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())
GOOD = """
import json, pathlib
from gemma_lora.judge.plugins import Replied

pathlib.Path(__file__).with_name("loaded").touch()

class Backend:
    concurrency = 3

    def __init__(self, model):
        self.model = model
        self.closed = False

    async def ask(self, *, system, user, schema, max_tokens):
        names = [n for n in schema["required"] if n != "reasoning"]
        long = len(user.split("<<<ANSWER UNDER EXAMINATION")[1]) % 10
        text = json.dumps({"reasoning": self.model, **dict.fromkeys(names, 1 + long)})
        return Replied(text, input_tokens=50, output_tokens=7, model=self.model + "-1")

    async def close(self):
        pathlib.Path(__file__).with_name("closed").touch()
"""


def test_a_package_judges_in_a_process_of_its_own(tmp_path: Path, make_run: Any) -> None:
    site = install(tmp_path / "site", GOOD)
    run = make_run(3)
    program = f"""
import io, sys
from gemma_lora import judge
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
from pathlib import Path
config = Config(judge=JudgeConfig(judge="acme:big", canaries=0))
judge.fingerprint(config.judge), judge.slug("acme:big")
assert "acme_judge" not in sys.modules, "looking at it runs nothing of it"
print(judge.where_data_goes(config.judge))
judge.probe(config.judge, Console())
print(judge.judge(config, RunDir(Path({str(run.root)!r})), Console()))
"""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "go to the plug-in `acme`, which may send them anywhere" in done.stdout
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert folder.name == "acme-big"
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert len(rows) == 6
    assert all(row.unscored_reason is None and row.reasoning == "big" for row in rows)
    facts = read_json(folder / "judge.json")
    assert (facts["kind"], facts["snapshot"], facts["is_llm"]) == ("plugin", "big-1", True)
    assert [facts[key] for key in ("plugin", "package", "version")] == ["acme", "acme-judge", "1.2"]
    assert facts["tokens"] == {"input": 300, "output": 42}
    assert facts["rungs"] == {"plug-in": 6}
    assert (site / "closed").exists()


def test_it_is_imported_only_where_it_is_named(
    tmp_path: Path, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install(tmp_path / "site", GOOD, name="other", package="never-named")
    monkeypatch.syspath_prepend(str(site))
    judging.judge(Config(), make_run(2), QUIET)
    assert not (site / "loaded").exists()


def refusal(judge: str) -> GemmaLoraError:
    with pytest.raises(GemmaLoraError) as caught:
        judging.probe(JudgeConfig(judge=judge), QUIET)
    return caught.value


@pytest.mark.parametrize("name", ["openai", "lexical", "hf", "http"])
def test_the_name_of_a_built_in_judge_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path, GOOD, name=name, package="evil-twin")))
    error = refusal(
        {"lexical": "lexical", "http": "http://localhost:1/v1#m"}.get(name, f"{name}:m")
    )
    assert isinstance(error, ConfigError)
    assert "evil-twin" in str(error)
    assert not (tmp_path / "loaded").exists()


def test_a_name_that_two_packages_offer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("first-one", "second-one"):
        install(tmp_path, GOOD, name="twice", package=package)
    monkeypatch.syspath_prepend(str(tmp_path))
    error = refusal("twice:m")
    assert "2 packages" in str(error)
    assert "first-one" in str(error)


@pytest.mark.parametrize(
    ("code", "why", "secret"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError", None),
        ("raise RuntimeError('broken at import')", "broken at import", None),
        ("x = 1", "AttributeError", None),
        ("def Backend(model):\n    raise ValueError('sk-key-1')", "raised ValueError", "sk-key-1"),
        ("def Backend(model):\n    return 5", "made a int, which has no `ask`", None),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_line(
    code: str, why: str, secret: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken-{abs(hash(code))}"
    monkeypatch.syspath_prepend(str(install(tmp_path, code, name="broken", package=name)))
    error = refusal("broken:m")
    assert isinstance(error, JudgeError)
    assert why in str(error)
    assert secret is None or secret not in str(error)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ValueError('sk-key-2')", "raised ValueError"),
        ("return 7", "returned int, not text"),
        (
            "from gemma_lora.judge.plugins import Replied; return Replied('x', input_tokens=None)",
            "returned NoneType as input_tokens",
        ),
        ("import asyncio; raise asyncio.CancelledError('sk-key-2')", "raised CancelledError"),
        ("return 'no json'", "no JSON object"),
        ("import asyncio; await asyncio.sleep(9)", "no answer within 0.2 s"),
        (
            "from gemma_lora.errors import JudgeError; raise JudgeError('the key is wrong')",
            "the key is wrong",
        ),
    ],
)
def test_what_it_does_wrong_is_no_score(
    body: str, why: str, tmp_path: Path, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "class Backend:\n    def __init__(self, model): pass\n"
        f"    async def ask(self, **_):\n        {body}\n"
    )
    package = f"odd-{abs(hash(body))}"
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", code, name="odd", package=package)))
    config = Config(judge=JudgeConfig(judge="odd:m", judge_timeout=0.2))
    run = make_run(1)
    with pytest.raises(JudgeError) as caught:
        judging.judge(config, run, QUIET)
    assert why in str(caught.value)
    assert "sk-key-2" not in str(caught.value)
    file = run.judgements("odd-m") / "judgements.jsonl"
    rows = read_jsonl(file, Judgement)
    assert all(row.overall is None for row in rows)
    assert json.dumps([row.model_dump() for row in rows]).count("sk-key") == 0


BUSY = """
import json
from gemma_lora.judge.plugins import Replied

class Backend:
    concurrency = 4
    def __init__(self, model): self.model = model
    def ask(self, *, system, user, schema, max_tokens):
        if self.model == "plain":
            raise RuntimeError("401 bad key sk-key-3")
        return self._ask(schema)
    async def _ask(self, schema):
        names = [n for n in schema["required"] if n != "reasoning"]
        text = json.dumps({"reasoning": "r", **dict.fromkeys(names, 5)})
        return text if self.model == "silent" else Replied(text, 1000, 100)
    async def close(self):
        raise RuntimeError("closing with sk-key-3")
"""


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(
        str(install(tmp_path / "site", BUSY, name="busy", package="busy-judge"))
    )


@pytest.mark.usefixtures("busy")
def test_a_plain_function_that_raises_tells_its_class_only(make_run: Any) -> None:
    stream = io.StringIO()
    with pytest.raises(JudgeError, match="raised RuntimeError") as caught:
        judging.probe(JudgeConfig(judge="busy:plain"), Console(stream=stream))
    assert "sk-key-3" not in str(caught.value) + stream.getvalue()


@pytest.mark.usefixtures("busy")
def test_a_close_that_raises_costs_no_judgement(make_run: Any) -> None:
    console = Console(quiet=True, stream=io.StringIO())
    run = make_run(3)
    folder = judging.judge(Config(judge=JudgeConfig(judge="busy:m", canaries=0)), run, console)
    assert console.warnings == ["the plug-in `busy` raised RuntimeError when it was closed"]
    assert read_json(folder / "judge.json")["scored"] == 6


@pytest.mark.usefixtures("busy")
def test_it_is_asked_as_often_as_is_wished_since_it_may_vary(make_run: Any) -> None:
    run, stream = make_run(2), io.StringIO()
    settings = JudgeConfig(judge="busy:m", canaries=0, repeats=3)
    folder = judging.judge(Config(judge=settings), run, Console(stream=stream))
    assert "same score each time" not in stream.getvalue()
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert sorted({row.repeat for row in rows}) == [0, 1, 2]
    assert len(rows) == 12


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("model", ["m", "silent"])
def test_max_cost_holds_for_a_plug_in(model: str, make_run: Any) -> None:
    """`silent` does not say what it takes, so each reply counts at its most."""
    prices = {"price_input": 10.0, "price_output": 10.0}
    most = 0.3
    config = Config(judge=JudgeConfig(judge=f"busy:{model}", canaries=0, max_cost=most, **prices))
    run = make_run(20)
    with pytest.raises(JudgeError, match=r"--max-cost \$0.3 is reached"):
        judging.judge(config, run, Console(quiet=True, stream=io.StringIO()))
    folder = run.judgements(judging.slug(f"busy:{model}"))
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert 0 < len(rows) < 40
    assert model == "silent" or len(rows) * 1100 * 10 / 1e6 <= most
    with pytest.raises(JudgeError, match="is reached"):
        judging.judge(config, run, Console(quiet=True, stream=io.StringIO()))
    assert len(read_jsonl(folder / "judgements.jsonl", Judgement)) == len(rows)


def test_an_unknown_name_lists_the_forms() -> None:
    with pytest.raises(ConfigError, match="no such judge") as caught:
        judging.resolve("acme-not-installed:m")
    assert "NAME:MODEL" in str(caught.value)
