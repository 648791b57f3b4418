"""A judge of the tuned model's family, or of the family that wrote the training answers, is warned of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import JudgeServer
from support.made_run import make_run as made_run

from gemma_lora import judge as judging
from gemma_lora.config import Config, DataConfig, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.errors import JudgeError
from gemma_lora.judge.kinship import families_of, kinship
from gemma_lora.rundir import read_json


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("google/gemma-2-9b-it", {"gemma/gemini"}),
        ("gemini-2.5-pro", {"gemma/gemini"}),
        ("codegemma", {"gemma/gemini"}),
        ("gpt-4o-mini", {"gpt"}),
        ("ChatGPT", {"gpt"}),
        ("o3-mini", {"gpt"}),
        ("claude-opus-4", {"claude"}),
        ("llama3.3", {"llama"}),
        ("meta-llama/Llama-3.1-8B-Instruct", {"llama"}),
        ("ollama", set()),
        ("Qwen/Qwen2.5-7B", {"qwen"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"deepseek", "qwen"}),
        ("mistralai/Mixtral-8x7B", {"mistral"}),
        ("ministral-8b", {"mistral"}),
        ("phi3", {"phi"}),
        ("delphi", set()),
        ("my-judge", set()),
        ("", set()),
    ],
)
def test_families_by_name(name: str, families: set[str]) -> None:
    assert families_of(name) == families


def test_no_relation_no_sentence() -> None:
    assert kinship("openai:gpt-5", families_of("gpt-5"), None) == []
    assert kinship("openai:gpt-5", families_of("gpt-5"), "claude-3") == []
    assert kinship("x", families_of("my-judge"), "my-judge") == []


def judged(server: JudgeServer, folder: Path, teacher: str | None) -> tuple[str, list[str], Any]:
    """What the console showed, the warnings of verdict.json, and judge.json."""
    run, config = made_run(folder, questions=10)
    config = config.model_copy(
        update={
            "judge": JudgeConfig(judge=server.name, judge_timeout=5),
            "data": DataConfig(path="support.csv", teacher=teacher),
        }
    )
    stream = io.StringIO()
    place = judging.judge(config, run, Console(stream=stream))
    verdict = decide(config, run, Console(quiet=True, stream=stream), judge_slug=place.name)
    return stream.getvalue(), verdict["warnings"], read_json(place / "judge.json")


@pytest.mark.parametrize(
    ("model", "teacher", "count"),
    [
        ("gemma-2-27b-it", None, 1),
        ("gpt-5", "GPT-4 (March)", 1),
        ("gemini-pro", "gemini-flash", 2),
        ("gpt-5", "claude-3", 0),
        ("stub-judge", "gpt-4", 0),
    ],
)
def test_it_is_said_before_judging_and_in_the_verdict(
    model: str, teacher: str | None, count: int, tmp_path: Path
) -> None:
    with JudgeServer(model) as server:
        shown, warnings, facts = judged(server, tmp_path / "run", teacher)
    told = [line for line in warnings if "a better witness" in line]
    assert len(told) == count
    assert " ".join(shown.split()).count("a better witness") == count
    assert not facts["warnings"], "found anew by the verdict, so not kept here"
    assert set(facts["families"]) == families_of(model)
    if teacher and count:
        assert teacher in told[-1]


def test_the_architecture_of_a_model_in_this_process_tells_its_family(
    tiny_folder: Any, tmp_path: Path, make_run: Any
) -> None:
    folder = tmp_path / "my-judge"
    folder.symlink_to(tiny_folder("gemma2"))
    stream = io.StringIO()
    config = Config(judge=JudgeConfig(judge=f"hf:{folder}", judge_max_tokens=64))
    with pytest.raises(JudgeError):  # it babbles
        judging.judge(config, make_run(1), Console(stream=stream))
    assert "relative of the tuned model" in " ".join(stream.getvalue().split())
