"""The training stage: split rows in, adapter folder and training.json out.

Reads split/train.jsonl and split/validation.jsonl and the base model; writes checkpoints/,
metrics.jsonl, adapter/ and training.json. Called again with the same inputs after an interruption
of any kind it goes on from the newest whole checkpoint; with other inputs it starts over and says
so. Refuses: nothing to train on, too little disk, unknown trackers, processes that see other files
or devices than the first, a training path that does not give the model's own loss.
"""

from __future__ import annotations

import io
import pathlib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from gemma_lora.launcher import launch, shards
from gemma_lora.model.budget import Budget
from gemma_lora.model.families import family_of
from gemma_lora.model.fitting import plan_training
from gemma_lora.model.memory import map_large_blocks, return_freed_blocks, reuse_freed_blocks
from gemma_lora.prompt import PromptFormat
from gemma_lora.rundir import RunDir, digest, file_digest, write_json
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train import trainer as trainers
from gemma_lora.train.adapter import save_verified, take_part
from gemma_lora.train.card import card_files
from gemma_lora.train.checkpoint import Checkpoint
from gemma_lora.train.decisions import Decisions, decide, need_disk, need_trackers, tell_of_gpus
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.loss import causal_model
from gemma_lora.train.outcome import Base, Data, card_facts, result_of, say_how_it_went
from gemma_lora.train.packing import Batch, collate
from gemma_lora.train.path import PATHS, Path, candidates, choose
from gemma_lora.train.plan import StepPlan
from gemma_lora.train.processes import World, following, led
from gemma_lora.train.progress import Progress, cut_metrics
from gemma_lora.train.resuming import ASKED, resumable
from gemma_lora.train.sharding import WHOLE, Weights, frozen_bytes, shard
from gemma_lora.train.state import Journal, load_weights, trainable

__all__ = ["follow", "train"]

_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3, "fp16": 5e-3}
"""Largest relative difference between the training path's loss and the plain forward's, over 64 tokens.
In bf16 1e-7 to 1e-3 was measured on a CPU; a logit of 20 is rounded by up to 0.06 there, token by token.
Rows that see each other change the loss by less than that: path.py sees them without a tolerance."""


@dataclass(frozen=True)
class _Job:
    """All that is settled before the model is loaded."""

    config: Config
    run: RunDir
    base: Base
    data: Data
    decided: Decisions
    identity: dict[str, str]
    found: Checkpoint | None
    """Where to go on from."""
    sharded: bool
    """Whether each process holds a part of the frozen weights."""


def train(config: Config, run: RunDir, console: Console) -> dict[str, Any]:
    """Train the adapter of `run`; returns the content of training.json.

    Under a launcher this is for the first process only; it calls the others (`follow`).
    DataError: no row to train on. ModelError: the base model, the targets, or a loss that is not
    finite. EnvironmentFault: disk, memory, another process is gone. ConfigError: trackers.
    KeyboardInterrupt and SystemExit(143) after Ctrl-C and SIGTERM, with a checkpoint saved.
    """
    warned = len(console.warnings)
    job = _prepared(config, run, console)
    call = {
        "config": config.model_dump(mode="json"),
        "run": str(run.root.absolute()),
        "device": job.decided.device,
        "decided": asdict(job.decided),
        "identity": job.identity,
        "step": job.found.step if job.found is not None else None,
        "journal": job.found.state["journal"] if job.found is not None else None,
        "sharded": job.sharded,
    }
    with quiet_libraries(), _memory_faults(), led(call, job.decided.device) as world:
        trained = _trained(job, world, console)
        result = _finished(job, trained, world, warned, console)
    write_json(run.training, result)
    return result


def follow() -> None:
    """What every process of a launch but the first does: wait to be called, and train its share.

    Prints and writes nothing. Raises as `train`, and EnvironmentFault where this process sees other
    files or another device than the first.
    """
    console = Console(quiet=True, stream=io.StringIO())
    with quiet_libraries(), _memory_faults(), following() as called:
        if called is None:
            return
        world, call = called
        config = Config.model_validate(call["config"])
        run = RunDir(pathlib.Path(call["run"]))
        _need_same(run.train_rows.is_file(), "the run folder", world)
        base, device = _base(config)
        _need_same(str(device) == call["device"], f"the device ({device})", world)
        data = _tokenised(config, base.fmt, run, console)
        identity = _identity(config, run, base, str(device))
        for name, value in call["identity"].items():
            _need_same(identity[name] == value, name, world)
        step = call["step"]
        found = checkpoints.at_step(run.checkpoints, step) if step is not None else None
        _need_same(step is None or found is not None, f"the checkpoint of step {step}", world)
        if found is not None:  # where the leader went back to another best
            found = replace(found, state={**found.state, "journal": call["journal"]})
        decided, sharded = Decisions(**call["decided"]), call["sharded"]
        job = _Job(config, run, base, data, decided, identity, found, sharded)
        trained = _trained(job, world, console)
        if sharded:  # the leader proves the adapter, and needs all parts for it
            take_part(trained.model, _probe(data))


def _need_same(same: bool, what: str, world: World) -> None:
    if not same:
        raise EnvironmentFault(
            f"{what}: not what process 0 has",
            where=f"process {world.rank} of {world.size}",
            remedy="one GPU for each process (--nproc-per-node), and on several machines a run folder, "
            "model and packages that all of them share",
        )


def _prepared(config: Config, run: RunDir, console: Console) -> _Job:
    need_trackers(config.train.report_to)
    processes = launch().size
    tell_of_gpus(console, gpus=torch.cuda.device_count(), processes=processes)
    _need_rows(run)
    base, device = _base(config)
    if device == "mps" and processes > 1:
        raise EnvironmentFault(
            f"{processes} processes would share one Apple GPU",
            expected="one process",
            remedy="start gemma-lora without a launcher",
        )
    sharded = shards(config.train.shard_weights)
    data = _tokenised(config, base.fmt, run, console)
    identity = _identity(config, run, base, str(device))
    found = resumable(run, identity, data.plan.steps, console)
    on = f"on {device} ({device.reason})"
    if found is not None:
        chosen = _as_before(config, base, data, found, str(device), sharded)
        console.note(f"{base.facts.family} {base.ref.name}; {chosen} ({chosen.reason}) {on}")
        decided = _asked_anew(config, base, data, found, identity, sharded, console)
    else:
        chosen, budget = _planned(config, base, data, str(device), sharded)
        console.note(f"{base.facts.family} {base.ref.name}; {chosen} ({chosen.reason}) {on}")
        decided = decide(
            config.train,
            device=str(device),
            precision=str(chosen),
            parameters=base.facts.parameters,
            steps=data.plan.steps,
            steps_per_epoch=data.plan.steps_per_epoch,
            budget=budget,
            console=console,
        )
    return _Job(config, run, base, data, decided, identity, found, sharded)


def _as_before(
    config: Config, base: Base, data: Data, found: Checkpoint, device: str, sharded: bool
) -> models.Choice:
    """The checkpoint's precision, and why it is not another one."""
    saved = Decisions(**found.state["decisions"]).precision
    try:
        fresh, _ = _planned(config, base, data, device, sharded)
    except EnvironmentFault as fault:  # what is gone on with may still do: less was free then
        return models.Choice(saved, f"as in the checkpoint; a new training: {fault.found}")
    if fresh == saved:
        return fresh
    reason = f"as in the checkpoint; a new training would take {fresh}: {fresh.reason}"
    return models.Choice(saved, reason)


def _asked_anew(
    config: Config,
    base: Base,
    data: Data,
    found: Checkpoint,
    identity: dict[str, str],
    sharded: bool,
    console: Console,
) -> Decisions:
    """The checkpoint's decisions, but for what the user set otherwise since it was written.

    A value that was set before and halved on the way stays halved: only another one is obeyed.
    """
    saved = Decisions(**found.state["decisions"])
    other = {
        name: getattr(config.train, field)
        for name, field in ASKED.items()
        if found.state["identity"].get(name) != identity[name]
        and getattr(config.train, field) is not None
    }
    if not other:
        return saved
    settings = {field: other.get(name, getattr(saved, field)) for name, field in ASKED.items()}
    for name, value in other.items():
        console.note(
            f"{name} {_shown(value)} from here on, as asked for now; "
            f"before it was {_shown(getattr(saved, ASKED[name]))}"
        )
    wanted = config.model_copy(update={"train": config.train.model_copy(update=settings)})
    _, budget = _planned(wanted, base, data, saved.device, sharded, precision=saved.precision)
    console.note(budget.line)
    if budget.warning is not None:
        console.warn(budget.warning)
    return replace(saved, predicted_bytes=budget.forecast.total, **settings)


def _shown(value: bool | int) -> str:
    return str(value) if not isinstance(value, bool) else "on" if value else "off"


@dataclass(frozen=True)
class _Trained:
    model: PeftModel
    weights: Weights
    journal: Journal
    decided: Decisions


def _trained(job: _Job, world: World, console: Console) -> _Trained:
    """What all processes do together. The chosen adapter is in the leader's model."""
    return_freed_blocks()
    if job.sharded:
        map_large_blocks()
    model, weights = _model(job, world, console)
    size = sum(p.numel() for p in trainable(model).values())
    disk = need_disk(job.run.root, trainable=size)
    path, start = None, 0.0
    if world.leads:
        job.run.checkpoints.mkdir(parents=True, exist_ok=True)  # else every Trainer would
    if world.leads or job.sharded:  # together, where each pass needs all processes
        path, start = _choose_path(model, job, world, weights, console)
    decided = replace(job.decided, path=world.share(path.name if path is not None else ""))
    if not PATHS[decided.path].packs:
        decided = replace(decided, micro_batch_tokens=1)  # each row alone
    job = replace(job, decided=decided)
    if path is None:  # proven here too, on this process's device
        _choose_path(model, job, world, weights, console)
    return_freed_blocks()  # those of the check are smaller than training's, which has no use for them
    if decided.gradient_checkpointing:  # asked for, or taken, because memory is short
        map_large_blocks()
    elif not job.sharded:
        reuse_freed_blocks()
    console.note(
        f"{size:,} trainable parameters; loss {start:.3f} on a slice before training; "
        f"up to {disk / 2**20:,.0f} MiB on the disk"
    )
    return _Trained(model, weights, *_fit(job, world, console, model, weights))


def _finished(
    job: _Job, trained: _Trained, world: World, warned: int, console: Console
) -> dict[str, Any]:
    """The adapter to disk, and the content of training.json."""
    say_how_it_went(trained.journal, job.data, console)
    size = sum(p.numel() for p in trainable(trained.model).values())
    result = result_of(
        trained.journal, job.base, job.data, trained.decided, size, console.warnings[warned:]
    )
    result["processes"] = world.size
    result["held_weight_bytes"] = trained.weights.held
    card = card_files(job.config, card_facts(job.config, job.base, result))
    ref, probe = job.base.facts.ref, _probe(job.data)
    save_verified(trained.model, ref, job.run.adapter, probe, extra=card)
    return result


def _probe(data: Data) -> Batch:
    """The row with which the saved adapter is proven."""
    return collate(data.train, _shortest(data.train, 1))


# ---------------------------------------------------------------------- before


def _need_rows(run: RunDir) -> None:
    if not run.train_rows.is_file() or not run.train_rows.stat().st_size:
        raise DataError(
            "there is no row to train on",
            where=str(run.train_rows),
            remedy="check what was dropped: gemma-lora audit DATA",
        )


def _base(config: Config) -> tuple[Base, models.Choice]:
    """The base model's facts, and the device to train it on; precisions that it does not stand are refused."""
    ref = models.resolve(config.model.model)
    base = Base(ref, models.check_access(ref), models.load_format(ref), models.weights_digest(ref))
    device = models.decide_device(config.model)
    models.decide_precision(config.model, device, base.facts)
    return base, device


def _planned(
    config: Config,
    base: Base,
    data: Data,
    device: str,
    sharded: bool,
    *,
    precision: str | None = None,
) -> tuple[models.Choice, Budget]:
    """Precision (or the one that is settled), tokens at once and checkpointing that fit this process."""
    return plan_training(
        config,
        base.facts,
        data.train.lengths,
        data.train.supervised,
        device=device,
        processes=launch().size,
        sharded=sharded,
        precision=precision,
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
        seed=config.training_seed,
    )
    return Data(train_part, validation, plan)


def _model(job: _Job, world: World, console: Console) -> tuple[PeftModel, Weights]:
    """The base model with a fresh adapter, on the device of this process."""
    decided = job.decided
    if job.sharded:
        model, weights = _sharded_model(job, world, console)
    else:
        model, weights = _loaded(job, decided.device), WHOLE
    causal = causal_model(model)
    causal.config.use_cache = False
    if decided.gradient_checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    return model, weights


def _loaded(job: _Job, device: str) -> PeftModel:
    ref, precision = job.base.facts.ref, job.decided.precision
    loaded = models.load_base(ref, precision=precision, device=device)
    return models.attach_lora(loaded, job.config.lora, job.config.training_seed)


def _sharded_model(job: _Job, world: World, console: Console) -> tuple[PeftModel, Weights]:
    """Loaded on the CPU, one process of a machine after the other: one whole model at a time."""
    made: list[tuple[PeftModel, Weights]] = []
    for turn in range(world.size):
        if turn == world.local_rank:
            model = _loaded(job, "cpu")
            whole = frozen_bytes(model)
            weights = shard(model, world, job.decided.device)
            model.to(torch.device(job.decided.device))
            return_freed_blocks()
            console.note(
                f"frozen weights are sharded: each of {world.size} processes holds "
                f"{frozen_bytes(model) / 2**20:,.1f} MiB of {whole / 2**20:,.1f} MiB"
            )
            made.append((model, weights))
        world.gather(0.0)
    return made[0]


def _choose_path(
    model: PeftModel, job: _Job, world: World, weights: Weights, console: Console
) -> tuple[Path, float]:
    """The fastest way of computing that gives the plain forward's loss, and that loss a token."""
    data, base, decided = job.data, job.base, job.decided
    device = torch.device(decided.device)
    short = _shortest(data.train, 3)
    packs = family_of(base.facts.model_type, where=base.ref.name).packs
    names = [decided.path]
    if not decided.path:
        names = [path.name for path in candidates(model, decided.device, packs=packs)]
    if weights.sharded:
        names = world.share(names)
    return choose(
        model,
        [PATHS[name] for name in names],
        collate(data.train, short).to(device),
        collate(data.train, short[:1]).to(device),
        autocast=trainers.autocast_for(decided.precision, device),
        tolerance=_TOLERANCE[decided.precision],
        console=console,
        longest=max(int(part.lengths.max(initial=0)) for part in (data.train, data.validation)),
        weights=weights,
    )


def _shortest(rows: Tokenised, count: int) -> list[int]:
    """The shortest rows with loss: the check that they are for needs little memory."""
    order = np.argsort(rows.lengths, kind="stable")
    return [int(row) for row in order if rows.supervised[row]][:count]


# ---------------------------------------------------------------------- training


def _fit(
    job: _Job, world: World, console: Console, model: PeftModel, weights: Weights
) -> tuple[Journal, Decisions]:
    """Train to the end or on from a checkpoint, and leave the chosen weights in `model`."""
    config, run, data, decided = job.config, job.run, job.data, job.decided
    if world.leads:
        cut_metrics(run.metrics, keep_to=_written(job.found))
    path = PATHS[decided.path]
    using = path.active(
        model,
        dropout=config.lora.dropout,
        seed=config.training_seed,
        shared=config.lora.shared_dropout,
    )
    with Interrupts(console) as interrupts, using as own:
        if own.left:
            console.note(
                f"{len(own.left)} adapter layers are computed by PEFT's own code: {own.left[0]}, ..."
            )
        trainer = trainers.StepTrainer(
            model,
            trainers.training_arguments(config, decided, run.checkpoints, tracked=world.leads),
            plan=data.plan,
            rows=data.train,
            masks=own.masks,
            buffers=own.buffers,
            validation=data.validation,
            decided=decided,
            patience=config.train.patience,
            folder=run.checkpoints,
            identity=job.identity,
            interrupts=interrupts,
            world=world,
            weights=weights,
            console=console,
            progress=lambda step: Progress(
                console,
                run.metrics if world.leads else None,
                steps=data.plan.steps,
                start_step=step,
            ),
            resume=job.found,
        )
        trainer.train()
    interrupts.raise_pending()
    journal = trainer.journal
    chosen = journal.best_step if journal.best_step is not None else journal.step
    if chosen != journal.step and world.leads:
        best = checkpoints.at_step(run.checkpoints, chosen)
        if best is None:
            raise EnvironmentFault(
                f"the best checkpoint (step {chosen}) is gone or damaged",
                where=str(run.checkpoints),
                remedy="run the same command again: it takes the best one that is whole",
            )
        load_weights(model, best)
    return journal, trainer.decided


def _written(found: Checkpoint | None) -> int:
    """The last step whose metrics line is final: one without its validation is written anew."""
    if found is None:
        return -1
    return found.step if found.state["journal"]["written"] else found.step - 1


def _identity(config: Config, run: RunDir, base: Base, device: str) -> dict[str, str]:
    """What must be the same for a checkpoint to be gone on from."""
    recipe = config.train.model_dump(
        mode="json", exclude={"report_to", "shard_weights", "train_seed", *ASKED.values()}
    )
    asked = {name: getattr(config.train, field) for name, field in ASKED.items()}
    return {
        **{name: "auto" if value is None else str(value) for name, value in asked.items()},
        "adapter settings": digest(config.lora.model_dump(mode="json")),
        "recipe": digest(recipe, config.data.on_long_row),
        "device": device,
        "precision asked for": config.model.precision,
        "base model": base.weights,
        "template": base.fmt.template_hash,
        "tokenizer": base.fmt.tokenizer_hash,
        "seed": str(config.training_seed),
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
            remedy="run the same command again with a lower --micro-batch-tokens or with "
            "--gradient-checkpointing: it goes on from the last checkpoint; or use a lower --max-length, "
            "in another folder",
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
