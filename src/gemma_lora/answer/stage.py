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

from gemma_lora.answer.arm import (
    answer_left,
    figures,
    left_to_answer,
    prompts_of,
    put_in_order,
    warn_of,
)
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
from gemma_lora.model.decoding import positions_of, room
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import ARMS, Example
from gemma_lora.rundir import (
    RunDir,
    digest,
    file_digest,
    read_json,
    read_jsonl,
    write_json,
)

__all__ = ["answer", "check_base_prompts"]


def check_base_prompts(config: Config, run: RunDir) -> None:
    """DataError where a test question does not fit into the model: said before it is trained."""
    asked = test_questions(read_jsonl(run.test_rows, Example))
    ref = resolve(config.model.model)
    prompts = _prompts(load_format(ref), asked)
    room(check_access(ref).max_positions, prompts, config.answer.max_new_tokens, who="test rows")


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
    left = {
        arm: left_to_answer(run.answers(arm, name), arm, asked, console, stale=arm in stale)
        for arm in arms
    }
    noted = len(console.warnings)
    loaded: Arms | None = None
    if any(left.values()):
        # whatever is refused is refused here, while the old answers are still whole
        loaded = load_arms(config, run, console)
        for questions_left in left.values():
            prompts = _prompts(fmt, questions_left)
            room(positions_of(loaded.model), prompts, config.answer.max_new_tokens)
    _start_over(run, name, stale, inputs, console)
    seconds: dict[str, float] = {}
    for arm in arms:
        started = time.monotonic()
        if loaded is not None and left[arm]:
            path, prompts = run.answers(arm, name), _prompts(fmt, left[arm])
            with loaded.use(arm):
                answer_left(
                    config,
                    path,
                    console,
                    loaded.model,
                    fmt,
                    arm,
                    left[arm],
                    prompts,
                    total=len(asked),
                )
        put_in_order(run.answers(arm, name), asked, console)
        seconds[arm] = time.monotonic() - started
    result = _result(run, name, arms, asked, left, seconds, loaded, folder)
    for arm, facts in result["arms"].items():
        warn_of(arm, facts, config, console)
    result["warnings"] = console.warnings[noted:]
    write_json(folder / "answer.json", result)
    return {"answers": str(folder), **result}


def _prompts(fmt: PromptFormat, questions: Sequence[Question]) -> list[list[int]]:
    return prompts_of(fmt, [question.messages for question in questions])


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
        fmt.tokenizer_hash,
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
    known = before.get("arms", {})
    facts = {
        arm: figures(run.answers(arm, name), left[arm], seconds[arm], known.get(arm, {}))
        for arm in arms
    }
    decisions = loaded.decisions if loaded is not None else before.get("decisions", {})
    return {
        "set": name,
        "folder": str(folder.relative_to(run.root)),
        "questions": len(asked),
        "arms": facts,
        "decisions": decisions,
    }
