"""A checkpoint is whole or absent, whenever the process dies, and nothing hostile in it is run."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import sys

import pytest
import torch
from support.stepping import peft_model
from support.training import (
    in_child,
    kill_self,
    make_config,
    make_run,
    quiet,
    signed,
    talking,
    text_of,
)

from gemma_lora.errors import EnvironmentFault, ModelError
from gemma_lora.train import checkpoint as checkpoints
from gemma_lora.train import train
from gemma_lora.train.state import (
    MOMENTS,
    load_moments,
    load_weights,
    moments_of,
    trainable,
)

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def content(step):
    tensors = {"w": torch.full((40,), float(step))}
    return {"weights": tensors, "optimizer": tensors, "rng": tensors}, {"step": step}


def save(root, step):
    return checkpoints.save(root, step, *content(step))


def die_at(root, count):
    """SIGKILL to this process before its `count`-th change below `root`; to be called in a child."""
    seen = []

    def hook(event, arguments):
        opened = event == "open" and arguments[1] is not None and "r" not in str(arguments[1])
        if (opened or event in CHANGES) and str(root) in str(arguments[0]):
            seen.append(event)
            if len(seen) == count:
                kill_self()

    sys.addaudithook(hook)


def whole_at(root):
    found = checkpoints.newest(root, quiet())
    assert found is not None
    assert found.state == {"step": found.step}
    for name in ("weights", "optimizer", "rng"):
        assert torch.equal(found.tensors(name)["w"], torch.full((40,), float(found.step)))
    assert not list(root.glob(".writing-*"))
    return found.step


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [4, 3], ids=["a new one", "the same step again"])
def test_killed_before_any_change_of_the_disk_a_whole_one_is_found(step, tmp_path):
    """Writing, renaming and removing old ones, at each file operation in turn."""
    count, found = 0, []
    while True:
        count += 1
        root = tmp_path / str(count)
        for old in (1, 2, 3):
            save(root, old)

        def child(root=root, count=count):
            die_at(root, count)
            save(root, step)
            checkpoints.prune(root, best=2)

        code = in_child(child)
        found.append(whole_at(root))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert count > 8
    if step == 4:  # the old one until the rename, then the new one, and nothing in between
        assert found == sorted(found)
        assert (found[0], found[-1]) == (3, 4)
    else:  # between two renames it is the one before
        assert found.count(2) == 1
        assert set(found) == {2, 3}
    assert {path.name for path in root.iterdir()} == {"step-00000002", f"step-{3:08d}"} | (
        {"step-00000004"} if step == 4 else set()
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_is_full_or_read_only_leaves_the_older_ones(number, tmp_path, monkeypatch):
    save(tmp_path, 1)
    honest, calls = checkpoints._write, []

    def failing(path, data):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(number, os.strerror(number))
        honest(path, data)

    monkeypatch.setattr(checkpoints, "_write", failing)
    with pytest.raises(EnvironmentFault, match=os.strerror(number)):
        save(tmp_path, 2)
    assert whole_at(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_best_and_the_two_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
        checkpoints.prune(tmp_path, best=2 if step > 1 else None)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "4", "5"]


def damage(path):
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def steps_in(root):
    return sorted(int(path.name[5:]) for path in root.glob("step-*"))


def test_damaged_ones_that_were_passed_over_push_out_no_whole_one(tmp_path):
    for step in (80, 90, 100, 110):
        save(tmp_path, step)
    for step in (100, 110):
        damage(checkpoints.folder_of(tmp_path, step))
    console = talking()
    found = checkpoints.newest(tmp_path, console)
    assert found is not None
    assert found.step == 90
    assert f"2 checkpoints are set aside in {tmp_path} (set-aside-*)" in text_of(console)
    save(tmp_path, 95)
    checkpoints.prune(tmp_path, best=None)
    assert steps_in(tmp_path) == [90, 95]
    assert whole_at(tmp_path) == 95
    assert (tmp_path / "set-aside-1-step-00000100" / "state.json").is_file()  # nothing is lost


def as_link(path):
    path.symlink_to(path.parent / "step-00000001", target_is_directory=True)


@pytest.mark.parametrize(
    "planted", [lambda path: path.mkdir(), lambda path: path.write_text("x"), as_link]
)
def test_a_planted_step_far_ahead_takes_no_place(planted, tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
        planted(tmp_path / "step-99999999")
        assert whole_at(tmp_path) == step  # told and renamed each time, to another name
        checkpoints.prune(tmp_path, best=None)
        assert steps_in(tmp_path) == [step - 1, step][-min(step, 2) :]
    names = {path.name for path in tmp_path.glob("set-aside-*")}
    assert names == {f"set-aside-{n}-step-99999999" for n in (1, 2, 3, 4)}


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    damage(save(tmp_path, 1))

    def refusing(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(checkpoints.Path, "rename", refusing)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        checkpoints.newest(tmp_path, quiet())


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def test_pickles_among_the_checkpoints_are_never_loaded(tiny_folder, tmp_path):
    run = make_run(tmp_path / "run", train=8)
    config = make_config(tiny_folder("gemma"), eval_steps=1)
    train(config, run, quiet())
    run.training.unlink()
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    newest = max(run.checkpoints.glob("step-*"))
    for name in ("rng_state.pth", "optimizer.pt", "training_args.bin", "scheduler.pt"):
        (newest / name).write_bytes(bomb)
        (run.checkpoints / name).write_bytes(bomb)
    console = talking()
    train(config, run, console)
    assert f"going on from the checkpoint of step {int(newest.name[5:])}" in text_of(console)
    # and in the place of a file that is read: the manifest is looked at first
    (newest / "optimizer.safetensors").write_bytes(bomb)
    console = talking()
    train(config, run, console)
    assert "optimizer.safetensors is damaged" in text_of(console)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # noqa: S301 - it does work
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7},
        {"sha256": {}},
        {"sha256": {"../../secret": "0"}},
        {"sha256": ["weights.safetensors"]},
        {"step": "1"},
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else_is_not_followed(change, tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    console = talking()
    found = checkpoints.newest(tmp_path, console)
    assert found is not None
    assert found.step == 1
    assert "checkpoint step-00000002 is ignored: its manifest" in text_of(console)


def test_weights_of_another_adapter_with_a_right_manifest_are_refused(tiny_folder, tmp_path):
    model = peft_model(tiny_folder("gemma"))
    for weights in (
        {},
        {name: value[:1] for name, value in trainable(model).items()},
        {**trainable(model), "more": torch.ones(1)},
    ):
        path = checkpoints.save(
            tmp_path, 1, {"weights": weights, "optimizer": {}, "rng": {}}, {"step": 1}
        )
        signed(path)
        found = checkpoints.newest(tmp_path, quiet())
        assert found is not None
        with pytest.raises(ModelError, match="do not fit the adapter"):
            load_weights(model, found)


def optimizer_of(*shapes):
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    return weights, torch.optim.AdamW(weights, lr=0.1, fused=True)


def test_moments_that_are_not_there_yet_are_zeros_in_a_checkpoint(tmp_path):
    """Where every step was skipped AdamW has none; the next step is the same with those."""
    fresh, optimizer = optimizer_of((3, 2), (4,))
    moments = moments_of(optimizer)
    assert moments.keys() == {f"{n}.{name}" for n in (0, 1) for name in MOMENTS}
    assert not any(value.any() for value in moments.values())
    state = {"scheduler": {"_last_lr": [0.1]}}
    checkpoints.save(tmp_path, 1, {"weights": {}, "optimizer": moments, "rng": {}}, state)
    found = checkpoints.at_step(tmp_path, 1)
    assert found is not None
    resumed, again = optimizer_of((3, 2), (4,))
    load_moments(again, found)
    for weights, stepping in ((fresh, optimizer), (resumed, again)):
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.3)
        stepping.step()
    assert all(torch.equal(*pair) for pair in zip(fresh, resumed, strict=True))
    assert not torch.equal(fresh[1], torch.ones(4))
    for shapes in (((2, 3), (4,)), ((4,), (3, 2)), ((3, 2),), ((3, 2), (4,), (1,))):
        with pytest.raises(ModelError, match="optimiser state does not fit"):
            load_moments(optimizer_of(*shapes)[1], found)
