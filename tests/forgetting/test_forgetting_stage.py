"""The stage: what it writes, that it continues, starts over, and refuses before it begins."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from support.training import example

from gemma_lora import model as models
from gemma_lora.config import Config, LoraConfig
from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.forgetting import measure, need_probe
from gemma_lora.records import Message, ProbeResult
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_jsonl

ROWS = [
    {"question": "What is two and two?", "answer": "Four.", "choices": ["Three.", "Four."]},
    {"question": "Say good day to the user, please", "answer": "Good day to you."},
    {"question": "Which order", "answer": "B", "choices": ["this", "that", "none", "all"]},
    {"question": "help", "answer": "What can I do for you?", "category": "short"},
]


@pytest.fixture
def made(tmp_path: Path, tiny_folder) -> tuple[Config, RunDir]:
    """A run folder with training rows, an adapter that changes the outputs, and a probe of four."""
    probe = tmp_path / "probe.jsonl"
    probe.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    folder = tiny_folder("gemma")
    run = RunDir(tmp_path / "run")
    write_jsonl(run.train_rows, [example(n) for n in range(12)])
    save_adapter(folder, run.adapter, 0.3)
    return config_of(folder, str(probe)), run


def config_of(folder: Path, probe: str) -> Config:
    return Config.model_validate({"model": {"model": str(folder)}, "forgetting": {"probe": probe}})


def save_adapter(folder: Path, target: Path, spread: float) -> None:
    ref = models.resolve(str(folder))
    base = models.load_base(ref, precision="fp32", device="cpu")
    tuned = models.attach_lora(base, LoraConfig(), 0)
    torch.manual_seed(100)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    models.save_adapter(tuned, target, ref)


def quiet() -> Console:
    return Console(stream=io.StringIO(), interval=0.0)


def items(run: RunDir) -> list[ProbeResult]:
    return read_jsonl(run.forgetting / "items.jsonl", ProbeResult)


def losses(
    config: Config, run: RunDir, arm: str, question: str, answer: str, ends: bool
) -> list[float]:
    """Each answer token's loss by the model's plain forward; with `ends` the end of turn, too."""
    ref = models.resolve(config.model.model)
    fmt = models.load_format(ref)
    arms = models.load_arms(config, run, quiet())
    talk = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    encoded = fmt.example(talk)
    places = [n for n, loss in enumerate(encoded.supervised) if loss]
    with torch.no_grad(), arms.use(arm):
        logs = arms.model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    return [-float(logs[n - 1, encoded.ids[n]]) for n in (places if ends else places[:-1])]


def test_what_is_written(made: tuple[Config, RunDir]) -> None:
    config, run = made
    result = measure(config, run, quiet())
    assert result == read_json(run.forgetting / "forgetting.json")
    assert result["probe"]["items"] == 4
    assert result["probe"]["with_options"] == 2
    found = items(run)
    assert [row.id for row in found] == ["row-1", "row-2", "row-3", "row-4"]
    assert [row.category for row in found] == ["all", "all", "all", "short"]
    assert [row.right for row in found] == ["B", None, "B", None]
    assert [row.options for row in found] == [2, None, 4, None]
    for row in found:
        assert (row.base_choice is None) == (row.tuned_choice is None) == (row.options is None)
    for arm, name in (("base", "base_nll"), ("tuned", "tuned_nll")):
        by_hand = losses(config, run, arm, "help", "What can I do for you?", ends=False)
        assert found[3].tokens == len(by_hand)
        assert getattr(found[3], name) == pytest.approx(sum(by_hand), abs=1e-4)


def test_training_rows_are_measured_as_validation_is(made: tuple[Config, RunDir]) -> None:
    """Without dropout, by token, the end of turn included, and of the tuned model."""
    config, run = made
    sample = measure(config, run, quiet())["train_sample"]
    total: list[float] = []
    for number in range(12):
        question, answer = (turn.content for turn in example(number).messages)
        total += losses(config, run, "tuned", question, answer, ends=True)
    assert (sample["rows"], sample["tokens"]) == (12, len(total))
    assert sample["loss"] == pytest.approx(sum(total) / len(total), abs=1e-5)


def test_an_interrupted_measurement_goes_on(made: tuple[Config, RunDir]) -> None:
    config, run = made
    measure(config, run, quiet())
    whole, file = items(run), run.forgetting / "items.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[2] + lines[0] + lines[1][:20])  # in the order of computing, torn
    console = quiet()
    measure(config, run, console)
    text = console.stream.getvalue()  # pyright: ignore
    assert "the last line was torn off" in text
    assert "continuing: 2 of 4 questions are there" in text
    again = items(run)
    assert [row.id for row in again] == [row.id for row in whole]
    assert file.read_bytes().splitlines(keepends=True)[0] == lines[0], "what was there is kept"
    for one, other in zip(again, whole, strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-5)
        assert one.model_dump(exclude={"kl", "base_nll", "tuned_nll"}) == other.model_dump(
            exclude={"kl", "base_nll", "tuned_nll"}
        )


def test_another_adapter_starts_over(made: tuple[Config, RunDir]) -> None:
    config, run = made
    measure(config, run, quiet())
    before = items(run)
    save_adapter(Path(config.model.model), run.adapter, 0.01)
    console = quiet()
    measure(config, run, console)
    assert "made from other inputs: they start over" in console.stream.getvalue()  # pyright: ignore
    after = items(run)
    assert [row.base_nll for row in after] == pytest.approx([row.base_nll for row in before])
    assert [row.base_choice for row in after] == [row.base_choice for row in before]
    for old, new in zip(before, after, strict=True):
        assert 0 < new.kl < old.kl / 10, "a thirtieth of the update moves the model less"


def test_the_bundled_probe_fits_every_tokenizer_here(tiny_folder) -> None:
    for family in ("gemma", "gemma3_text"):
        probe = need_probe(config_of(tiny_folder(family), "general"))
        assert probe is not None
    assert need_probe(config_of(tiny_folder(), "none")) is None


def test_what_the_model_cannot_take_is_refused_together(
    made: tuple[Config, RunDir], tmp_path
) -> None:
    config, _ = made
    path = tmp_path / "long.jsonl"
    rows = [
        {"id": "long-question", "question": "please " * 600, "answer": "No."},
        {"id": "fine", "question": "Why?", "answer": "Because."},
        {"id": "long-answer", "question": "Why?", "answer": "because " * 600},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError) as caught:
        need_probe(config_of(Path(config.model.model), str(path)))
    text = str(caught.value)
    assert "2 questions of the probe cannot be asked" in text
    assert "long-question: " in text
    assert "long-answer: " in text
    assert "the model takes 512" in text
    assert "fine" not in text


@pytest.mark.parametrize("family", ["gemma", "gemma3_text"])
def test_a_letter_is_asked_as_it_would_be_answered(family: str, tiny_folder) -> None:
    """Prompt and letter are the ids of the finished conversation, up to its end of turn."""
    from gemma_lora.forgetting.stage import _questions

    config = config_of(tiny_folder(family), "general")
    fmt = models.load_format(models.resolve(config.model.model))
    probe = need_probe(config)
    assert probe is not None
    asked = [q for q in _questions(probe, fmt, 512) if q.prompt is not None]
    assert len(asked) == sum(item.choices is not None for item in probe.items)
    for question in asked[::20]:
        for letter, token in zip("ABCD", question.letters, strict=True):
            talk = [
                Message(role="user", content=question.item.choice_question),
                Message(role="assistant", content=letter),
            ]
            assert question.prompt is not None
            assert fmt.example(talk).ids == (*question.prompt, token, fmt.end_of_turn_id)
