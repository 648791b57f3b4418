"""The forgetting stage: base and tuned model on questions that have nothing to do with the data.

Reads the probe, the base model, adapter/ and split/train.jsonl (through tokens/); writes
forgetting/items.jsonl (a `ProbeResult` for each question, in the order of the probe once complete),
forgetting/.inputs.json (what they were made from) and forgetting/forgetting.json (counts, the loss on
a sample of training rows, decisions, warnings). What is unfinished continues; figures made from
anything else are discarded, with a notice. What the figures mean is up to `decision`.

Measured for each question, in the chat format: the reference answer's negative log-likelihood and the
KL divergence of the tuned from the base model at the same positions. The end of turn is left out: learning
to end an answer would hide what was lost. Multiple choice as MMLU asks it: the options stand in the
prompt and the likeliest of the letters is the answer (lm-evaluation-harness's `acc` for MMLU).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.tokens import tokenised
from gemma_lora.errors import DataError
from gemma_lora.forgetting.likelihood import Asked, answer_nll, choose, compare, in_batches
from gemma_lora.forgetting.probe import LETTERS, Probe, ProbeItem, load_probe
from gemma_lora.model import (
    Arms,
    check_access,
    decide_device,
    decide_precision,
    load_arms,
    load_format,
    resolve,
    weights_digest,
)
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Message, ProbeResult
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

__all__ = ["measure", "need_probe"]

SAMPLE_ROWS = 200
SAMPLE_TOKENS = 8_192
"""Most training rows, and tokens of them, whose loss is computed without dropout."""
MAX_LISTED = 10


@dataclass(frozen=True)
class _Question:
    """One item as the model gets it."""

    item: ProbeItem
    answer: Asked
    prompt: tuple[int, ...] | None
    """The question with its options; None where it has none, or where letters are not single tokens."""
    letters: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(len(self.answer.ids), len(self.prompt or ()) + 1)


def need_probe(config: Config) -> Probe | None:
    """The probe, found fit for the model; ConfigError or DataError with all faults."""
    probe = load_probe(config.forgetting.probe)
    if probe is not None:
        ref = resolve(config.model.model)
        _questions(probe, load_format(ref), check_access(ref).max_positions)
    return probe


def measure(config: Config, run: RunDir, console: Console) -> dict[str, Any]:
    """Measure what is left to measure; returns the content of forgetting.json."""
    probe = load_probe(config.forgetting.probe)
    assert probe is not None, "the stage is not run without a probe"
    noted, started = len(console.warnings), time.monotonic()
    ref = resolve(config.model.model)
    fmt = load_format(ref)
    questions = _questions(probe, fmt, check_access(ref).max_positions)
    _start_over(run, _inputs(config, run, probe, fmt), console)
    there = {row.id for row in read_jsonl(_items(run), ProbeResult, console)}
    left = [question for question in questions if question.item.id not in there]
    if there and left:
        console.note(f"continuing: {len(there)} of {len(questions)} questions are there")
    _tell(probe, questions, left, console)
    arms = load_arms(config, run, console)
    _ask(arms, left, run, console)
    _order(run, questions)
    with_options = sum(item.choices is not None for item in probe.items)
    result = {
        "schema_version": 1,
        "probe": {
            "name": probe.name,
            "kind": probe.kind,
            "sha256": probe.digest,
            "items": len(probe.items),
            "with_options": with_options,
        },
        "train_sample": _train_sample(config, run, arms, fmt, console),
        "decisions": arms.decisions,
        "seconds": round(time.monotonic() - started, 2),
        "warnings": console.warnings[noted:],
    }
    write_json(run.forgetting / "forgetting.json", result)
    return result


def _tell(
    probe: Probe, questions: Sequence[_Question], left: Sequence[_Question], console: Console
) -> None:
    """What will be asked, and what cannot be."""
    tokens = sum(len(q.answer.ids) + len(q.prompt or ()) for q in left)
    console.note(
        f"{len(questions)} questions of {probe.name} ({probe.kind}), "
        f"{sum(item.choices is not None for item in probe.items)} with options; {tokens:,} tokens "
        "for each of base and tuned"
    )
    if probe.kind == "GSM8K":
        console.note(
            "GSM8K: the likelihood of the published solutions is measured, not whether a solution of "
            "the model's own ends in the right number"
        )
    mute = sum(q.item.choices is not None and q.prompt is None for q in questions)
    if mute:
        console.warn(
            f"the options of {mute} probe questions cannot be compared: the tokenizer has no single "
            "tokens for their letters"
        )


# ---------------------------------------------------------------------- asking


def _ask(arms: Arms, left: Sequence[_Question], run: RunDir, console: Console) -> None:
    started, done = time.monotonic(), 0
    total = sum(question.longest for question in left)
    seen = 0

    def work(batch: list[_Question]) -> None:
        nonlocal done, seen
        compared = compare(arms, [question.answer for question in batch])
        asked = [q for q in batch if q.prompt is not None]
        picks: dict[str, dict[str, str]] = {q.item.id: {} for q in batch}
        if asked:
            prompts = [q.prompt for q in asked if q.prompt is not None]
            for arm, found in choose(arms, prompts, [q.letters for q in asked]).items():
                for question, pick in zip(asked, found, strict=True):
                    picks[question.item.id][arm] = LETTERS[pick]
        rows = [
            ProbeResult(
                id=q.item.id,
                category=q.item.category,
                cluster=q.item.cluster,
                tokens=len(q.answer.places),
                base_nll=figures.base_nll,
                tuned_nll=figures.tuned_nll,
                kl=figures.kl,
                options=len(q.letters) if q.prompt is not None else None,
                right=q.item.right if q.prompt is not None else None,
                base_choice=picks[q.item.id].get("base"),
                tuned_choice=picks[q.item.id].get("tuned"),
            )
            for q, figures in zip(batch, compared, strict=True)
        ]
        append_jsonl(_items(run), *rows)
        done += len(batch)
        seen += sum(question.longest for question in batch)
        passed = time.monotonic() - started
        minutes, seconds = divmod(round(passed / seen * (total - seen)), 60)
        console.progress(
            f"probe {done}/{len(left)}, {minutes}:{seconds:02d} left", final=done == len(left)
        )

    in_batches(arms, left, lambda question: question.longest, work)


def _questions(probe: Probe, fmt: PromptFormat, positions: int) -> list[_Question]:
    """All questions as token ids; one DataError that names every one the model cannot take."""
    made: list[_Question] = []
    faults: list[str] = []
    tokens = _letter_tokens(fmt)
    for item in probe.items:
        try:
            question = _question(item, fmt, tokens)
        except DataError as error:
            faults.append(f"{item.id}: {error.found}")
            continue
        if question.longest > positions:
            faults.append(f"{item.id}: {question.longest:,} tokens, the model takes {positions:,}")
        made.append(question)
    if faults:
        more = len(faults) - MAX_LISTED
        raise DataError(
            f"{len(faults)} questions of the probe cannot be asked",
            where=f"--probe {probe.name}",
            details=[*faults[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])],
            remedy="correct or remove them, or name another --probe",
        )
    return made


def _question(item: ProbeItem, fmt: PromptFormat, tokens: Mapping[str, int]) -> _Question:
    answer = _answered(item.question, item.answer, fmt)
    letters = tuple(tokens[x] for x in LETTERS[: len(item.choices or ())] if x in tokens)
    if item.choices is None or len({*letters}) < len(item.choices):
        return _Question(item, answer, None, ())
    prompt = fmt.prompt([Message(role="user", content=item.choice_question)])
    return _Question(item, answer, tuple(prompt), letters)


def _letter_tokens(fmt: PromptFormat) -> dict[str, int]:
    """The token of each letter that is one token as an answer; the same after every prompt."""
    asked = {letter: _answered("Which?", letter, fmt) for letter in LETTERS}
    return {x: row.ids[row.places[0]] for x, row in asked.items() if len(row.places) == 1}


def _answered(question: str, answer: str, fmt: PromptFormat) -> Asked:
    """The conversation as it would be trained; asked for are the answer's tokens less the end of turn."""
    encoded = fmt.example(
        [Message(role="user", content=question), Message(role="assistant", content=answer)]
    )
    places = [n for n, loss in enumerate(encoded.supervised) if loss]
    return Asked(encoded.ids, tuple(places[:-1]))


# ---------------------------------------------------------------------- training rows


def _train_sample(
    config: Config, run: RunDir, arms: Arms, fmt: PromptFormat, console: Console
) -> dict[str, Any] | None:
    """The tuned model's loss a token on some training rows, without dropout, as validation is measured.

    The loss of the training steps cannot be compared with validation's: dropout is on, and each step's
    weights are others. At most `SAMPLE_ROWS` rows and `SAMPLE_TOKENS` tokens, drawn with the run's seed.
    """
    rows = tokenised(
        run.train_rows,
        fmt,
        max_length=config.train.max_length,
        keep_answer=config.data.on_long_row == "keep-answer",
        folder=run.tokens,
        console=console,
    )
    chosen: list[Asked] = []
    used = 0
    for index in random.Random(config.seed).sample(range(len(rows)), min(SAMPLE_ROWS, len(rows))):
        if chosen and used + int(rows.lengths[index]) > SAMPLE_TOKENS:
            break
        used += int(rows.lengths[index])
        row = rows.table[index]
        places = np.flatnonzero(np.asarray(row["mask"])[1:]) + 1
        chosen.append(Asked(tuple(map(int, row["ids"])), tuple(map(int, places))))
    total = 0.0

    def work(batch: list[Asked]) -> None:
        nonlocal total
        total += sum(answer_nll(arms, "tuned", batch))

    in_batches(arms, chosen, lambda row: len(row.ids), work)
    tokens = sum(len(row.places) for row in chosen)
    return {"rows": len(chosen), "tokens": tokens, "loss": total / tokens} if tokens else None


# ---------------------------------------------------------------------- files


def _items(run: RunDir) -> Any:
    return run.forgetting / "items.jsonl"


def _inputs(config: Config, run: RunDir, probe: Probe, fmt: PromptFormat) -> str:
    """Hash of all that the figures depend on, device and precision included."""
    ref = resolve(config.model.model)
    device = decide_device(config.model)
    precision = decide_precision(config.model, device, check_access(ref))
    return digest(
        probe.digest,
        weights_digest(ref),
        fmt.template_hash,
        fmt.tokenizer_hash,
        [file_digest(file) for file in sorted(run.adapter.glob("adapter_*"))],
        [str(device), str(precision)],
    )


def _start_over(run: RunDir, inputs: str, console: Console) -> None:
    header = run.forgetting / ".inputs.json"
    known = read_json(header) if header.exists() else None
    if known == {"inputs": inputs}:
        return
    if _items(run).exists():
        console.note("the figures were made from other inputs: they start over")
        _items(run).unlink()
    write_json(header, {"inputs": inputs})


def _order(run: RunDir, questions: Sequence[_Question]) -> None:
    rows = {row.id: row for row in read_jsonl(_items(run), ProbeResult)}
    ordered = [rows[question.item.id] for question in questions]
    if [row.id for row in ordered] != list(rows):
        write_jsonl(_items(run), ordered)
