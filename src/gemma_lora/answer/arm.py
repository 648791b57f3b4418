"""One arm's answers: what is left to answer, answering it, the file in order, and its figures.

Reads and appends to one file of answers; refuses, all at once, conversations that the template cannot
take. Which model answers, and what it is asked, is up to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma_lora.answer.questions import Question
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.model.decoding import Generated, generate, positions_of, room
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Answer, Message
from gemma_lora.rundir import append_jsonl, read_jsonl, write_jsonl

__all__ = ["answer_left", "figures", "left_to_answer", "prompts_of", "put_in_order", "warn_of"]

LIMIT_SHARE = 0.1
MAX_LISTED = 10


def prompts_of(
    fmt: PromptFormat, conversations: Iterable[Sequence[Message]], *, who: str = ""
) -> list[list[int]]:
    """All prompts as ids, or one DataError that names every question the template cannot take."""
    prompts: list[list[int]] = []
    faults: list[str] = []
    for messages in conversations:
        try:
            prompts.append(fmt.prompt(messages))
        except DataError as error:
            faults.append(f"{messages[-1].content[:60]!r}: {error.found}")
    if faults:
        raise DataError(
            f"{len(faults)} questions cannot be asked",
            where=who or None,
            details=[*faults[:MAX_LISTED], *(["and more"] if len(faults) > MAX_LISTED else [])],
            remedy="correct or remove them",
        )
    return prompts


def left_to_answer(
    path: Path, arm: str, asked: Sequence[Question], console: Console, *, stale: bool
) -> list[Question]:
    """The questions without an answer in `path`; all of them where its answers are `stale`."""
    if stale:
        return list(asked)
    there = {row.id for row in read_jsonl(path, Answer, console)}
    left = [question for question in asked if question.id not in there]
    if there and left:
        console.note(f"{arm} answers: continuing, {len(there)} of {len(asked)} are there")
    return left


def answer_left(
    config: Config,
    path: Path,
    console: Console,
    model: Any,
    fmt: PromptFormat,
    arm: str,
    left: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    total: int,
) -> None:
    """Answer the questions `left` by their `prompts`; each batch is on the disk before the next."""
    wanted = config.answer.max_new_tokens
    short = sum(n < wanted for n in room(positions_of(model), prompts, wanted))
    if short:
        console.warn(f"{short} questions leave less than --max-new-tokens of room in the model")
    started, done, tokens = time.monotonic(), 0, 0

    def on_done(batch: list[tuple[int, Generated]]) -> None:
        nonlocal done, tokens
        for index, made in batch:
            append_jsonl(path, _record(left[index], made))
            tokens += len(made.ids)
        done += len(batch)
        passed = time.monotonic() - started
        ahead = passed / done * (len(left) - done)
        console.progress(
            f"{arm} answers {total - len(left) + done}/{total}, "
            f"{tokens / max(passed, 1e-9):,.0f} tokens/s, {_clock(ahead)} left",
            final=done == len(left),
        )

    generate(
        model,
        fmt,
        prompts,
        max_new_tokens=config.answer.max_new_tokens,
        batch=config.answer.answer_batch,
        temperature=config.answer.temperature,
        seed=config.seed,
        on_done=on_done,
    )


def put_in_order(path: Path, asked: Sequence[Question], console: Console) -> None:
    """The file in the order of the questions, once all are answered."""
    rows = {row.id: row for row in read_jsonl(path, Answer, console)}
    ordered = [rows[question.id] for question in asked]
    if [row.id for row in ordered] != list(rows):
        write_jsonl(path, ordered)


def figures(
    path: Path, made: Iterable[Question], seconds: float, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Counts of an arm's answers; the speed of those `made` now, else as it was `before`."""
    rows = read_jsonl(path, Answer)
    new = {question.id for question in made}
    tokens = sum(row.tokens for row in rows if row.id in new)
    return {
        "answers": len(rows),
        "at_limit": sum(row.stopped_by == "limit" for row in rows),
        "empty": sum(not row.answer.strip() for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "seconds": round(seconds, 2) if new else before.get("seconds"),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1)
        if new
        else before.get("tokens_per_second"),
    }


def warn_of(arm: str, facts: Mapping[str, Any], config: Config, console: Console) -> None:
    """Answers of an arm that were cut off, or are empty."""
    if facts["at_limit"] > LIMIT_SHARE * facts["answers"]:
        console.warn(
            f"{facts['at_limit']} of {facts['answers']} {arm} answers were cut off at "
            f"{config.answer.max_new_tokens} tokens (--max-new-tokens)"
        )
    if facts["empty"]:
        console.warn(f"{facts['empty']} of {facts['answers']} {arm} answers are empty")


def _record(question: Question, made: Generated) -> Answer:
    return Answer(
        id=question.id,
        messages=question.messages,
        reference=question.reference,
        answer=made.text,
        tokens=len(made.ids),
        stopped_by=made.stopped_by,
        cluster=question.cluster,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
