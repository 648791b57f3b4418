"""Each test gets its own cache folder and no key of the machine it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.judge_server import JudgeServer

from gemma_lora.config import Config, JudgeConfig
from gemma_lora.records import ARMS, Answer, Message
from gemma_lora.rundir import RunDir, write_jsonl

KEYS = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMMA_LORA_JUDGE_KEY",
    "OPENAI_BASE_URL",
    "OLLAMA_HOST",
)


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEMMA_LORA_CACHE", str(tmp_path / "cache"))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    """A run folder with answers of both arms: `make_run(20)`, or with answers of one's own."""

    def make(
        rows: int = 10,
        *,
        answers: dict[str, list[str]] | None = None,
        reference: str | None = "Please tell me your order number; we will refund it.",
        folder: str = "run",
    ) -> RunDir:
        run = RunDir(tmp_path / folder)
        for arm in ARMS:
            texts = answers[arm] if answers else [f"{arm[0]} answer {i}" for i in range(rows)]
            write_jsonl(
                run.answers(arm),
                [
                    Answer(
                        id=f"q{i:04d}",
                        messages=(Message(role="user", content=f"Where is my refund no. {i}?"),),
                        reference=reference,
                        answer=text,
                        tokens=3,
                        stopped_by="end",
                        cluster=f"c{i}",
                    )
                    for i, text in enumerate(texts)
                ],
            )
        return run

    return make


@pytest.fixture
def configured() -> Callable[..., Config]:
    """A config whose judge is `name`, with small waits and, unless asked for, without canaries."""

    def make(name: str, **settings: object) -> Config:
        return Config(
            judge=JudgeConfig(judge=name, **{"judge_timeout": 5.0, "canaries": 0, **settings})
        )  # type: ignore[arg-type]

    return make
