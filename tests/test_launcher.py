"""What a launcher says is read right, and what it cannot have is refused."""

from __future__ import annotations

import os

import pytest
from support.training import talking, text_of

from gemma_lora.errors import ConfigError, EnvironmentFault
from gemma_lora.launcher import Launch, launch, need_known_launch, own_gpu, shards


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def started(monkeypatch, rank: int, size: int, local: int) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, str(value))


def test_without_a_launcher_there_is_one_process():
    assert launch() == Launch(0, 1, 0)
    assert launch().leads


def test_the_place_among_the_processes(monkeypatch):
    started(monkeypatch, 5, 8, 1)
    assert launch() == Launch(5, 8, 1)
    assert not launch().leads
    assert str(launch()) == "process 5 of 8"


@pytest.mark.parametrize("rank", ["2", "-1", "first"])
def test_nonsense_in_the_environment(monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(EnvironmentFault, match=f"RANK={rank}, WORLD_SIZE=2"):
        launch()


@pytest.mark.parametrize(
    ("named", "local", "seen"),
    [
        (None, 1, "1"),
        ("4,6", 1, "6"),
        ("GPU-8a,GPU-9b", 0, "GPU-8a"),
        ("4,6", 2, ""),  # more processes than GPUs: this one must not take another's
        ("", 0, ""),
    ],
)
def test_each_process_sees_its_own_gpu(monkeypatch, named, local, seen):
    started(monkeypatch, local, 4, local)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_one_process_keeps_what_it_sees(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("variable", "name"),
    [("ACCELERATE_USE_FSDP", "FSDP version 1"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")],
)
def test_other_sharding_than_fsdp_2_is_refused_with_what_works(monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(EnvironmentFault, match=f"told to use {name}") as caught:
        need_known_launch(talking())
    assert "--fsdp_version 2" in str(caught.value)
    assert "--shard-weights" in str(caught.value)


def fsdp(monkeypatch, **more):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    for name, value in more.items():
        monkeypatch.setenv(name, value)


def test_weights_are_sharded_as_set_or_as_accelerate_was_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [shards(asked) for asked in (None, False, True)] == [False, False, True]
    fsdp(monkeypatch)
    need_known_launch(talking())
    assert [shards(asked) for asked in (None, True)] == [True, True]
    with pytest.raises(ConfigError, match="told to use FSDP"):
        shards(False)


@pytest.mark.parametrize("by_accelerate", [False, True])
def test_one_process_has_nobody_to_share_weights_with(monkeypatch, by_accelerate):
    if by_accelerate:
        fsdp(monkeypatch)
    with pytest.raises(EnvironmentFault, match="there is one process"):
        shards(None if by_accelerate else True)


def test_settings_of_fsdp_that_are_not_used_are_told(monkeypatch):
    console = talking()
    fsdp(monkeypatch, FSDP_OFFLOAD_PARAMS="false", FSDP_RESHARD_AFTER_FORWARD="true")
    need_known_launch(console)
    assert text_of(console) == ""
    fsdp(
        monkeypatch,
        FSDP_OFFLOAD_PARAMS="true",
        FSDP_RESHARD_AFTER_FORWARD="false",
        FSDP_ACTIVATION_CHECKPOINTING="true",
    )
    need_known_launch(console)
    told = " ".join(text_of(console).split())
    for name in ("offload_params", "reshard_after_forward", "activation_checkpointing"):
        assert f"accelerate's fsdp_{name} is not used" in told


def test_settings_of_accelerate_that_are_not_used_are_told(monkeypatch):
    console = talking()
    need_known_launch(console)
    assert text_of(console) == ""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    need_known_launch(console)
    assert "mixed precision `bf16` is not used: --precision" in text_of(console)
    assert "--cpu is not used: --device" in text_of(console)
