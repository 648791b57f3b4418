"""Talking to the base or the tuned model of a run, streaming, with the same prompts as in training.

Reads lines from a stream (stdin) until its end, or `/quit`; writes answers to another (stdout) and
everything else to the console (stderr). Control characters in the model's text are shown, not
executed by the terminal. Ctrl-C stops the answer, not the program. Writes no file.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from gemma_lora.config import Config
from gemma_lora.console import Console, neutral
from gemma_lora.errors import GemmaLoraError
from gemma_lora.model import load_arms, load_format, resolve
from gemma_lora.model.decoding import stream
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Message
from gemma_lora.rundir import RunDir

__all__ = ["Conversation", "chat", "text_pieces"]

HELP = """commands: /base and /tuned choose the model, /reset forgets the conversation,
          /system TEXT sets an instruction (empty: none), /help, /quit"""


@dataclass
class Conversation:
    """The turns so far; the system text stays over `/reset`."""

    system: str = ""
    turns: list[Message] = field(default_factory=list[Message])

    def asking(self, text: str) -> list[Message]:
        """The messages of the next prompt."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return [*head, *self.turns, Message(role="user", content=text)]

    def keep(self, question: str, answer: str) -> None:
        self.turns += [
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ]


def chat(
    config: Config,
    run: RunDir,
    console: Console,
    *,
    source: TextIO | None = None,
    target: TextIO | None = None,
) -> dict[str, Any]:
    """Converse until the input ends; returns the number of answers by arm."""
    lines: TextIO = source if source is not None else sys.stdin
    out: TextIO = target if target is not None else sys.stdout
    for terminal in (lines, out):  # a stray byte or a narrow terminal must not end the program
        if isinstance(terminal, io.TextIOWrapper):
            terminal.reconfigure(errors="replace")
    ref = resolve(config.model.model)
    fmt = load_format(ref)
    arms = load_arms(config, run, console)
    arm = arms.names[-1]
    if ref.is_demo:
        console.note(
            "the starter is a demonstration model; for real use: --model google/gemma-2b-it"
        )
    console.note(f"talking to the {arm} model. {HELP}")
    counts = dict.fromkeys(arms.names, 0)
    talk = Conversation()
    while (line := _read(lines, out, arm)) is not None:
        command, _, rest = line.strip().partition(" ")
        if not line.strip():
            continue
        if command in ("/quit", "/exit"):
            break
        if command in ("/base", "/tuned"):
            if command[1:] in arms.names:
                arm = command[1:]
                console.note(f"talking to the {arm} model")
            else:
                console.note(f"this run has no {command[1:]} model: there is no adapter yet")
        elif command == "/reset":
            talk.turns.clear()
            console.note("the conversation is forgotten")
        elif command == "/system":
            talk.system = rest.strip()
            console.note("instruction set" if talk.system else "instruction removed")
        elif command.startswith("/"):
            console.note(HELP)
        else:
            with arms.use(arm):
                _answer(config, arms.model, fmt, talk, line.strip(), out, console)
            counts[arm] += 1
    return {"answers": counts}


def _read(source: TextIO, target: TextIO, arm: str) -> str | None:
    """The next line; a prompt is written only where a person sees it. Ctrl-C at the prompt ends."""
    if source.isatty():
        target.write(f"\n{arm}> ")
        target.flush()
    try:
        line = source.readline()
    except KeyboardInterrupt:
        return None
    return line or None


def _answer(
    config: Config,
    model: Any,
    fmt: PromptFormat,
    talk: Conversation,
    question: str,
    target: TextIO,
    console: Console,
) -> None:
    made: list[int] = []

    def ids() -> Iterator[int]:
        prompt = fmt.prompt(talk.asking(question))
        for token in stream(
            model,
            fmt,
            prompt,
            max_new_tokens=config.answer.max_new_tokens,
            temperature=config.answer.temperature,
            seed=config.seed,
        ):
            made.append(token)
            yield token

    try:
        for piece in text_pieces(fmt, ids()):
            target.write(neutral(piece))
            target.flush()
    except KeyboardInterrupt:
        console.note(" [stopped]")
    except GemmaLoraError as error:  # a conversation that no longer fits must not end the program
        console.note(f"{error}\n  /reset begins a new conversation")
        return
    target.write("\n")
    target.flush()
    if len(made) == config.answer.max_new_tokens:
        console.note(f"[cut off at {len(made)} tokens: --max-new-tokens]")
    answer = fmt.decode(made)
    if answer.strip():
        talk.keep(question, answer)


def text_pieces(fmt: PromptFormat, ids: Iterable[int]) -> Iterator[str]:
    """Text as it grows; bytes of an unfinished character are held back until it is whole."""
    made: list[int] = []
    shown = ""
    for token in ids:
        made.append(token)
        text = fmt.decode(made)
        if text.endswith("\ufffd") or not text.startswith(shown):
            continue
        yield text[len(shown) :]
        shown = text
    text = fmt.decode(made)
    if text.startswith(shown) and len(text) > len(shown):
        yield text[len(shown) :]
