"""Chat: commands, streaming, stopping an answer, and text that tries to steer the terminal."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest
import torch
from support.tiny import small_tokenizer

from gemma_lora import chat as chat_module
from gemma_lora import model as models
from gemma_lora.chat import Conversation, chat, text_pieces
from gemma_lora.config import Config, LoraConfig
from gemma_lora.console import Console, neutral
from gemma_lora.model.decoding import generate
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Message
from gemma_lora.rundir import RunDir


@pytest.fixture
def run_with_adapter(tmp_path: Path, tiny_folder):
    folder = tiny_folder("gemma3_text")
    config = Config.model_validate(
        {"model": {"model": str(folder)}, "answer": {"max_new_tokens": 8}}
    )
    run = RunDir(tmp_path)
    ref = models.resolve(str(folder))
    tuned = models.attach_lora(
        models.load_base(ref, precision="fp32", device="cpu"), LoraConfig(), 0
    )
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    models.save_adapter(tuned, run.adapter, ref)
    return config, run, ref


def talk(config: Config, run: RunDir, text: str) -> tuple[str, str, dict]:
    out, err = io.StringIO(), io.StringIO()
    result = chat(config, run, Console(stream=err), source=io.StringIO(text), target=out)
    return out.getvalue(), err.getvalue(), result


def answer_of(model, config: Config, ref, messages: list[Message]) -> str:
    fmt = models.load_format(ref)
    return generate(model, fmt, [fmt.prompt(messages)], max_new_tokens=8)[0].text


def test_base_and_tuned_answer_as_the_models_do(run_with_adapter):
    config, run, ref = run_with_adapter
    out, _, result = talk(config, run, "help with order\n/base\n/reset\nhelp with order\n")
    base = models.load_base(ref, precision="fp32", device="cpu")
    question = [Message(role="user", content="help with order")]
    by_base = answer_of(base, config, ref, question)
    by_tuned = answer_of(models.load_adapter(base, run.adapter, ref=ref), config, ref, question)
    assert by_base != by_tuned
    assert out == neutral(by_tuned) + "\n" + neutral(by_base) + "\n"
    assert result == {"answers": {"base": 1, "tuned": 1}}


def test_the_conversation_is_remembered_until_reset(run_with_adapter):
    config, run, ref = run_with_adapter
    out, _, _ = talk(config, run, "help\nhelp\n/reset\nhelp\n")
    model = models.load_adapter(
        models.load_base(ref, precision="fp32", device="cpu"), run.adapter, ref=ref
    )
    first = answer_of(model, config, ref, [Message(role="user", content="help")])
    conversation = Conversation()
    conversation.keep("help", first)
    second = answer_of(model, config, ref, conversation.asking("help"))
    assert out == "\n".join(neutral(text) for text in (first, second, first)) + "\n"


def test_system_text_is_part_of_the_prompt(run_with_adapter):
    config, run, ref = run_with_adapter
    out, _, _ = talk(config, run, "/system Be short.\nhelp\n")
    model = models.load_adapter(
        models.load_base(ref, precision="fp32", device="cpu"), run.adapter, ref=ref
    )
    wanted = answer_of(model, config, ref, Conversation(system="Be short.").asking("help"))
    assert out == neutral(wanted) + "\n"


def test_commands_and_blank_lines_are_not_questions(run_with_adapter):
    config, run, _ = run_with_adapter
    out, err, result = talk(config, run, "\n/help\n/what\n/system\n  \n/quit\nhelp\n")
    assert out == ""
    assert result == {"answers": {"base": 0, "tuned": 0}}
    assert err.count("/reset forgets") == 3


def test_a_run_without_an_adapter_has_no_tuned_model(run_with_adapter):
    config, run, _ = run_with_adapter
    for file in run.adapter.iterdir():
        file.unlink()
    _, err, result = talk(config, run, "/tuned\nhelp\n")
    assert "this run has no tuned model" in err
    assert result == {"answers": {"base": 1}}


def test_a_conversation_that_fills_the_model_does_not_end_the_program(run_with_adapter):
    config, run, _ = run_with_adapter
    out, err, _ = talk(config, run, "xyzzy " * 400 + "\nhelp\n")
    assert "longer than the 512 tokens" in err
    assert "/reset begins a new conversation" in err
    assert out.count("\n") >= 1


def test_ctrl_c_stops_the_answer_and_not_the_program(run_with_adapter, monkeypatch):
    config, run, _ = run_with_adapter
    original = chat_module.stream
    calls = 0

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        for number, token in enumerate(original(*args, **kwargs)):
            if calls == 1 and number == 2:
                signal.raise_signal(signal.SIGINT)
            yield token

    monkeypatch.setattr(chat_module, "stream", interrupted)
    _, err, result = talk(config, run, "help\nhelp\n")
    assert "[stopped]" in err
    assert result["answers"]["tuned"] == 2


def test_characters_appear_whole_and_in_order():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    text = "Grüße, 日本 ☃ and 👩‍🚀!\n\nEnd"
    ids = fmt.tokenizer.encode(text, add_special_tokens=False)
    pieces = list(text_pieces(fmt, ids))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_an_unfinished_character_at_the_end_is_shown_as_such():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    ids = fmt.tokenizer.encode("ok ☃", add_special_tokens=False)[:-1]
    assert "".join(text_pieces(fmt, ids)).startswith("ok ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x07", "a\\x0db\\x07"),
        ("\u202eabc", "\\u202eabc"),
        ("\x9b31m", "\\x9b31m"),
        ("plain\ttext\n日本", "plain\ttext\n日本"),
    ],
)
def test_control_characters_are_shown_and_not_sent(text, shown):
    assert neutral(text) == shown
