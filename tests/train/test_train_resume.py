"""Killed, stopped, damaged: what is left is whole, and what is finished later is the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training import (
    folder_digests,
    in_child,
    kill_self,
    make_config,
    make_run,
    quiet,
    signed,
    talking,
    text_of,
)

from gemma_lora.errors import EnvironmentFault
from gemma_lora.rundir import RunDir, read_json
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train import stage, train
from gemma_lora.train import trainer as trainers
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.resuming import resumable

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# dropout, steps of several packed micro-batches, a small last step in the epoch, validation at every
# second step
RECIPE = {"epochs": 2, "eval_steps": 2, "micro_batch_tokens": 70, "lora": {"dropout": 0.2}}


def metrics_of(run: RunDir):
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("tokens_per_second", "memory")} for x in lines]


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder, tmp_path_factory):
    """(config, adapter digests, metrics, training.json) of a training that nothing disturbed."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run", train=18)
    config = make_config(tiny_folder("gemma"), **RECIPE)
    result = train(config, run, quiet())
    return config, folder_digests(run.adapter), metrics_of(run), result


def assert_same(run: RunDir, uninterrupted) -> None:
    _, adapter, metrics, result = uninterrupted
    assert folder_digests(run.adapter) == adapter
    assert metrics_of(run) == metrics
    found = read_json(run.training)
    for key in ("validations", "best_step", "steps_done", "train_loss_first", "train_loss_last"):
        assert found[key] == result[key]


def finish(run: RunDir, uninterrupted) -> str:
    console = talking()
    train(uninterrupted[0], run, console)
    assert_same(run, uninterrupted)
    assert not list(run.checkpoints.glob(".writing-*"))
    return text_of(console)


def dying_at(monkeypatch, target, name, call):
    """Make the `call`-th call of `target.name` a SIGKILL (in the child that calls it)."""
    honest, calls = getattr(target, name), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            kill_self()
        return honest(*args, **kwargs)

    monkeypatch.setattr(target, name, deadly)


def test_the_recipe_computes_several_packed_micro_batches_a_step(uninterrupted, tmp_path):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        honest = trainers.nll_sum

        def looking(model, batch):
            seen.append(batch.lengths)
            return honest(model, batch)

        patch.setattr(trainers, "nll_sum", looking)
        finish(make_run(tmp_path / "run", train=18), uninterrupted)
    assert len(seen) == 18  # of 10 steps
    assert max(len(lengths) for lengths in seen) > 1
    assert uninterrupted[3]["decisions"]["path"] == "packed"


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (trainers, "nll_sum", 13),  # in the middle of a step
        (trainers, "mean_nll", 3),  # while validating
        (checkpoints, "_write", 8),  # while the second checkpoint is written
        (checkpoints, "fsync_folder", 3),  # written, not yet renamed
        (checkpoints, "fsync_folder", 4),  # renamed, the older ones not yet removed
    ],
)
def test_killed_and_run_again_gives_the_same_adapter(uninterrupted, tmp_path, target, name, call):
    run = make_run(tmp_path / "run", train=18)
    with pytest.MonkeyPatch.context() as patch:
        dying_at(patch, target, name, call)
        assert in_child(lambda: train(uninterrupted[0], run, quiet())) == -signal.SIGKILL
    assert not run.training.exists()
    assert "going on from the checkpoint of step" in finish(run, uninterrupted)


def test_killed_after_training_and_before_the_adapter_is_saved(
    uninterrupted, tmp_path, monkeypatch
):
    run = make_run(tmp_path / "run", train=18)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "save_verified", lambda *_, **__: kill_self())
        assert in_child(lambda: train(uninterrupted[0], run, quiet())) == -signal.SIGKILL
    assert "checkpoint of step 10" in finish(run, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["step", "validation"])
def test_a_signal_saves_and_ends_with_its_code(uninterrupted, tmp_path, number, code, moment):
    run = make_run(tmp_path / "run", train=18)
    console = talking()
    # of two micro-batches a step the second one of the third step
    name, call = ("nll_sum", 6) if moment == "step" else ("mean_nll", 2)

    def child():
        honest, calls = getattr(trainers, name), []

        def raising(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return honest(*args, **kwargs)

        setattr(trainers, name, raising)
        train(uninterrupted[0], run, console)

    assert in_child(child) == code
    stopped_at = 3 if moment == "step" else 2  # step 3 has no validation; step 2 has one pending
    assert (run.checkpoints / f"step-{stopped_at:08d}").is_dir()
    assert not run.training.exists()
    assert f"checkpoint of step {stopped_at}" in finish(run, uninterrupted)


@pytest.fixture(scope="module")
def killed(uninterrupted, tmp_path_factory):
    """A run killed in step 8 with whole checkpoints of steps 4 and 6 and others before."""
    run = make_run(tmp_path_factory.mktemp("killed") / "run", train=18)
    with pytest.MonkeyPatch.context() as patch:
        dying_at(patch, trainers, "nll_sum", 15)
        assert in_child(lambda: train(uninterrupted[0], run, quiet())) == -signal.SIGKILL
    assert max(p.name for p in run.checkpoints.iterdir()) == "step-00000006"
    return run


@pytest.fixture
def killed_copy(killed, tmp_path):
    shutil.copytree(killed.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_newest_checkpoint_is_skipped(killed_copy, file, damage):
    path = killed_copy.checkpoints / "step-00000006" / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-20] if damage == "cut" else data[:-3] + b"?" + data[-2:])
    console = talking()
    found = checkpoints.newest(killed_copy.checkpoints, console)
    assert found is not None
    assert found.step == 4
    assert "checkpoint step-00000006 is ignored" in text_of(console)


def test_training_goes_on_from_the_one_before_a_damaged_one(killed_copy, uninterrupted):
    path = killed_copy.checkpoints / "step-00000006" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "going on from the checkpoint of step 4" in finish(killed_copy, uninterrupted)


def test_a_checkpoint_holds_no_pickle(killed):
    names = {p.name for p in killed.checkpoints.rglob("*") if p.is_file()}
    assert names == {
        "weights.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "state.json",
        "manifest.json",
    }


def test_checkpoints_of_other_inputs_are_not_gone_on_from(killed_copy, tiny_folder):
    run = killed_copy
    console = talking()
    other = make_config(tiny_folder("gemma"), **{**RECIPE, "epochs": 1}, seed=7)
    train(other, run, console)
    told = text_of(console)
    assert "training starts over: recipe, seed changed" in told
    count = len(list(run.checkpoints.glob("set-aside-*")))  # not lost: they may be wanted yet
    assert count > 1
    assert f"{count} checkpoints are set aside" in told
    assert [line["step"] for line in metrics_of(run)] == [0, 1, 2, 3, 4, 5]
    # and other rows
    make_run(run.root, train=17)
    console = talking()
    train(other, run, console)
    assert "training starts over: training rows changed" in text_of(console)


@pytest.mark.parametrize("name", ["decisions", "journal"])
def test_checkpoints_of_another_version_are_not_gone_on_from(killed_copy, uninterrupted, name):
    """Its state has other entries: told, and trained from the start instead of a crash."""
    path = killed_copy.checkpoints / "step-00000006"
    with_state(lambda state: state[name].update(formerly=1))(path)
    told = finish(killed_copy, uninterrupted)
    assert f"training starts over: what gemma-lora keeps as {name} changed" in told


def test_an_identity_with_an_entry_more_is_another_one(killed_copy, uninterrupted):
    """What nobody compares must not keep the content from being looked at."""
    path = killed_copy.checkpoints / "step-00000006"
    WRONG["weights not numbers"](path)
    with_state(lambda state: state["identity"].update(more="x"))(path)
    assert "training starts over: more changed" in finish(killed_copy, uninterrupted)


def test_other_ids_of_the_same_text_are_another_training(killed_copy, uninterrupted, tmp_path):
    config = uninterrupted[0]
    folder = shutil.copytree(config.model.model, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = "▁number", "▁order"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    renamed = config.model_copy(
        update={"model": config.model.model_copy(update={"model": str(folder)})}
    )
    console = talking()
    train(renamed, killed_copy, console)
    assert "training starts over: tokenizer changed since the checkpoints" in text_of(console)


@pytest.mark.parametrize("read", range(3, 12))
def test_a_signal_between_any_two_looks_saves_the_step(uninterrupted, tmp_path, read):
    """`read`: the look at which it is first seen; 5 steps to go to the next validation."""

    class Sudden(Interrupts):
        reads, number = 0, None

        @property
        def pending(self):
            self.reads += 1
            if self.reads == read:
                self.number = signal.SIGTERM
            return self.number

        @pending.setter
        def pending(self, number):
            self.number = number

    run = make_run(tmp_path / "run", train=18)
    config = make_config(Path(uninterrupted[0].model.model), eval_steps=5, epochs=1)

    def work():
        stage.Interrupts = Sudden
        train(config, run, quiet())

    assert in_child(work) == 143
    saved = [int(path.name[5:]) for path in run.checkpoints.glob("step-*")]
    assert max(saved, default=0) == metrics_of(run)[-1]["step"]


def with_state(change):
    def apply(path):
        state = json.loads((path / "state.json").read_text())
        change(state)
        (path / "state.json").write_text(json.dumps(state))
        signed(path)

    return apply


def with_tensors(name, change):
    def apply(path):
        file = path / f"{name}.safetensors"
        save_file(change(load_file(file)), file)
        signed(path)

    return apply


def as_fifo(path):
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")


def huge(path):
    with (path / "rng.safetensors").open("r+b") as stream:
        stream.truncate(2**40)  # sparse


def cut(tensors):
    return {key: value[:1].clone() if value.dim() else value for key, value in tensors.items()}


WRONG = {
    "moments cut": with_tensors("optimizer", cut),
    "no moments": with_tensors("optimizer", lambda _: {}),
    "moments of one weight gone": with_tensors(
        "optimizer", lambda t: {k: v for k, v in t.items() if not k.startswith("0.")}
    ),
    "moments not numbers": with_tensors(
        "optimizer", lambda t: {k: torch.full_like(v, torch.nan) for k, v in t.items()}
    ),
    "weights not numbers": with_tensors(
        "weights", lambda t: {k: torch.full_like(v, torch.nan) for k, v in t.items()}
    ),
    "weights cut": with_tensors("weights", cut),
    "no random states": with_tensors("rng", lambda _: {}),
    "random states cut": with_tensors("rng", cut),
    "numpy's position": with_tensors(
        "rng", lambda t: {**t, "numpy_rest": torch.tensor([1e9, 0, 0], dtype=torch.float64)}
    ),
    "python's random": with_state(lambda s: s.update(python_random=[3, [1], None])),
    "no identity": with_state(lambda s: s.pop("identity")),
    "identity a list": with_state(lambda s: s.update(identity=[])),
    "no scheduler": with_state(lambda s: s.pop("scheduler")),
    "no rate": with_state(lambda s: s["scheduler"].update(_last_lr=[])),
    "tokens below zero": with_state(lambda s: s["decisions"].update(micro_batch_tokens=-5)),
    "tokens a text": with_state(lambda s: s["decisions"].update(micro_batch_tokens="70")),
    "path unknown": with_state(lambda s: s["decisions"].update(path="evil")),
    "validated every 0": with_state(lambda s: s["decisions"].update(eval_steps=0)),
    "other steps": with_state(lambda s: s["decisions"].update(steps=4)),
    "another device": with_state(lambda s: s["decisions"].update(device="mps")),
    "best a text": with_state(lambda s: s["journal"].update(best_step="x")),
    "best never validated": with_state(lambda s: s["journal"].update(best_step=5)),
    "validations of text": with_state(lambda s: s["journal"].update(validations=["x"])),
    "endless": with_state(lambda s: s["journal"].update(seconds=float("inf"))),
    "another step": with_state(lambda s: s["journal"].update(step=5)),
    "scaler": with_state(lambda s: s.update(scaler={"scale": "x"})),
    "state a list": lambda path: ((path / "state.json").write_text("[]"), signed(path)),
    "state nested": lambda path: ((path / "state.json").write_text("[" * 200_000), signed(path)),
    "manifest nested": lambda path: (path / "manifest.json").write_text("[" * 200_000),
    "state a pipe": as_fifo,
    "a file too large": huge,
}
"""What a checkpoint with a right manifest may hold all the same."""


def taken(run):
    """The step that would be gone on from, and what is said."""
    console = talking()
    identity = json.loads((run.checkpoints / "step-00000004" / "state.json").read_text())[
        "identity"
    ]
    found = resumable(run, identity, 10, console)
    return found and found.step, text_of(console)


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_that_is_no_trainings_is_passed_over(name, killed_copy):
    assert taken(killed_copy) == (6, ANY)
    WRONG[name](killed_copy.checkpoints / "step-00000006")
    step, told = taken(killed_copy)
    assert step == 4
    assert "checkpoint step-00000006 is ignored: " in told


@pytest.mark.parametrize("name", ["moments cut", "no moments"])
def test_after_one_that_was_passed_over_the_adapter_is_the_same(name, killed_copy, uninterrupted):
    WRONG[name](killed_copy.checkpoints / "step-00000006")
    assert "going on from the checkpoint of step 4" in finish(killed_copy, uninterrupted)


def test_a_damaged_step_that_is_made_again_is_saved_again(uninterrupted, tmp_path):
    """Step 3, saved at a signal, is damaged; made again from step 2, it is whole when step 4 fails."""
    run = make_run(tmp_path / "run", train=18)

    def in_step(number, act):
        honest = trainers.StepTrainer._try

        def acting(self, step):
            if step.number == number:
                act()
            return honest(self, step)

        trainers.StepTrainer._try = acting
        train(uninterrupted[0], run, quiet())

    assert in_child(lambda: in_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))) == 143
    third = run.checkpoints / "step-00000003" / "weights.safetensors"
    third.write_bytes(third.read_bytes()[:-4])
    assert in_child(lambda: in_step(3, lambda: 1 / 0)) == 99
    assert "going on from the checkpoint of step 3" in finish(run, uninterrupted)
    assert [path.name for path in run.checkpoints.glob("set-aside-*")] == [
        "set-aside-1-step-00000003"
    ]


def test_the_two_newest_whole_ones_are_kept_beside_a_planted_one(killed_copy, uninterrupted):
    (killed_copy.checkpoints / "step-99999999").mkdir()
    told = finish(killed_copy, uninterrupted)
    assert "checkpoint step-99999999 is ignored: it is incomplete" in told
    assert "1 checkpoint is set aside" in told
    kept = {int(path.name[5:]) for path in killed_copy.checkpoints.glob("step-*")}
    assert kept == {8, 10, uninterrupted[3]["best_step"]}


def test_what_is_printed_is_the_precision_that_is_used(killed_copy, uninterrupted, monkeypatch):
    for path in killed_copy.checkpoints.iterdir():
        with_state(lambda state: state["decisions"].update(precision="bf16"))(path)
    used = []
    monkeypatch.setattr(
        trainers.StepTrainer, "_try", lambda self, _: used.append(self.decided.precision) or 1 / 0
    )
    console = talking()
    with pytest.raises(ZeroDivisionError):
        train(uninterrupted[0], killed_copy, console)
    assert used == ["bf16"]
    assert "; bf16 (as in the checkpoint; a new training would take fp32: " in text_of(console)


@pytest.fixture(scope="module")
def best_first(tiny_folder, tmp_path_factory):
    """(config, run): six steps, all validated, step 2 the best; training.json was not written."""
    run = make_run(tmp_path_factory.mktemp("best") / "run", train=8)
    config = make_config(tiny_folder("gemma"), epochs=3, eval_steps=1, patience=0)
    with pytest.MonkeyPatch.context() as patch:
        losses = iter([9.0, 8.0, 1.0, 5.0, 4.0, 3.0, 6.0])
        patch.setattr(trainers, "mean_nll", lambda *_, **__: next(losses))
        assert train(config, run, quiet())["best_step"] == 2
    run.training.unlink()
    return config, run


def test_a_damaged_best_is_noticed_before_training_and_another_taken(best_first, tmp_path):
    config, whole = best_first
    shutil.copytree(whole.root, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert sorted(p.name[-1] for p in run.checkpoints.iterdir()) == ["2", "5", "6"]
    shutil.rmtree(run.checkpoints / "step-00000006")  # as if killed in the last step
    (run.checkpoints / "step-00000002" / "weights.safetensors").write_bytes(b"x")
    console = talking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "mean_nll", lambda *_, **__: 6.0)
        result = train(config, run, console)
    said = "the best checkpoint (step 2) is gone or damaged; the best that is left is step 5"
    assert said in console.warnings
    assert (result["best_step"], result["steps_done"]) == (5, 6)
    assert said in result["warnings"]
    saved = load_file(run.adapter / "adapter_model.safetensors")
    best = load_file(whole.checkpoints / "step-00000005" / "weights.safetensors")
    assert sorted(t.sum().item() for t in saved.values()) == pytest.approx(
        sorted(t.sum().item() for t in best.values())
    )
    # and after all training, the folder is not lost either
    shutil.copytree(whole.root, tmp_path / "again")
    again = RunDir(tmp_path / "again")
    shutil.rmtree(again.checkpoints / "step-00000002")
    assert train(config, again, quiet())["best_step"] == 5


def test_a_full_disk_leaves_the_older_checkpoints(uninterrupted, tmp_path):
    run = make_run(tmp_path / "run", train=18)
    honest, calls = checkpoints._write, []

    def full(path, data):
        calls.append(1)
        if len(calls) > 7:
            raise OSError(28, "No space left on device")
        honest(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_write", full)
        with pytest.raises(EnvironmentFault, match="No space left"):
            train(uninterrupted[0], run, quiet())
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-00000002"]
    finish(run, uninterrupted)


def test_resumed_on_the_plain_path_pefts_own_dropout_is_the_same(
    tiny_folder, tmp_path, monkeypatch
):
    """There the random numbers are torch's: they follow from step and micro-batch too."""
    from gemma_lora.train import stage

    monkeypatch.setattr(stage, "candidates", lambda *_, **__: [stage.PATHS["plain"]])
    config = make_config(tiny_folder("gemma"), **RECIPE)
    whole, run = (make_run(tmp_path / name, train=18) for name in ("whole", "run"))
    result = train(config, whole, quiet())
    assert result["decisions"]["path"] == "plain"
    with pytest.MonkeyPatch.context() as patch:
        dying_at(patch, trainers, "nll_sum", 22)  # of four micro-batches a step
        assert in_child(lambda: train(config, run, quiet())) == -signal.SIGKILL
    finish(run, (config, folder_digests(whole.adapter), metrics_of(whole), result))


def changes_of(run: RunDir, *, stop: int = 0) -> list[int]:
    """Count changes of files below checkpoints/ from here on; SIGKILL before the `stop`-th."""
    count = [0]
    names = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

    def hook(event, arguments):
        writes = event == "open" and arguments[1] is not None and "r" not in str(arguments[1])
        if (writes or event in names) and str(run.checkpoints) in str(arguments[0]):
            count[0] += 1
            if count[0] == stop:
                kill_self()

    sys.addaudithook(hook)
    return count


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_thirty_kills_at_random_moments(uninterrupted, tmp_path):
    """Fifteen by the clock, anywhere in a training; fifteen while a checkpoint is written or removed.
    Each is finished and compared."""
    rng = random.Random(0)
    config = uninterrupted[0]
    told = tmp_path / "changes"

    def whole():
        run = make_run(tmp_path / "measured", train=18)
        count = changes_of(run)
        train(config, run, quiet())
        told.write_text(str(count[0]))

    begun = time.monotonic()
    assert in_child(whole) == 0
    seconds, changes = time.monotonic() - begun, int(told.read_text())
    assert changes > 40
    killed = kept = 0
    while killed < 30:
        run = make_run(tmp_path / f"run{killed}", train=18)
        by_clock = killed % 2 == 0
        stop = 0 if by_clock else rng.randint(1, changes)
        pid = os.fork()
        if pid == 0:
            try:
                if stop:
                    changes_of(run, stop=stop)
                train(config, run, quiet())
            finally:
                os._exit(0)
        if by_clock:
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) in ((0, -9) if by_clock else (-9,))
        killed += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        kept += any(run.checkpoints.glob("step-*"))
        finish(run, uninterrupted)
        shutil.rmtree(run.root)
    assert kept > 10  # most had something to go on from
