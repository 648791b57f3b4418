"""Out of memory in a step: the same step again in smaller parts, from there on, and after a restart."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from support.stepping import assert_near, gradients, peft_model, trainer_for
from support.tiny import small_tokenizer
from support.training import (
    example,
    folder_digests,
    in_child,
    kill_self,
    make_config,
    make_run,
    quiet,
    talking,
    text_of,
)
from torch.overrides import TorchFunctionMode

from gemma_lora.data.tokens import tokenise
from gemma_lora.errors import EnvironmentFault
from gemma_lora.prompt import PromptFormat
from gemma_lora.rundir import read_json
from gemma_lora.train import train
from gemma_lora.train import trainer as trainers
from gemma_lora.train.loss import nll_sum
from gemma_lora.train.path import PATHS

LACKS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.fixture(scope="module")
def rows():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    return tokenise([example(n) for n in range(18)], fmt, max_length=200, keep_answer=False)


def small_memory(monkeypatch, most, error=LACKS[1]):
    """Memory for micro-batches of at most `most` tokens; tells what was computed."""
    done = []

    def limited(model, batch):
        if batch.tokens > most:
            raise error
        done.append(batch.lengths)
        return nll_sum(model, batch)

    monkeypatch.setattr(trainers, "nll_sum", limited)
    return done


@pytest.mark.parametrize("error", LACKS, ids=lambda error: type(error).__name__)
def test_the_step_is_repeated_exactly_in_smaller_parts(
    error, tiny_folder, rows, tmp_path, monkeypatch
):
    model = peft_model(tiny_folder("gemma"), dropout=0.2)
    with PATHS["packed"].active(model, dropout=0.2, seed=0, shared=True) as (masks, *_):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=70, masks=masks)
        expected_loss = float(trainer.training_step(model, plan[2]))
        expected = gradients(model)
        console = talking()
        trainer, _ = trainer_for(model, rows, tmp_path, budget=140, masks=masks, console=console)
        done = small_memory(monkeypatch, 70, error)
        loss = float(trainer.training_step(model, plan[2]))
        found = gradients(model)
    assert sorted(n for lengths in done for n in lengths) == sorted(
        rows.lengths[list(plan[2].rows)]
    )
    assert loss == expected_loss
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert console.warnings == ["out of memory with 140 tokens at once: step 3 is repeated with 70"]
    assert trainer.decided.micro_batch_tokens == 70


def test_gradients_of_the_part_that_fitted_are_not_counted_twice(
    tiny_folder, rows, tmp_path, monkeypatch
):
    model = peft_model(tiny_folder("gemma"))
    calls = []

    def fails_second(model, batch):
        calls.append(batch.tokens)
        if len(calls) == 2:
            raise LACKS[0]
        return nll_sum(model, batch)

    with PATHS["packed"].active(model, dropout=0.0, seed=0, shared=True):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=70)
        expected_loss = float(trainer.training_step(model, plan[1]))
        expected = gradients(model)
        monkeypatch.setattr(trainers, "nll_sum", fails_second)
        assert float(trainer.training_step(model, plan[1])) == pytest.approx(
            expected_loss, abs=1e-6
        )
    assert calls[0] > max(calls[2:])
    assert_near(gradients(model), expected, 1e-5)


def test_a_row_that_does_not_fit_alone_is_an_error_with_remedies(
    tiny_folder, rows, tmp_path, monkeypatch
):
    model = peft_model(tiny_folder("gemma"))
    longest = int(rows.lengths.max())
    small_memory(monkeypatch, longest - 1)
    with PATHS["packed"].active(model, dropout=0.0, seed=0, shared=True):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=140)
        step = next(
            plan[s] for s in range(len(plan)) if longest in rows.lengths[list(plan[s].rows)]
        )
        with pytest.raises(EnvironmentFault) as caught:
            trainer.training_step(model, step)
    assert f"does not suffice for one row of {longest} tokens" in str(caught.value)
    assert f"step {step.number + 1} of 5" in str(caught.value)
    assert "--gradient-checkpointing" in str(caught.value)


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny_folder, rows, tmp_path, monkeypatch):
    model = peft_model(tiny_folder("gemma"))
    small_memory(monkeypatch, 1, RuntimeError("shapes do not fit"))
    with PATHS["packed"].active(model, dropout=0.0, seed=0, shared=True):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=140)
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            trainer.training_step(model, plan[0])


# ---------------------------------------------------------------------- a whole training


def training(tiny_folder, budget, **more):
    lora = {"dropout": more.pop("dropout", 0.0)}
    return make_config(
        tiny_folder("gemma"), epochs=2, eval_steps=2, micro_batch_tokens=budget, lora=lora, **more
    )


def lacking_from_step_3(monkeypatch):
    """Memory runs out once: in the third step, for more than 75 tokens."""
    done = []

    def limited(model, batch):
        if len(done) == 2 and batch.tokens > 75:
            raise LACKS[1]
        done.append(batch.lengths)
        return nll_sum(model, batch)

    monkeypatch.setattr(trainers, "nll_sum", limited)
    return done


def test_the_adapter_is_the_one_of_the_smaller_budget(tiny_folder, tmp_path, monkeypatch):
    small = make_run(tmp_path / "small", train=18)
    train(training(tiny_folder, 75), small, quiet())
    run = make_run(tmp_path / "run", train=18)
    done = lacking_from_step_3(monkeypatch)
    result = train(training(tiny_folder, 150), run, talking())
    assert [len(lengths) for lengths in done[:2]] == [4, 4]
    assert max(len(lengths) for lengths in done[2:]) == 2
    warning = "out of memory with 150 tokens at once: step 3 is repeated with 75"
    assert result["warnings"].count(warning) == 1
    assert read_json(run.training)["decisions"]["micro_batch_tokens"] == 75
    ours = load_file(run.adapter / "adapter_model.safetensors")
    for name, tensor in load_file(small.adapter / "adapter_model.safetensors").items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_kill_the_halved_budget_is_used_again_to_the_same_bits(
    tiny_folder, tmp_path, monkeypatch
):
    config = training(tiny_folder, 150, dropout=0.2)
    whole = make_run(tmp_path / "whole", train=18)
    with pytest.MonkeyPatch.context() as patch:
        lacking_from_step_3(patch)
        train(config, whole, quiet())
    run = make_run(tmp_path / "run", train=18)

    def child():
        done = lacking_from_step_3(monkeypatch)
        inner = trainers.nll_sum

        def deadly(model, batch):
            if len(done) == 10:
                kill_self()
            return inner(model, batch)

        trainers.nll_sum = deadly
        train(config, run, quiet())

    assert in_child(child) == -signal.SIGKILL
    newest = max(run.checkpoints.glob("step-*"))
    state = json.loads((newest / "state.json").read_text())
    assert state["decisions"]["micro_batch_tokens"] == 75
    assert state["decisions"]["path"] == "packed"
    seen = small_memory(monkeypatch, 10**9)
    console = talking()
    result = train(config, run, console)
    assert "going on from the checkpoint of step" in text_of(console)
    assert seen
    assert all(sum(lengths) <= 75 for lengths in seen)
    assert result["decisions"]["micro_batch_tokens"] == 75
    assert folder_digests(run.adapter) == folder_digests(whole.adapter)
    losses = [read_json(r.training)["validations"] for r in (run, whole)]
    assert losses[0] == losses[1]


def validating_within(monkeypatch, most, *, calls=0):
    """Memory for validation batches of at most `most` tokens, from the `calls`-th validation on."""
    honest, seen = trainers.mean_nll, []

    def limited(model, batches, **more):
        seen.append(max(batch.tokens for batch in batches))
        if len(seen) > calls and seen[-1] > most:
            raise LACKS[0]
        return honest(model, batches, **more)

    monkeypatch.setattr(trainers, "mean_nll", limited)
    return seen


def test_no_memory_while_validating_repeats_it_in_smaller_parts(tiny_folder, tmp_path, monkeypatch):
    small = make_run(tmp_path / "small", train=8)
    expected = train(training(tiny_folder, 75), small, quiet())
    run = make_run(tmp_path / "run", train=8)
    seen = validating_within(monkeypatch, 75)
    result = train(training(tiny_folder, 150), run, talking())
    assert seen[0] > 75
    assert max(seen[1:]) <= 75
    warning = (
        "out of memory with 150 tokens at once: the validation after step 0 is repeated with 75"
    )
    assert result["warnings"].count(warning) == 1
    assert result["decisions"]["micro_batch_tokens"] == 75
    assert result["validations"] == expected["validations"]
    assert (
        folder_digests(run.adapter)["adapter_model.safetensors"]
        == (folder_digests(small.adapter)["adapter_model.safetensors"])
    )


def test_no_memory_for_one_validation_row_loses_no_step(tiny_folder, tmp_path, monkeypatch):
    whole = make_run(tmp_path / "whole", train=18)
    expected = train(training(tiny_folder, 150), whole, quiet())
    run = make_run(tmp_path / "run", train=18)
    with monkeypatch.context() as patch:
        validating_within(patch, 1, calls=1)
        with pytest.raises(EnvironmentFault, match="does not suffice for one row") as e:
            train(training(tiny_folder, 150), run, quiet())
    assert "the validation after step 2 of 10" in str(e.value)
    assert "--gradient-checkpointing" in str(e.value)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000002"]
    assert not run.training.exists()
    console = talking()  # the remedy: the same folder, with other values of these two
    result = train(training(tiny_folder, 150, gradient_checkpointing=True), run, console)
    told = text_of(console)
    assert "going on from the checkpoint of step 2" in told
    assert "--gradient-checkpointing on from here on, as asked for now; before it was off" in told
    assert result["decisions"]["gradient_checkpointing"] is True
    assert [v["step"] for v in result["validations"]] == [0, 2, 4, 6, 8, 10]
    assert [v["loss"] for v in result["validations"]] == pytest.approx(
        [v["loss"] for v in expected["validations"]], abs=1e-4
    )


def test_another_budget_continues_the_folder_and_the_same_one_stays_halved(
    tiny_folder, tmp_path, monkeypatch
):
    run = make_run(tmp_path / "run", train=18)

    def stopping(steps):
        honest, seen = trainers.StepTrainer._try, []

        def stopped(self, step):
            seen.append(step.number)
            if len(seen) > steps:
                raise ValueError("enough")
            return honest(self, step)

        monkeypatch.setattr(trainers.StepTrainer, "_try", stopped)

    def first_resumed(budget, **more):
        """(tokens decided, what was said) when the run is started with this budget."""
        console = talking()
        with pytest.MonkeyPatch.context() as patch:
            decided = []
            patch.setattr(
                trainers.StepTrainer,
                "_try",
                lambda self, step: decided.append(self.decided) or 1 / 0,
            )
            with pytest.raises(ZeroDivisionError):
                train(training(tiny_folder, budget, **more), run, console)
        return decided[0].micro_batch_tokens, text_of(console)

    with pytest.MonkeyPatch.context() as patch:
        lacking_from_step_3(patch)
        stopping(6)
        with pytest.raises(ValueError, match="enough"):
            train(training(tiny_folder, 150), run, quiet())
    monkeypatch.undo()
    found, told = first_resumed(150)  # as it was asked for before: the halving stands
    assert found == 75
    assert "from here on" not in told
    found, told = first_resumed(None)
    assert found == 75
    found, told = first_resumed(100)
    assert found == 100
    assert "--micro-batch-tokens 100 from here on, as asked for now; before it was 75" in told
    assert "going on from the checkpoint of step" in told
    assert "starts over" not in told


# ---------------------------------------------------------------------- other devices


def test_the_memory_faults_of_every_device_are_known():
    text = "MPS backend out of memory (MPS allocated: 17.50 GiB, max allowed: 18.13 GiB)"
    cublas = RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    )
    driver = torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
    )
    for error in (*LACKS, RuntimeError(text), cublas, driver):
        assert trainers.out_of_memory(error)
    assert not trainers.out_of_memory(RuntimeError("shapes do not fit"))
    other = "CUDA error: an illegal memory access was encountered"
    assert not trainers.out_of_memory(torch.AcceleratorError(other))


class NoDoubles(TorchFunctionMode):
    """As on MPS: no fp64 but on the CPU. (Everything here is on the CPU: it must be asked for.)"""

    def __init__(self):
        super().__init__()
        self.moved, self.asked = [], 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.double:
            self.asked += 1
            assert any(args[0] is tensor for tensor in self.moved), "MPS has no float64"
        found = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            self.moved.append(found)
        return found


def test_the_loss_of_a_step_is_summed_on_the_cpu(tiny_folder, rows, tmp_path):
    model = peft_model(tiny_folder("gemma"))
    with PATHS["packed"].active(model, dropout=0.0, seed=0, shared=True):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=70)
        with NoDoubles() as mode:
            trainer.training_step(model, plan[0])
    assert mode.asked == 1
