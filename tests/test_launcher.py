"""What a launcher says is read right, and what it cannot have is refused."""

from __future__ import annotations

import os

import pytest
from support.training import talking, text_of

from gemma_lora.errors import EnvironmentFault
from gemma_lora.launcher import Launch, launch, need_known_launch, own_gpu


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
    [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")],
)
def test_sharding_is_refused_with_what_works(monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(EnvironmentFault, match=f"told to use {name}") as caught:
        need_known_launch(talking())
    assert "torchrun --nproc-per-node" in str(caught.value)


def test_settings_of_accelerate_that_are_not_used_are_told(monkeypatch):
    console = talking()
    need_known_launch(console)
    assert text_of(console) == ""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    need_known_launch(console)
    assert "mixed precision `bf16` is not used: --precision" in text_of(console)
    assert "--cpu is not used: --device" in text_of(console)
