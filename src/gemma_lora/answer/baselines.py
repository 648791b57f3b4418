"""The answers of the further arms (`--baseline`): checked before training, answered after it.

Reads split/test.jsonl, split/train.jsonl (for examples), prompt files, models; writes
answers/test/<slug>.jsonl, one for each baseline, and answers/test/baselines.json: of each what it is, a
digest of what its answers were made from, which training rows were shown with which question, counts and
warnings. Resumable: an arm whose prompts, model or settings changed starts over, the others stay. An
answer's `messages` are the question's own turns, so that a judge sees neither examples nor instruction.
Refuses, before training, prompts that leave no room in the model.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gemma_lora.answer.arm import (
    answer_left,
    figures,
    left_to_answer,
    prompts_of,
    put_in_order,
    warn_of,
)
from gemma_lora.answer.examples import few_shot, nearest
from gemma_lora.answer.questions import Question, test_questions
from gemma_lora.baselines import FORMS, Baseline, parse, read_prompt
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, EnvironmentFault, GemmaLoraError, ModelError
from gemma_lora.model import (
    BaseRef,
    check_access,
    decide_device,
    decide_precision,
    free_memory,
    load_format,
    load_plain,
    resolve,
    weights_digest,
)
from gemma_lora.model.decoding import room
from gemma_lora.model.memory import BYTES
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Example, Message
from gemma_lora.rundir import RunDir, digest, file_digest, read_jsonl, read_saved, write_json

__all__ = ["answer_baselines", "baseline_inputs", "check_baselines", "check_prompts"]


@dataclass(frozen=True)
class _Plan:
    """One arm, ready to be asked."""

    baseline: Baseline
    ref: BaseRef
    fmt: PromptFormat
    prompts: dict[str, list[int]]
    """Ids of the prompt by question."""
    what: dict[str, Any]
    """What baselines.json tells about it."""
    chosen: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Training rows by question, the most similar one last."""


def check_baselines(config: Config) -> None:
    """Whatever of the baselines can be known to be wrong before any data are read, all of it at once."""
    faults: list[GemmaLoraError] = []
    sound: list[str] = []
    for name in config.judge.baseline:
        try:
            _check(config, parse([name])[0])
            sound.append(name)
        except GemmaLoraError as fault:
            faults.append(fault)
    try:
        parse(sound)
    except GemmaLoraError as fault:
        faults.append(fault)
    if not faults:
        return
    if len(faults) == 1:
        raise faults[0]
    kind = ConfigError if any(isinstance(f, ConfigError) for f in faults) else type(faults[0])
    raise kind(
        f"{len(faults)} baselines cannot be used",
        where="--baseline",
        details=[line for fault in faults for line in _lines(fault)],
        expected=FORMS,
    )


def check_prompts(config: Config, run: RunDir) -> None:
    """DataError where a test question does not fit with a baseline's instruction, or into its model."""
    asked = test_questions(read_jsonl(run.test_rows, Example))
    for baseline in parse(config.judge.baseline):
        if baseline.kind == "few-shot":
            continue  # examples are left away until the question fits
        ref = _ref(config, baseline)
        fmt, turns = _format(ref), _instruction(baseline)
        who = f"--baseline {baseline.name}"
        prompts = prompts_of(fmt, [(*turns, *q.messages) for q in asked], who=who)
        room(check_access(ref).max_positions, prompts, config.answer.max_new_tokens, who=who)


def baseline_inputs(config: Config, run: RunDir) -> dict[str, str]:
    """By arm, a digest of all that its answers depend on besides the test rows and the settings."""
    found: dict[str, str] = {}
    for baseline in parse(config.judge.baseline):
        ref = _ref(config, baseline)
        fmt = _format(ref)
        parts: list[Any] = [weights_digest(ref), fmt.template_hash, fmt.tokenizer_hash]
        parts.append(list(fmt.stop_ids))
        if baseline.kind == "prompt":
            parts.append(read_prompt(baseline))
        if baseline.kind == "few-shot":
            parts += [baseline.examples, file_digest(run.train_rows), config.seed]
        found[f"baseline {baseline.slug}"] = digest(*parts)
    return found


def answer_baselines(config: Config, run: RunDir, console: Console) -> None:
    """Answer the test rows with every baseline; what is there and still fits is kept."""
    asked = test_questions(read_jsonl(run.test_rows, Example, console))
    path = run.baselines
    saved: dict[str, Any] = {"schema_version": 1, "arms": {}}
    if path.exists():
        saved = read_saved(path)
    arms: dict[str, Any] = saved["arms"]
    plans = list(_plans(config, run, asked))
    left: dict[str, list[Question]] = {}
    for plan in plans:
        slug, made_from = plan.baseline.slug, _made_from(config, plan, asked)
        file, known = run.answers(slug), arms.get(slug, {})
        stale = file.exists() and known.get("inputs") != made_from
        left[slug] = left_to_answer(file, slug, asked, console, stale=stale)
        if stale:
            console.note(f"{slug} answers were made from other inputs: they start over")
            file.unlink()
        kept = {} if stale else known
        arms[slug] = {**kept, "inputs": made_from, **plan.what, "chosen": plan.chosen}
    write_json(path, saved)  # before the first answer, so that a kill leaves none of unknown origin
    for ref in dict.fromkeys(plan.ref for plan in plans):
        mine = [plan for plan in plans if plan.ref == ref]
        _answer_with(config, run, console, ref, mine, left, asked, arms)
    for plan in plans:
        noted, slug = len(console.warnings), plan.baseline.slug
        _tell(plan, console)
        warn_of(slug, arms[slug]["answers"], config, console)
        arms[slug]["warnings"] = console.warnings[noted:]
    write_json(path, saved)


def _answer_with(
    config: Config,
    run: RunDir,
    console: Console,
    ref: BaseRef,
    plans: Sequence[_Plan],
    left: dict[str, list[Question]],
    asked: Sequence[Question],
    arms: dict[str, Any],
) -> None:
    """All arms of one model from one load of it; the memory is given back afterwards."""
    model: Any = None
    for plan in plans:
        slug = plan.baseline.slug
        file, mine = run.answers(slug), left[slug]
        started = time.monotonic()
        if mine:
            if model is None:
                model, decisions = load_plain(config, ref, console)
                arms[slug]["decisions"] = decisions
            prompts = [plan.prompts[question.id] for question in mine]
            answer_left(
                config, file, console, model, plan.fmt, slug, mine, prompts, total=len(asked)
            )
        put_in_order(file, asked, console)
        seconds = time.monotonic() - started
        arms[slug]["answers"] = figures(file, mine, seconds, arms[slug].get("answers", {}))
    del model
    gc.collect()


def _plans(config: Config, run: RunDir, asked: Sequence[Question]) -> Iterator[_Plan]:
    baselines = parse(config.judge.baseline)
    most = max((b.examples for b in baselines), default=0)
    found, candidates = nearest(asked, run.train_rows, most, config.seed) if most else ([], 0)
    for baseline in baselines:
        ref = _ref(config, baseline)
        fmt = _format(ref)
        what: dict[str, Any] = {"name": baseline.shown, "kind": baseline.kind}
        chosen: dict[str, tuple[str, ...]] = {}
        if baseline.kind == "few-shot":
            limit = check_access(ref).max_positions - config.answer.max_new_tokens
            shown = [
                few_shot(question, rows[: baseline.examples], fmt, limit)
                for question, rows in zip(asked, found, strict=True)
            ]
            chosen = {q.id: s.examples for q, s in zip(asked, shown, strict=True)}
            what |= _facts(baseline, chosen, candidates, found)
            conversations = [s.messages for s in shown]
        else:
            turns = _instruction(baseline)
            conversations = [(*turns, *question.messages) for question in asked]
            if baseline.kind == "model":
                facts = check_access(ref)
                what |= {"family": facts.family, "revision": facts.revision}
            else:
                what |= {"characters": len(turns[0].content), "digest": digest(turns[0].content)}
        prompts = prompts_of(fmt, conversations, who=f"--baseline {baseline.name}")
        by_id = {q.id: ids for q, ids in zip(asked, prompts, strict=True)}
        yield _Plan(baseline, ref, fmt, by_id, what, chosen)


def _facts(
    baseline: Baseline,
    chosen: dict[str, tuple[str, ...]],
    candidates: int,
    found: Sequence[Sequence[Example]],
) -> dict[str, Any]:
    counts = [len(rows) for rows in chosen.values()]
    used = {name for rows in chosen.values() for name in rows}
    rows = {row.id: row for near in found for row in near if row.id in used}
    return {
        "examples": baseline.examples,
        "chosen_by": "shared five-character shingles of the questions (Jaccard), one of each cluster",
        "candidates": candidates,
        "rows_used": len(used),
        "examples_mean": round(sum(counts) / len(counts), 3),
        "with_fewer": sum(count < baseline.examples for count in counts),
        "with_none": sum(count == 0 for count in counts),
        "system_texts_left_out": sum(
            any(turn.role == "system" for turn in row.messages) for row in rows.values()
        ),
    }


def _tell(plan: _Plan, console: Console) -> None:
    what, slug = plan.what, plan.baseline.slug
    if plan.baseline.kind != "few-shot":
        return
    console.note(
        f"{slug}: {what['examples_mean']:g} of {what['candidates']:,} training rows (one of each group of "
        "near-duplicates) stand before each question, those most like it"
    )
    if what["with_fewer"]:
        console.warn(
            f"{slug}: {what['with_fewer']} of {len(plan.prompts)} questions have fewer than "
            f"{what['examples']} examples before them, {what['with_none']} have none: more did not fit "
            "into the model, or there are no more training rows"
        )
    if what["system_texts_left_out"]:
        console.note(
            f"{slug}: {what['system_texts_left_out']} of the training rows shown have a system text of "
            "their own, which is left out; the question's own stands first"
        )


def _made_from(config: Config, plan: _Plan, asked: Sequence[Question]) -> str:
    """Digest of everything that decides this arm's answers, and of what the records repeat."""
    settings = config.answer
    device = decide_device(config.model)
    precision = decide_precision(config.model, device, check_access(plan.ref))
    return digest(
        [[q.id, [m.model_dump() for m in q.messages], q.reference, q.cluster] for q in asked],
        plan.prompts,
        weights_digest(plan.ref),
        plan.fmt.tokenizer_hash,
        list(plan.fmt.stop_ids),
        [settings.max_new_tokens, settings.temperature],
        config.seed if settings.temperature > 0 else None,
        [str(device), str(precision)],
    )


def _instruction(baseline: Baseline) -> tuple[Message, ...]:
    """The user's text before the row's own system text, which is the more special one."""
    if baseline.kind != "prompt":
        return ()
    return (Message(role="system", content=read_prompt(baseline)),)


def _ref(config: Config, baseline: Baseline) -> BaseRef:
    return resolve(baseline.source if baseline.kind == "model" else config.model.model)


@lru_cache(maxsize=4)
def _format(ref: BaseRef) -> PromptFormat:
    return load_format(ref)


def _check(config: Config, baseline: Baseline) -> None:
    where = f"--baseline {baseline.name}"
    if baseline.kind == "prompt":
        text = read_prompt(baseline)
        ref = _ref(config, baseline)
        turns = [Message(role="system", content=text), Message(role="user", content="?")]
        prompt, positions = _format(ref).prompt(turns), check_access(ref).max_positions
        if len(prompt) + config.answer.max_new_tokens > positions:
            raise ConfigError(
                f"the text takes {len(prompt):,} tokens, which with --max-new-tokens "
                f"{config.answer.max_new_tokens} is more than the {positions:,} that the model takes",
                where=where,
                remedy="shorten the text",
            )
    elif baseline.kind == "model":
        try:
            _check_model(config, baseline, where)
        except ModelError as fault:
            raise ModelError(
                fault.found,
                where=where,
                details=fault.details,
                expected=FORMS if fault.where == "--model" else fault.expected,
                remedy=(fault.remedy or "").replace("--model ", "--baseline ") or None,
            ) from None


def _check_model(config: Config, baseline: Baseline, where: str) -> None:
    ref, own = resolve(baseline.source), resolve(config.model.model)
    facts = check_access(ref)
    same = weights_digest(ref) == weights_digest(own)
    if same and _format(ref).template_hash == _format(own).template_hash:
        raise ConfigError(
            "this is the base model itself", where=where, remedy="leave it away, or name another"
        )
    device = decide_device(config.model)
    precision = decide_precision(config.model, device, facts)
    need, free = facts.parameters * BYTES[precision], free_memory(device)
    if need > free:
        raise EnvironmentFault(
            f"the model takes {need / 2**30:.1f} GiB in {precision}, {free / 2**30:.1f} GiB are free on "
            f"{device}",
            where=where,
            remedy="name a smaller model",
        )


def _lines(fault: GemmaLoraError) -> Iterator[str]:
    """A fault as lines of a list."""
    if fault.where == "--baseline":
        yield from fault.details
    else:
        yield f"{(fault.where or '').removeprefix('--baseline ')}: {fault.found}"
