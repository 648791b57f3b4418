"""The training stage: split rows in, adapter folder and training.json out.

Reads split/train.jsonl and split/validation.jsonl and the base model; writes checkpoints/,
metrics.jsonl, adapter/ and training.json. Called again with the same inputs after an interruption
of any kind it goes on from the newest whole checkpoint; with other inputs it starts over and says
so. Refuses: nothing to train on, too little disk, unknown trackers, several processes, a training
path that does not give the model's own loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from transformers.utils import logging as transformers_logging

from gemma_lora import model as models
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.tokens import Tokenised, tokenised
from gemma_lora.errors import DataError, EnvironmentFault
from gemma_lora.model.families import family_of
from gemma_lora.prompt import PromptFormat
from gemma_lora.rundir import RunDir, digest, file_digest, write_json
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train import trainer as trainers
from gemma_lora.train.adapter import save_verified
from gemma_lora.train.card import card_files
from gemma_lora.train.checkpoint import Checkpoint
from gemma_lora.train.decisions import Decisions, decide, need_disk, need_one_process, need_trackers
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.loss import causal_model
from gemma_lora.train.outcome import Base, Data, card_facts, result_of, say_how_it_went
from gemma_lora.train.packing import batches, collate
from gemma_lora.train.path import PATHS, Path, candidates, choose
from gemma_lora.train.plan import StepPlan
from gemma_lora.train.progress import Progress, cut_metrics
from gemma_lora.train.state import Journal, load_weights, trainable

__all__ = ["train"]

_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 1e-2}
"""Largest relative difference between the training path's loss and the plain forward's."""


def train(config: Config, run: RunDir, console: Console) -> dict[str, Any]:
    """Train the adapter of `run`; returns the content of training.json.

    DataError: no row to train on. ModelError: the base model, the targets, or a loss that is not
    finite. EnvironmentFault: disk, memory, launcher. ConfigError: trackers. KeyboardInterrupt and
    SystemExit(143) after Ctrl-C and SIGTERM, with a checkpoint saved.
    """
    warned = len(console.warnings)
    need_trackers(config.train.report_to)
    need_one_process(console, torch.cuda.device_count())
    _need_rows(run)
    ref = models.resolve(config.model.model)
    base = Base(ref, models.check_access(ref), models.load_format(ref), models.weights_digest(ref))
    device = models.decide_device(config.model)
    precision = models.decide_precision(config.model, device, base.facts)
    console.note(
        f"{base.facts.family} {ref.name}; {precision} ({precision.reason}) on {device} ({device.reason})"
    )
    data = _tokenised(config, base.fmt, run, console)
    identity = _identity(config, run, base, str(device))
    found = _resumable(run, identity, console)
    if found is not None:
        decided = Decisions(**found.state["decisions"])
    else:
        decided = decide(
            config.train,
            device=str(device),
            precision=str(precision),
            parameters=base.facts.parameters,
            steps=data.plan.steps,
            steps_per_epoch=data.plan.steps_per_epoch,
            longest=int(data.train.lengths.max()),
            console=console,
        )
    with quiet_libraries(), _memory_faults():
        model = _model(config, base, decided)
        size = sum(p.numel() for p in trainable(model).values())
        disk = need_disk(run.root, trainable=size)
        path, start = _choose_path(model, data, base, decided, console)
        decided = replace(decided, path=path.name)
        console.note(
            f"{size:,} trainable parameters; loss {start:.3f} on a slice before training; "
            f"up to {disk / 2**20:,.0f} MiB on the disk"
        )
        journal, decided = _fit(config, run, console, model, data, decided, identity, found)
        say_how_it_went(journal, data, console)
        result = result_of(journal, base, data, decided, size, console.warnings[warned:])
        card = card_files(config, card_facts(config, base, result))
        probe = collate(data.train, [_shortest(data.train, 1)[0]])
        save_verified(model, base.facts.ref, run.adapter, probe, extra=card)
    write_json(run.training, result)
    return result


# ---------------------------------------------------------------------- before


def _need_rows(run: RunDir) -> None:
    if not run.train_rows.is_file() or not run.train_rows.stat().st_size:
        raise DataError(
            "there is no row to train on",
            where=str(run.train_rows),
            remedy="check what was dropped: gemma-lora audit DATA",
        )


def _tokenised(config: Config, fmt: PromptFormat, run: RunDir, console: Console) -> Data:
    limit = config.train.max_length
    train_part, validation = (
        tokenised(
            path,
            fmt,
            max_length=limit,
            keep_answer=config.data.on_long_row == "keep-answer",
            folder=run.tokens,
            console=console,
        )
        for path in (run.train_rows, run.validation_rows)
    )
    dropped = train_part.dropped + validation.dropped
    if dropped:
        console.warn(f"{dropped} rows are longer than {limit} tokens and are left out of training")
    if not len(train_part):
        raise DataError(
            f"none of the {train_part.dropped} training rows fits in {limit} tokens",
            remedy="raise --max-length, or use --on-long-row keep-answer",
        )
    shortened = train_part.shortened + validation.shortened
    console.note(
        f"{len(train_part):,} rows to train on, {len(validation):,} for validation; "
        f"{int(train_part.lengths.sum()):,} tokens an epoch, "
        f"{int(train_part.supervised.sum()):,} of them with loss"
        + (f"; {shortened} questions cut to fit" if shortened else "")
    )
    if not len(validation):
        console.warn(
            "there are no validation rows: no early stopping, the last checkpoint is kept, "
            "and overfitting would not be seen"
        )
    plan = StepPlan(
        len(train_part),
        per_step=config.train.batch * config.train.accumulation,
        epochs=config.train.epochs,
        seed=config.seed,
    )
    return Data(train_part, validation, plan)


def _model(config: Config, base: Base, decided: Decisions) -> PeftModel:
    loaded = models.load_base(base.facts.ref, precision=decided.precision, device=decided.device)
    model = models.attach_lora(loaded, config.lora, config.seed)
    causal = causal_model(model)
    causal.config.use_cache = False
    if decided.gradient_checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _choose_path(
    model: PeftModel, data: Data, base: Base, decided: Decisions, console: Console
) -> tuple[Path, float]:
    """The fastest way of computing that gives the plain forward's loss, and that loss a token."""
    device = torch.device(decided.device)
    short = _shortest(data.train, 3)
    packs = family_of(base.facts.model_type, where=base.ref.name).packs
    return choose(
        model,
        [PATHS[decided.path]] if decided.path else candidates(model, decided.device, packs=packs),
        collate(data.train, short).to(device),
        collate(data.train, short[:1]).to(device),
        autocast=trainers.autocast_for(decided.precision, device),
        tolerance=_TOLERANCE[decided.precision],
        console=console,
    )


def _shortest(rows: Tokenised, count: int) -> list[int]:
    """The shortest rows with loss: the check that they are for needs little memory."""
    order = np.argsort(rows.lengths, kind="stable")
    return [int(row) for row in order if rows.supervised[row]][:count]


# ---------------------------------------------------------------------- training


def _fit(
    config: Config,
    run: RunDir,
    console: Console,
    model: PeftModel,
    data: Data,
    decided: Decisions,
    identity: dict[str, str],
    found: Checkpoint | None,
) -> tuple[Journal, Decisions]:
    """Train to the end or on from a checkpoint, and leave the chosen weights in `model`."""
    cut_metrics(run.metrics, keep_to=_written(found))
    everything = range(len(data.validation))
    path = PATHS[decided.path]
    using = path.active(
        model, dropout=config.lora.dropout, seed=config.seed, shared=config.lora.shared_dropout
    )
    with Interrupts(console) as interrupts, using as (masks, left):
        if left:
            console.note(
                f"{len(left)} adapter layers are computed by PEFT's own code: {left[0]}, ..."
            )
        trainer = trainers.StepTrainer(
            model,
            trainers.training_arguments(config, decided, run.checkpoints),
            plan=data.plan,
            rows=data.train,
            masks=masks,
            validation=batches(data.validation, everything, decided.micro_batch_tokens),
            decided=decided,
            patience=config.train.patience,
            folder=run.checkpoints,
            identity=identity,
            interrupts=interrupts,
            console=console,
            progress=lambda step: Progress(
                console, run.metrics, steps=data.plan.steps, start_step=step
            ),
            resume=found,
        )
        trainer.train()
    interrupts.raise_pending()
    journal = trainer.journal
    chosen = journal.best_step if journal.best_step is not None else journal.step
    if chosen != journal.step:
        best = checkpoints.at_step(run.checkpoints, chosen)
        if best is None:
            raise EnvironmentFault(
                f"the best checkpoint (step {chosen}) is gone or damaged",
                where=str(run.checkpoints),
                remedy="delete the checkpoints folder and run again",
            )
        load_weights(model, best)
    return journal, trainer.decided


def _resumable(run: RunDir, identity: dict[str, str], console: Console) -> Checkpoint | None:
    """The newest whole checkpoint of the same inputs; those of other inputs are removed."""
    found = checkpoints.newest(run.checkpoints, console)
    if found is None:
        checkpoints.clear(run.checkpoints)
        return None
    saved: dict[str, str] = found.state["identity"]
    changed = [key for key in identity if saved.get(key) != identity[key]]
    if changed:
        console.note(f"training starts over: {', '.join(changed)} changed since the checkpoints")
        checkpoints.clear(run.checkpoints)
        return None
    console.note(f"going on from the checkpoint of step {found.step}")
    return found


def _written(found: Checkpoint | None) -> int:
    """The last step whose metrics line is final: one without its validation is written anew."""
    if found is None:
        return -1
    return found.step if found.state["journal"]["written"] else found.step - 1


def _identity(config: Config, run: RunDir, base: Base, device: str) -> dict[str, str]:
    """What must be the same for a checkpoint to be gone on from."""
    recipe = config.train.model_dump(mode="json", exclude={"report_to"})
    return {
        "adapter settings": digest(config.lora.model_dump(mode="json")),
        "recipe": digest(recipe, config.data.on_long_row),
        "device": device,
        "precision asked for": config.model.precision,
        "base model": base.weights,
        "template": base.fmt.template_hash,
        "seed": str(config.seed),
        "training rows": file_digest(run.train_rows),
        "validation rows": file_digest(run.validation_rows)
        if run.validation_rows.exists()
        else "none",
    }


# ---------------------------------------------------------------------- surroundings


@contextmanager
def _memory_faults() -> Generator[None]:
    """Out of memory as an expected fault, with what helps."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if not trainers.out_of_memory(error):
            raise
        raise EnvironmentFault(
            f"the memory does not suffice: {text.splitlines()[0] if text else 'out of memory'}",
            remedy="use a lower --micro-batch-tokens, --gradient-checkpointing, or a lower "
            "--max-length; run the same command again with them",
        ) from error


@contextmanager
def quiet_libraries() -> Generator[None]:
    """No bars and chatter of the libraries on our progress line; errors come as exceptions."""
    level, bars = transformers_logging.get_verbosity(), datasets.are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate)(\..*)?")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
