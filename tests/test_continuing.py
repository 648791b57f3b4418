"""Whose folder it is: what may be changed when a run goes on, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_lora.config import Config
from gemma_lora.continuing import claim, claimed, identity
from gemma_lora.errors import ConfigError, EnvironmentFault


def config(data: Path, **train: object) -> Config:
    return Config.model_validate({"data": {"path": str(data)}, "train": train})


def test_the_remedies_for_memory_go_on_in_the_same_folder(tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("question,answer\na,b\n")
    first = config(data)
    with claimed(first, tmp_path / "run") as run:
        claim(first, run)
    for change in (
        {"micro_batch_tokens": 256},
        {"gradient_checkpointing": True},
        {"micro_batch_tokens": 64, "gradient_checkpointing": False},
    ):
        other = config(data, **change)
        assert identity(other) == identity(first)  # so the folder's usual name is the same too
        with claimed(other, tmp_path / "run") as run:
            claim(other, run)
    with (
        pytest.raises(ConfigError, match="another configuration") as caught,
        claimed(config(data, max_length=256), tmp_path / "run"),
    ):
        pass
    assert caught.value.details == ("train.max_length: was 1024, is 256",)


def test_a_name_that_no_disk_takes_is_an_expected_fault(tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("question,answer\na,b\n")
    with pytest.raises(EnvironmentFault), claimed(config(data), tmp_path / ("x" * 300)):
        pass
