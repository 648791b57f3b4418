"""Frozen weights sharded over processes: really so, and the training is that of one process.

Processes are forked and meet over gloo on a CPU (`support.launch`); FSDP2 is PyTorch's own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.launch import launched
from support.small_runs import write_rows
from support.together import RECIPE, ROWS, assert_same, spoiling, work_on
from support.training import folder_digests, make_config, make_run, quiet, talking, text_of
from support.variants import VARIANTS, save_variant
from torch.distributed.tensor import DTensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gemma_lora import pipeline
from gemma_lora.config import Config, DataConfig
from gemma_lora.errors import EnvironmentFault
from gemma_lora.model.families import family_of
from gemma_lora.rundir import RunDir, read_json
from gemma_lora.train import follow, sharding, train
from gemma_lora.train import stage as stages
from gemma_lora.train import trainer as trainers
from gemma_lora.train.attention import ROWS as ROWS_ATTENTION
from gemma_lora.train.masks import Masks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

Spoil = Callable[[], None]


def made(folder: Path, *, sharded: bool, **recipe: Any) -> Config:
    return make_config(folder, **{**RECIPE, **recipe}, shard_weights=sharded)


@pytest.fixture(scope="module")
def config(tiny_folder) -> Config:
    return made(tiny_folder("gemma"), sharded=True)


@pytest.fixture(scope="module")
def whole(tiny_folder) -> Config:
    return made(tiny_folder("gemma"), sharded=False)


@pytest.fixture(scope="module")
def alone(whole, tmp_path_factory) -> RunDir:
    """The training by one process."""
    run = make_run(tmp_path_factory.mktemp("alone") / "run", train=ROWS)
    train(whole, run, quiet())
    return run


def noting_parts(folder: Path, inner: Callable[[int], object]) -> Callable[[int], object]:
    """`inner`, where each process writes down which part of each weight it holds."""

    def work(rank: int) -> None:
        honest = stages.shard

        def noting(model: Any, *rest: Any) -> Any:
            before = {name: list(p.shape) for name, p in model.named_parameters()}
            made = honest(model, *rest)
            parts = {
                name: [
                    before[name],
                    list(p.to_local().shape),
                    p.to_local().untyped_storage().nbytes(),
                ]
                for name, p in model.named_parameters()
                if isinstance(p, DTensor)
            }
            (folder / f"parts-{rank}").write_text(json.dumps(parts))
            return made

        stages.shard = noting
        inner(rank)

    return work


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_the_training_is_that_of_one_process(tiny_folder, tmp_path, family, checkpointing):
    """Dropout, accumulation, a last step of one row, one row to validate on."""
    recipe: dict[str, Any] = {"gradient_checkpointing": checkpointing}
    alone, two, parts = (
        make_run(tmp_path / name / "run", train=ROWS, validation=1)
        for name in ("alone", "two", "parts")
    )
    whole, config = (
        made(tiny_folder(family), sharded=sharded, **recipe) for sharded in (False, True)
    )
    train(whole, alone, quiet())
    for run, settings in ((two, whole), (parts, config)):
        ended = launched(2, work_on(settings, run), tmp_path / "streams")
        assert [(e.code, e.err) for e in ended] == [(0, "")] * 2
    assert_same(parts, alone)
    # the parts of two processes are added in the same order: not a bit differs
    weights = "adapter_model.safetensors"
    assert folder_digests(parts.adapter)[weights] == folder_digests(two.adapter)[weights]
    assert read_json(two.training)["held_weight_bytes"] is None


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_holds_its_part_and_says_so(config, alone, tmp_path, count):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        if rank:
            return follow()
        console = talking()
        train(config, run, console)
        (tmp_path / "told").write_text(text_of(console))

    ended = launched(count, noting_parts(tmp_path, work), tmp_path / "streams")
    assert [(e.code, e.err) for e in ended] == [(0, "")] * count
    assert_same(run, alone)
    parts = [json.loads((tmp_path / f"parts-{rank}").read_text()) for rank in range(count)]
    layers = json.loads((Path(config.model.model) / "config.json").read_text())["num_hidden_layers"]
    assert len(parts[0]) == 7 * layers
    for name, (shape, _, _) in parts[0].items():
        assert sum(part[name][1][0] for part in parts) == shape[0]
        assert all(part[name][1][1:] == shape[1:] for part in parts)
        most = -(-shape[0] // count) * shape[1] * 4
        assert all(part[name][2] <= most for part in parts)
    held = read_json(run.training)["held_weight_bytes"]
    spread = sum(4 * shape[0] * shape[1] for shape, _, _ in parts[0].values())
    mine = sum(size for _, _, size in parts[0].values())
    assert spread / count <= mine <= 1.1 * spread / count
    told = (tmp_path / "told").read_text()
    assert (
        f"each of {count} processes holds {held / 2**20:,.1f} MiB of "
        f"{(held - mine + spread) / 2**20:,.1f} MiB"
    ) in told


def test_weights_that_stay_whole_are_noticed(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest, calls = sharding.fully_shard, []

        def forgetful(module: Any, **settings: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                settings["ignored_params"] = set(module.parameters())
            return honest(module, **settings)

        sharding.fully_shard = forgetful
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [3, 3]
    assert "process 0 of 2: 7 of 14 weights of the decoder layers are not sharded" in ended[0].err
    assert "layers.1.self_attn.q_proj.base_layer.weight: whole" in ended[0].err
    assert not run.metrics.exists()


def at_gather(rank: int, step: int, number: int, spoil: Spoil, inner):
    """`inner`, where process `rank` calls `spoil` at the `number`-th gather from step `step` on."""

    def work(mine: int) -> None:
        honest, now, seen = sharding._Gathers.allocate, [-1], []

        def at(self: Masks, step: int, micro_batch: int) -> None:
            now[0] = step
            place(self, step, micro_batch)

        def allocate(self: Any, *args: Any, **kwargs: Any) -> Any:
            if mine == rank and now[0] >= step:
                seen.append(1)
                if len(seen) == number + 1:
                    spoil()
            return honest(self, *args, **kwargs)

        place, Masks.at = Masks.at, at
        sharding._Gathers.allocate = allocate
        inner(mine)

    return work


def full() -> None:
    raise torch.OutOfMemoryError("no memory left")


@pytest.fixture(scope="module")
def halved(whole, tmp_path_factory) -> RunDir:
    """The training by one process that runs out of memory in its third step."""
    run = make_run(tmp_path_factory.mktemp("halved") / "run", train=ROWS)
    with pytest.MonkeyPatch.context() as patch:  # puts back what `spoiling` replaces
        patch.setattr(trainers, "nll_sum", trainers.nll_sum)
        patch.setattr(Masks, "at", Masks.at)
        spoiling(0, 2, full, work_on(whole, run))(0)
    return run


# two layers: gathers 0 and 1 are those of a forward pass, 2 and 3 of its backward pass
@pytest.mark.parametrize(("rank", "number"), [(1, 0), (0, 1), (1, 2), (1, 3), (0, 4)])
def test_out_of_memory_in_one_process_halves_in_all(config, halved, tmp_path, rank, number):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(
        2, at_gather(rank, 2, number, full, work_on(config, run)), tmp_path / "streams"
    )
    assert [(e.code, e.err) for e in ended] == [(0, "")] * 2
    assert read_json(run.training)["decisions"]["micro_batch_tokens"] == 30
    assert_same(run, halved)


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("first", ["whole", "sharded"])
def test_a_run_goes_on_sharded_or_not(config, whole, alone, tmp_path, first):
    """Stopped by a signal to one process in the middle of a pass."""
    run = make_run(tmp_path / "run", train=ROWS)
    before, after = (whole, config) if first == "whole" else (config, whole)
    stopped = (
        spoiling(1, 2, terminated, work_on(before, run))
        if first == "whole"
        else at_gather(1, 2, 3, terminated, work_on(before, run))
    )
    ended = launched(2, stopped, tmp_path / "streams")
    assert [e.code for e in ended] == [143, 143], ended
    assert max(path.name for path in run.checkpoints.iterdir()) == "step-00000003"
    ended = launched(2, work_on(after, run), tmp_path / "again")
    assert [(e.code, e.err) for e in ended] == [(0, "")] * 2
    assert_same(run, alone)


def in_validation(spoil: Spoil, inner):
    """`inner`, where process 1 calls `spoil` in the validation after step 2."""

    def work(rank: int) -> None:
        honest, validate, now = trainers.mean_nll, trainers.StepTrainer._validate, [0]

        def validating(self: Any) -> None:
            now[0] = self.journal.step
            validate(self)

        def spoilt(model: Any, batches: Any, **settings: Any) -> float:
            if rank == 1 and now[0] == 2:
                spoil()
            return honest(model, batches, **settings)

        trainers.StepTrainer._validate, trainers.mean_nll = validating, spoilt
        inner(rank)

    return work


def test_a_signal_in_a_validation_stops_all(config, alone, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(2, in_validation(terminated, work_on(config, run)), tmp_path / "streams")
    assert [e.code for e in ended] == [143, 143], ended
    assert max(path.name for path in run.checkpoints.iterdir()) == "step-00000002"
    ended = launched(2, work_on(config, run), tmp_path / "again")
    assert [e.code for e in ended] == [0, 0]
    assert_same(run, alone)


@pytest.mark.parametrize(("rank", "number"), [(1, 1), (1, 3), (0, 2)])
def test_a_killed_process_ends_the_other_with_the_cause(config, alone, tmp_path, rank, number):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(
        2, at_gather(rank, 3, number, killed, work_on(config, run)), tmp_path / "streams"
    )
    assert ended[rank].code == -signal.SIGKILL
    assert ended[1 - rank].code == 3, ended
    assert f"process {1 - rank} of 2: process {rank} of 2 is gone" in ended[1 - rank].err
    if rank:  # the leader saves the last whole step
        assert max(path.name for path in run.checkpoints.iterdir()) == "step-00000003"
    ended = launched(2, work_on(config, run), tmp_path / "again")
    assert [e.code for e in ended] == [0, 0]
    assert_same(run, alone)


def test_death_in_a_validation_leaves_the_step(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(2, in_validation(killed, work_on(config, run)), tmp_path / "streams")
    assert [e.code for e in ended] == [3, -signal.SIGKILL]
    assert "process 0 of 2: process 1 of 2 is gone" in ended[0].err
    assert (run.checkpoints / "step-00000002").is_dir()


def test_a_way_of_computing_that_fails_in_one_process_is_left_by_all(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        calls: list[int] = []
        honest = ALL_ATTENTION_FUNCTIONS[ROWS_ATTENTION]

        def breaking(*args: Any, **settings: Any) -> Any:
            calls.append(1)
            if rank and len(calls) == 2:
                raise ValueError("this one cannot")
            return honest(*args, **settings)

        ALL_ATTENTION_FUNCTIONS.register(ROWS_ATTENTION, breaking)
        if rank:
            return follow()
        console = talking()
        train(config, run, console)
        (tmp_path / "told").write_text(text_of(console))

    ended = launched(2, work, tmp_path / "streams")
    assert [(e.code, e.err) for e in ended] == [(0, "")] * 2
    assert read_json(run.training)["decisions"]["path"] == "single-rows"
    told = " ".join((tmp_path / "told").read_text().split())
    assert "computing packed: it does not work in another process" in told


def test_run_is_refused_before_training_where_the_whole_model_cannot_answer(
    config, tmp_path, monkeypatch
):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("gemma_lora.model.free_memory", lambda *_: 1000)
    data = write_rows(tmp_path / "data.csv")
    settings = config.model_copy(update={"data": DataConfig(path=str(data))})
    with pytest.raises(EnvironmentFault, match="the whole model on one device") as found:
        pipeline.run(settings, quiet(), out=tmp_path / "run")
    assert "gemma-lora train" in str(found.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_family_trains_the_same_sharded(tmp_path, variant):
    family = family_of(variant.model_type, where="")
    folder = save_variant(tmp_path / "model", variant, family.text_class, family.attention)
    adapters: list[str] = []
    for sharded in (False, True):
        run = make_run(tmp_path / f"sharded-{sharded}", train=ROWS, validation=1)
        config = made(folder, sharded=sharded)
        ended = launched(2, work_on(config, run), tmp_path / "streams")
        assert [(e.code, e.err) for e in ended] == [(0, "")] * 2
        adapters.append(folder_digests(run.adapter)["adapter_model.safetensors"])
    assert adapters[0] == adapters[1]
