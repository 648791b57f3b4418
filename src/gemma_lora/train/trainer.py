"""The one subclass of `transformers.Trainer`: our loss, batches and checkpoints in its loop.

The Trainer keeps what it is good at: optimiser, schedule, clipping, gradient scaling, trackers. It
sees the whole training as one epoch whose every batch is a complete optimiser step (`plan.Step`),
so accumulation, normalisation and the data position are ours: the gradient of a step is that of
(summed loss of its supervised tokens) / (their number), however it is cut into micro-batches, and a
resumed run starts at step k of the plan. A step that runs out of memory is repeated in smaller parts. Its own tqdm, prints, evaluation and checkpoints are off.
"""

from __future__ import annotations

import gc
import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.tokens import Tokenised
from gemma_lora.errors import EnvironmentFault, ModelError
from gemma_lora.model.memory import return_freed_blocks
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train.checkpoint import Checkpoint
from gemma_lora.train.decisions import Decisions
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.loss import Autocast, mean_nll, nll_sum
from gemma_lora.train.masks import Masks
from gemma_lora.train.packing import batches
from gemma_lora.train.plan import Step, StepPlan
from gemma_lora.train.processes import ALONE, World, flat_gradients, put_gradients
from gemma_lora.train.products import Buffers
from gemma_lora.train.progress import Progress, peak_memory_mib
from gemma_lora.train.sharding import WHOLE, Weights
from gemma_lora.train.shortage import out_of_memory
from gemma_lora.train.state import (
    Journal,
    load_moments,
    load_weights,
    moments_of,
    random_states,
    seed_all,
    seed_torch,
    set_random_states,
    trainable,
    untouched,
)

__all__ = ["StepTrainer", "autocast_for", "out_of_memory", "training_arguments"]

_MOST_SKIPPED = 25
"""Steps in a row that fp16's scaler may skip (it halves the scale each time) before we stop."""


class _Abandoned(Exception):
    """A validation was cut short by a signal; it is made up for on resumption."""


def autocast_for(precision: str, device: torch.device) -> Autocast:
    """fp32 adapter weights compute in the frozen weights' format, on every device alike."""
    if precision == "fp32":
        return nullcontext
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return lambda: torch.autocast(device.type, dtype=kind)


def training_arguments(
    config: Config, decided: Decisions, folder: Path, *, tracked: bool = True
) -> TrainingArguments:
    """`folder` is where the Trainer and its trackers may write; its parent names the run.

    `tracked`: whether this process reports to trackers.
    """
    train = config.train
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=folder.parent.name,
        use_cpu=decided.device == "cpu",
        seed=config.training_seed,
        max_steps=decided.steps,  # also where no step is left and the loader is empty
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=decided.learning_rate,
        lr_scheduler_type=train.schedule
        if train.schedule != "constant"
        else "constant_with_warmup",
        warmup_steps=decided.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        fp16=decided.precision == "fp16",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=(list(train.report_to) if tracked else []) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # pyright: ignore[reportPrivateUsage] - the Trainer would wrap the model in DataParallel without a word
    return arguments


class StepTrainer(Trainer):
    """Trains over a `StepPlan`, from the start or from a `Checkpoint`."""

    def __init__(
        self,
        model: PeftModel,
        arguments: TrainingArguments,
        *,
        plan: StepPlan,
        rows: Tokenised,
        masks: Masks | None,
        buffers: Buffers,
        validation: Tokenised,
        decided: Decisions,
        patience: int,
        folder: Path,
        identity: dict[str, str],
        interrupts: Interrupts,
        console: Console,
        progress: Callable[[int], Progress],
        resume: Checkpoint | None,
        world: World = ALONE,
        weights: Weights = WHOLE,
    ) -> None:
        super().__init__(model=model, args=arguments)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.journal = Journal(**resume.state["journal"]) if resume else Journal()
        self._peft, self._plan, self._validation = model, plan, validation
        self._rows, self._masks, self._buffers = rows, masks, buffers
        self.decided, self._patience, self._folder = decided, patience, folder
        self._identity, self._interrupts, self._resume = identity, interrupts, resume
        self._console, self._world, self._weights = console, world, weights
        self._agreed_stop = 0
        self._progress = progress(self.journal.step)
        self._seconds_before = self.journal.seconds
        self._autocast = autocast_for(decided.precision, arguments.device)
        self._skipped_in_a_row = 0
        self._step_loss = math.nan
        self._step_tokens = (0, 0)
        self._clock = 0.0

    # ------------------------------------------------------------------ where the Trainer asks

    def get_train_dataloader(self) -> DataLoader[Step]:
        """The steps that are left. Its own generator: making an iterator draws a random number."""
        return DataLoader(
            self._plan,
            batch_size=None,
            sampler=range(self.journal.step, self._plan.steps),
            collate_fn=_as_is,
            generator=torch.Generator(),
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        return super().create_scheduler(self._plan.steps, optimizer)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        return [next(epoch_iterator)], 1

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """The last thing before the loop: all state is made, so now it can be restored."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        # with fp16, accelerate gives the model a forward in autocast for good; autocast is ours, and the
        # saved adapter is compared with this model
        for name in ("forward", "_original_forward"):
            self._peft.__dict__.pop(name, None)
        seed_all(self.args.seed)
        if self._resume is not None:
            self._restore(self._resume)
        self.state.global_step = self.journal.step
        self.state.max_steps = self._plan.steps
        if self._validation and not self.journal.validated and self._due(self.journal.step):
            self._validate()
            if self.journal.step:
                self._write_checkpoint()
        self._clock = self._progress.seconds
        return prepared

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The whole training is one epoch; there may be nothing left of it."""
        journal = self.journal
        done = journal.stopped_early or journal.step >= self._plan.steps
        self._agree()
        if done or self._stopping:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one whole optimiser step; returns its loss a supervised token."""
        step = cast(Step, inputs)
        model.train()
        try:
            loss = self._try(step)
            while loss is None:  # the memory did not suffice: the same step in smaller parts
                longest = max(int(self._rows.lengths[row]) for row in step.rows)
                self._halve(longest, f"step {step.number + 1}")
                loss = self._try(step)
        except Exception:  # whatever ends the job: nothing is swallowed, the last step is saved
            self._save_before_failing()
            raise
        if not math.isfinite(loss):
            raise self._diverged("the loss", loss)
        self._step_loss = loss
        self._step_tokens = self._rows.tokens(step.rows)
        return torch.tensor(loss, device=self.args.device)

    def _try(self, step: Step) -> float | None:
        """Gradients and loss of `step`, all processes' shares together; None where memory ran out."""
        weights = list(trainable(self._peft).values())
        line = torch.empty(0)
        try:
            loss, memory_fault = self._share_of(step), False
            if self._world.size > 1:
                line = flat_gradients(weights)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            loss, memory_fault = 0.0, True
        self._weights.catch_up()
        losses, memory_faults = self._agree(loss, memory_fault)
        if any(memory_faults):
            self._peft.zero_grad(set_to_none=True)
            return None
        if self._world.size > 1:
            self._world.add(line)
            put_gradients(weights, line)
        return sum(losses)

    def _share_of(self, step: Step) -> float:
        """This process's part of the step's gradients; returns its part of the loss."""
        parts: list[Tensor] = []
        supervised = self._rows.tokens(step.rows)[1]
        micro = batches(self._rows, step.rows, self.decided.micro_batch_tokens)
        mine, fillers = [*self._world.mine(micro)], self._weights.fillers(micro)
        with self._weights.passes(len(mine) + len(fillers)):
            for number, batch in mine:
                # every random number of a forward pass follows from where it is, not from what ran before
                seed_torch(self.args.seed, step.number, number)
                if self._masks is not None:
                    self._masks.at(step.number, number)
                with self._autocast():
                    part = nll_sum(self._peft, batch.to(self.args.device)) / supervised
                self.accelerator.backward(part)
                parts.append(part.detach())
            for batch in fillers:  # no row counts twice
                with self._autocast():
                    part = nll_sum(self._peft, batch.to(self.args.device)) * 0
                self.accelerator.backward(part)
        if not parts and self.accelerator.scaler is not None:  # it must know its scale to unscale
            self.accelerator.scaler.scale(torch.zeros((), device=self.args.device))
        # on the CPU: MPS has no fp64
        return float(torch.stack(parts).cpu().double().sum()) if parts else 0.0

    @property
    def _stopping(self) -> bool:
        """Whether a signal ends the training at this step boundary, in every process alike."""
        if self._world.size == 1:
            return self._interrupts.pending is not None
        return self._agreed_stop != 0

    def _agree(self, *numbers: float) -> list[list[float]]:
        """Each of the numbers of every process, and on the way: whether one was told to stop."""
        try:
            every = self._world.gather(float(self._interrupts.pending or 0), *numbers)
        except EnvironmentFault:
            self._save_before_failing()
            raise
        signals, *rest = ([row[n] for row in every] for n in range(1 + len(numbers)))
        if self._world.size > 1 and not self._agreed_stop:
            self._agreed_stop = int(next(filter(None, signals), 0))
            if self._agreed_stop:
                self._interrupts.take(self._agreed_stop)
        return rest

    def _save_before_failing(self) -> None:
        """The last whole step is saved when something ends the job."""
        step = self.journal.step
        if step and not checkpoints.folder_of(self._folder, step).exists():
            try:
                self._write_checkpoint()
            except EnvironmentFault as fault:  # beside what ends the job, which is to be seen
                self._console.warn(f"step {step} could not be saved: {fault.found}")

    def _halve(self, longest: int, what: str) -> None:
        """Half the tokens at once from here on; EnvironmentFault where that is no longer possible.

        `longest`: tokens of the longest row of `what`, which is to be repeated.
        """
        self._buffers.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.args.device.type == "mps":
            torch.mps.empty_cache()
        before = self.decided.micro_batch_tokens
        if before <= longest:
            again = "run the same command again with --gradient-checkpointing to go on; else "
            raise EnvironmentFault(
                f"the memory does not suffice for one row of {longest} tokens",
                where=f"{what} of {self._plan.steps}",
                remedy=("" if self.decided.gradient_checkpointing else again)
                + "use a lower --max-length or a smaller model, in another folder",
            )
        after = max(before // 2, 16)
        self.decided = replace(self.decided, micro_batch_tokens=after)
        self._console.warn(
            f"out of memory with {before} tokens at once: {what} is repeated with {after}"
        )

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Tensor | float | None,
        model: torch.nn.Module,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        """Called after every step (and once more at the end, when there is nothing new)."""
        if self.state.global_step == self.journal.step:
            return
        self._record(float(grad_norm) if grad_norm is not None else math.nan, learning_rate or 0.0)
        due = self._due(self.journal.step)
        if not self._stopping and due:
            self._validate()
        if not due or not self._validation:
            self._progress.write(self.journal.line)
            self.journal.written = True
        stopping = self._stopping  # once: a signal between saving and stopping would stop unsaved
        if due or stopping:
            self._write_checkpoint()
        if stopping or self.journal.stopped_early:
            self.control.should_training_stop = True
        self._clock = self._progress.seconds

    # ------------------------------------------------------------------ after a step

    def _due(self, step: int) -> bool:
        """Whether `step` is validated and saved: step 0, every so many, and the last."""
        return step % self.decided.eval_steps == 0 or step == self._plan.steps

    def _record(self, grad_norm: float, learning_rate: float) -> None:
        """Enter the step just made into the journal; stop where it went wrong."""
        journal = self.journal
        journal.step = self.state.global_step
        self._watch_overflow(grad_norm)
        elapsed = self._progress.seconds - self._clock
        tokens, supervised = self._step_tokens
        journal.tokens += tokens
        journal.supervised += supervised
        journal.last_loss = self._step_loss
        if journal.first_loss is None:
            journal.first_loss = self._step_loss
        journal.seconds = self._seconds_before + self._progress.seconds
        self.state.epoch = self._plan.epoch_after(journal.step)
        journal.written = False
        journal.line = {
            "step": journal.step,
            "epoch": self.state.epoch,
            "loss": self._step_loss,
            "validation_loss": None,
            "lr": learning_rate,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens_per_second": tokens / elapsed if elapsed > 0 else None,
            "memory": peak_memory_mib(self.args.device),
        }
        if self.args.report_to:
            shown = ("loss", "grad_norm", "tokens_per_second")
            logs = {k: journal.line[k] for k in shown if journal.line[k] is not None}
            self.log({**logs, "learning_rate": learning_rate})

    def _watch_overflow(self, grad_norm: float) -> None:
        if self.accelerator.optimizer_step_was_skipped:
            self.journal.skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= _MOST_SKIPPED:
                raise self._diverged("the gradient", grad_norm)
            return
        self._skipped_in_a_row = 0
        if not math.isfinite(grad_norm):
            raise self._diverged("the gradient", grad_norm)

    def _validate(self) -> None:
        """Validation loss of the current weights into journal and metrics."""
        journal = self.journal
        if not self._validation:
            return
        try:
            found = self._validation_loss()
            while found is None:  # the memory did not suffice: all of it again in smaller parts
                longest = int(self._validation.lengths.max())
                self._halve(longest, f"the validation after step {journal.step}")
                found = self._validation_loss()
        except _Abandoned:
            return
        except Exception:  # the step is whole: it is saved, and validated on resumption
            self._save_before_failing()
            raise
        loss, weights = found
        self._need_same(weights)  # not saved where they are not
        if not math.isfinite(loss):
            raise self._diverged("the validation loss", loss)
        journal.validations.append({"step": journal.step, "loss": loss})
        if not untouched(self._peft):  # as it is before training, and after a step of rate zero
            journal.candidates += 1
            journal.since_best += 1
            if journal.best_loss is None or loss < journal.best_loss:
                journal.best_step, journal.best_loss, journal.since_best = journal.step, loss, 0
            journal.stopped_early = 0 < self._patience <= journal.since_best
        line = journal.line or {
            "step": 0,
            "epoch": 0.0,
            **dict.fromkeys(("loss", "validation_loss", "lr", "grad_norm", "tokens_per_second")),
            "memory": peak_memory_mib(self.args.device),
        }
        self._progress.write({**line, "validation_loss": loss})
        journal.written = True
        if self.args.report_to:
            self.log({"eval_loss": loss})  # trackers group by this prefix

    def _validation_loss(self) -> tuple[float, list[float]] | None:
        """The mean of all processes' parts, and each one's checksum of the weights; None where memory
        ran out in one of them.

        `_Abandoned`, in all processes, where a signal came. With sharded weights a lack of memory is
        raised: the others are inside a gather that this process cannot make up for.
        """
        epoch = self._plan.epoch_after(self.journal.step)

        def look(done: int) -> None:
            if self._weights.anywhere(self._interrupts.pending is not None):
                raise _Abandoned
            self._progress.draw(self.journal.step, epoch, f"validating {done}/{len(mine)}")

        rows = self._validation  # packed anew each time: the budget may have been halved
        made = batches(rows, range(len(rows)), self.decided.micro_batch_tokens)
        mine = [batch for _, batch in self._world.mine(made)]
        count = sum(batch.supervised for batch in mine)
        mean, whole, lacking = 0.0, True, False
        measured = partial(
            mean_nll, self._peft, device=self.args.device, autocast=self._autocast, on_batch=look
        )
        try:
            if mine:
                mean = measured(mine)
            if fillers := self._weights.fillers(made):
                measured(fillers)
        except _Abandoned:
            whole = False
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if self._weights.sharded or not out_of_memory(error):
                raise
            lacking = True
        means, counts, wholes, lacks, weights = self._agree(
            mean, count, whole, lacking, self._weights_print()
        )
        if any(lacks):
            return None
        if not all(wholes):
            raise _Abandoned
        if self._world.size == 1:
            return mean, weights
        parts = (part * number for part, number in zip(means, counts, strict=True))
        return sum(parts) / sum(counts), weights

    # ------------------------------------------------------------------ state to disk and back

    def _write_checkpoint(self) -> None:
        if not self._world.leads:
            return
        self.journal.seconds = self._seconds_before + self._progress.seconds
        return_freed_blocks()  # a step's, in which the files below find no room
        scaler = self.accelerator.scaler
        schedule: Any = self.lr_scheduler
        state = {
            "identity": self._identity,
            "decisions": asdict(self.decided),
            "journal": vars(self.journal),
            "scheduler": {
                key: value
                for key, value in schedule.state_dict().items()
                if key in ("last_epoch", "_step_count", "_last_lr", "base_lrs")
            },
            "scaler": scaler.state_dict() if scaler is not None else None,
            "python_random": _plain(random.getstate()),
        }
        checkpoints.save(
            self._folder,
            self.journal.step,
            {
                "weights": trainable(self._peft),
                "optimizer": moments_of(_optimizer_of(self)),
                "rng": random_states(),
            },
            state,
        )
        checkpoints.prune(self._folder, best=self.journal.best_step)

    def _weights_print(self) -> float:
        """A checksum of the adapter's weights, where there are others to compare it with."""
        if self._world.size == 1:
            return 0.0
        sums = 0
        for weight in trainable(self._peft).values():
            sums = zlib.crc32(weight.detach().cpu().contiguous().numpy().data, sums)
        return float(sums)

    def _need_same(self, prints: Sequence[float]) -> None:
        if len(set(prints)) > 1:
            raise EnvironmentFault(
                "the processes no longer have the same weights",
                where=f"step {self.journal.step} of {self._plan.steps}",
                details=[f"process {rank}: checksum {int(x):08x}" for rank, x in enumerate(prints)],
                remedy="use GPUs of one kind in all processes, or one process",
            )

    def _restore(self, found: Checkpoint) -> None:
        load_weights(self._peft, found)
        load_moments(_optimizer_of(self), found)
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict({**schedule.state_dict(), **found.state["scheduler"]})
        if self.accelerator.scaler is not None and found.state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(found.state["scaler"])
        version, numbers, gauss = found.state["python_random"]
        random.setstate((version, tuple(numbers), gauss))
        set_random_states(found.tensors("rng"))

    def _diverged(self, what: str, value: float) -> ModelError:
        step, rate = self.state.global_step, self.decided.learning_rate
        remedies = []
        if self.decided.precision == "fp16":
            remedies.append("--precision fp32 (fp16 cannot hold this model's activations)")
        remedies.append(f"a lower --learning-rate than {rate:g}")
        return ModelError(
            f"{what} became {value} at step {step + 1} of {self._plan.steps}",
            expected="a finite number",
            remedy=" or ".join(remedies)
            + "; nothing of this step was saved, earlier checkpoints stand",
        )


def _optimizer_of(trainer: StepTrainer) -> torch.optim.Optimizer:
    return cast(torch.optim.Optimizer, trainer.optimizer)


def _as_is(step: Any) -> Any:
    return step


def _plain(state: tuple[Any, ...]) -> list[Any]:
    version, numbers, gauss = state
    return [version, list(numbers), gauss]
