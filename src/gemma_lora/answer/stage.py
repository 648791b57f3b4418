"""The answering stage: base and tuned answers from one load of the base weights, resumable.

Reads split/test.jsonl (or a file of questions) and adapter/; writes answers/<set>/{base,tuned}.jsonl
(in the order of the questions once complete), answers/<set>/answer.json (counts, decisions,
warnings) and answers/<set>/.inputs.json (what each arm's answers were made from). Unfinished arms
continue; answers made from anything else are discarded, with a notice, once the model, the adapter and
the questions have been found usable. Without an adapter only the base answers. Refuses questions
longer than the model's positions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_lora.answer.questions import Question, load_questions, set_name, test_questions
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import DataError
from gemma_lora.model import (
    Arms,
    check_access,
    decide_device,
    decide_precision,
    has_adapter,
    load_arms,
    load_format,
    resolve,
    weights_digest,
)
from gemma_lora.model.decoding import Generated, generate, room
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import ARMS, Answer, Example
from gemma_lora.rundir import (
    RunDir,
    append_jsonl,
    digest,
    file_digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

__all__ = ["answer"]

LIMIT_SHARE = 0.1
MAX_LISTED = 10


def answer(
    config: Config, run: RunDir, console: Console, *, questions: Path | None = None
) -> dict[str, Any]:
    """Answer the test rows, or `questions`; returns counts, decisions and warnings, as in answer.json.

    `answers` in the result is the folder that holds them, as a path from here.
    """
    name = "test" if questions is None else set_name(questions)
    asked = (
        test_questions(read_jsonl(run.test_rows, Example, console))
        if questions is None
        else load_questions(questions, config.data)
    )
    if not asked:
        raise DataError("there are no test rows", where=str(run.test_rows), remedy="run again")
    fmt = load_format(resolve(config.model.model))
    arms = ARMS if has_adapter(run) else ARMS[:1]
    folder = run.answers("base", name).parent
    inputs = _all_inputs(config, run, asked, fmt, arms)
    stale = _stale(run, name, inputs)
    left = {arm: _left(run, arm, name, asked, console, arm in stale) for arm in arms}
    noted = len(console.warnings)
    loaded: Arms | None = None
    if any(left.values()):
        # whatever is refused is refused here, while the old answers are still whole
        loaded = load_arms(config, run, console)
        for questions_left in left.values():
            room(loaded.model, _prompts(fmt, questions_left), config.answer.max_new_tokens)
    _start_over(run, name, stale, inputs, console)
    seconds: dict[str, float] = {}
    for arm in arms:
        started = time.monotonic()
        if loaded is not None and left[arm]:
            with loaded.use(arm):
                _answer_arm(
                    config, run, console, loaded.model, fmt, arm, name, left[arm], len(asked)
                )
        _order(run, arm, name, asked, console)
        seconds[arm] = time.monotonic() - started
    result = _result(run, name, arms, asked, left, seconds, loaded, folder)
    _warn(result, config, console)
    result["warnings"] = console.warnings[noted:]
    write_json(folder / "answer.json", result)
    return {"answers": str(folder), **result}


def _answer_arm(
    config: Config,
    run: RunDir,
    console: Console,
    model: Any,
    fmt: PromptFormat,
    arm: str,
    name: str,
    left: Sequence[Question],
    total: int,
) -> None:
    path = run.answers(arm, name)
    prompts = _prompts(fmt, left)
    short = sum(
        n < config.answer.max_new_tokens for n in room(model, prompts, config.answer.max_new_tokens)
    )
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


def _prompts(fmt: PromptFormat, left: Sequence[Question]) -> list[list[int]]:
    """All prompts, or one DataError that names every question the template cannot take."""
    prompts: list[list[int]] = []
    faults: list[str] = []
    for question in left:
        try:
            prompts.append(fmt.prompt(question.messages))
        except DataError as error:
            faults.append(f"{question.messages[-1].content[:60]!r}: {error.found}")
    if faults:
        raise DataError(
            f"{len(faults)} questions cannot be asked",
            details=[*faults[:MAX_LISTED], *(["and more"] if len(faults) > MAX_LISTED else [])],
            remedy="correct or remove them",
        )
    return prompts


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


def _inputs(
    config: Config,
    run: RunDir,
    asked: Sequence[Question],
    fmt: PromptFormat,
    arm: str,
    computed: list[str],
) -> str:
    """Hash of all that an arm's answers depend on; the base answers not on the adapter.

    `computed`: device and precision as decided, so that no file mixes two machines' arithmetic.
    """
    settings = config.answer
    adapter = None
    if arm == "tuned":
        adapter = [file_digest(file) for file in sorted(run.adapter.glob("adapter_*"))]
    return digest(
        [[q.id, [m.model_dump() for m in q.messages], q.reference] for q in asked],
        weights_digest(resolve(config.model.model)),
        fmt.template_hash,
        list(fmt.stop_ids),
        adapter,
        [settings.max_new_tokens, settings.temperature],
        config.seed if settings.temperature > 0 else None,
        computed,
    )


def _all_inputs(
    config: Config,
    run: RunDir,
    asked: Sequence[Question],
    fmt: PromptFormat,
    arms: Sequence[str],
) -> dict[str, str]:
    device = decide_device(config.model)
    precision = decide_precision(config.model, device, check_access(resolve(config.model.model)))
    computed = [str(device), str(precision)]
    return {arm: _inputs(config, run, asked, fmt, arm, computed) for arm in arms}


def _header(run: RunDir, name: str) -> Path:
    return run.answers("base", name).parent / ".inputs.json"


def _known(run: RunDir, name: str) -> dict[str, str]:
    header = _header(run, name)
    return read_json(header) if header.exists() else {}


def _stale(run: RunDir, name: str, inputs: dict[str, str]) -> list[str]:
    """The arms whose answers were made from other inputs; DataError where they could not be made again."""
    known = _known(run, name)
    stale = [
        arm for arm in ARMS if run.answers(arm, name).exists() and known.get(arm) != inputs.get(arm)
    ]
    for arm in stale:
        if arm not in inputs:
            raise DataError(
                "there are tuned answers, but no adapter that could have made them",
                where=str(run.adapter),
                remedy=f"train again, or delete {run.answers(arm, name)}",
            )
    return stale


def _start_over(
    run: RunDir, name: str, stale: Sequence[str], inputs: dict[str, str], console: Console
) -> None:
    for arm in stale:
        console.note(f"{arm} answers were made from other inputs: they start over")
        run.answers(arm, name).unlink()
    if _known(run, name) != inputs:
        write_json(_header(run, name), inputs)


def _left(
    run: RunDir,
    arm: str,
    name: str,
    asked: Sequence[Question],
    console: Console,
    stale: bool,
) -> list[Question]:
    if stale:
        return list(asked)
    there = {row.id for row in read_jsonl(run.answers(arm, name), Answer, console)}
    left = [question for question in asked if question.id not in there]
    if there and left:
        console.note(f"{arm} answers: continuing, {len(there)} of {len(asked)} are there")
    return left


def _order(run: RunDir, arm: str, name: str, asked: Sequence[Question], console: Console) -> None:
    path = run.answers(arm, name)
    rows = {row.id: row for row in read_jsonl(path, Answer, console)}
    ordered = [rows[question.id] for question in asked]
    if [row.id for row in ordered] != list(rows):
        write_jsonl(path, ordered)


def _result(
    run: RunDir,
    name: str,
    arms: Sequence[str],
    asked: Sequence[Question],
    left: dict[str, list[Question]],
    seconds: dict[str, float],
    loaded: Arms | None,
    folder: Path,
) -> dict[str, Any]:
    before: dict[str, Any] = {}
    if (folder / "answer.json").exists():
        before = read_json(folder / "answer.json")
    facts: dict[str, Any] = {}
    for arm in arms:
        rows = read_jsonl(run.answers(arm, name), Answer)
        made = {question.id for question in left[arm]}
        tokens = sum(row.tokens for row in rows if row.id in made)
        old = before.get("arms", {}).get(arm, {})
        facts[arm] = {
            "answers": len(rows),
            "at_limit": sum(row.stopped_by == "limit" for row in rows),
            "empty": sum(not row.answer.strip() for row in rows),
            "tokens": sum(row.tokens for row in rows),
            "seconds": round(seconds[arm], 2) if made else old.get("seconds"),
            "tokens_per_second": round(tokens / max(seconds[arm], 1e-9), 1)
            if made
            else old.get("tokens_per_second"),
        }
    decisions = loaded.decisions if loaded is not None else before.get("decisions", {})
    return {
        "set": name,
        "folder": str(folder.relative_to(run.root)),
        "questions": len(asked),
        "arms": facts,
        "decisions": decisions,
    }


def _warn(result: dict[str, Any], config: Config, console: Console) -> None:
    for arm, facts in result["arms"].items():
        if facts["at_limit"] > LIMIT_SHARE * facts["answers"]:
            console.warn(
                f"{facts['at_limit']} of {facts['answers']} {arm} answers were cut off at "
                f"{config.answer.max_new_tokens} tokens (--max-new-tokens)"
            )
        if facts["empty"]:
            console.warn(f"{facts['empty']} of {facts['answers']} {arm} answers are empty")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
