"""Every shipped config loads, names a supported model and its licence, and computes its memory right."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.memory import GIB, SHAPES, TARGETS, answering, card, cell, line, training

from gemma_lora.config import Config
from gemma_lora.loading import dump, load_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
ON_GPU = [path for path in CONFIGS if path.parent.name.startswith("gpu-")]
MANY = [path for path in CONFIGS if path.parent.name.startswith("gpus-")]
SHARDED = [path for path in MANY if load_config(path).train.shard_weights]
ON_GPUS = [path for path in MANY if path not in SHARDED]


def _name(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


def test_there_are_configs_for_every_size_of_gpu() -> None:
    assert {path.parent.name for path in ON_GPU} == {f"gpu-{size}gb" for size in TARGETS}
    names = {"quickstart.yaml", "customer_service.yaml", "programming_assistant.yaml"}
    assert names <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_config_loads_and_names_model_licence_and_learning_rate(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    text = path.read_text(encoding="utf-8")
    assert config.model.model == "starter" or config.model.model in SHAPES
    licence = "Apache-2.0" if config.model.model == "starter" else "Gemma Terms of Use"
    assert licence in text
    if config.model.model != "starter":
        assert f"https://huggingface.co/{config.model.model}" in text
    assert config.train.learning_rate is not None, "each config states its own learning rate"
    assert not config.advice(), "a shipped config is within the usual ranges"
    again = tmp_path / "again.yaml"
    again.write_text(dump(config), encoding="utf-8")
    assert load_config(again) == config


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p not in ON_GPU + MANY], ids=lambda p: p.name
)
def test_data_file_of_a_config_is_there_with_the_columns(path: Path) -> None:
    data = load_config(path).data
    assert data.path is not None
    header = (ROOT / data.path).read_text(encoding="utf-8").splitlines()[0].split(",")
    for column in (data.question_column, data.answer_column):
        assert column is None or column in header


@pytest.mark.parametrize("path", ON_GPUS, ids=_name)
def test_config_for_several_gpus_is_the_one_for_each_with_more_rows_a_step(path: Path) -> None:
    count, size = path.parent.name.removeprefix("gpus-").removesuffix("gb").split("x")
    config, text = load_config(path), path.read_text(encoding="utf-8")
    one = load_config(path.parent.parent / f"gpu-{size}gb" / path.name)
    rows = config.train.batch * config.train.accumulation
    assert rows >= 8 * int(count), "each GPU has enough to do in a step"
    accumulation = {"accumulation": config.train.accumulation}
    assert config == one.model_copy(update={"train": one.train.model_copy(update=accumulation)})
    name = path.relative_to(ROOT).as_posix()
    command = (
        f"torchrun --standalone --nproc-per-node {count} -m gemma_lora.cli run DATA --config {name}"
    )
    assert command in text
    assert f"{rows} rows a step, dealt out to {count} GPUs" in text


@pytest.mark.parametrize("path", SHARDED, ids=_name)
def test_sharded_config_is_for_a_model_that_one_of_the_gpus_does_not_hold(path: Path) -> None:
    count, size = path.parent.name.removeprefix("gpus-").removesuffix("gb").split("x")
    config, text = load_config(path), path.read_text(encoding="utf-8")
    assert not (path.parent.parent / f"gpu-{size}gb" / path.name).exists()
    assert SHAPES[config.model.model].parameters * 2 / GIB > TARGETS[int(size)]
    rows = config.train.batch * config.train.accumulation
    assert rows >= 8 * int(count)
    name = path.relative_to(ROOT).as_posix()
    launcher = f"torchrun --standalone --nproc-per-node {count} -m gemma_lora.cli"
    assert f"{launcher} train DATA --config {name}" in text
    assert f"{rows} rows a step, dealt out to {count} GPUs" in text


@pytest.mark.parametrize("path", ON_GPU + MANY, ids=_name)
def test_memory_in_the_comment_is_what_the_planner_says(path: Path) -> None:
    config, text = load_config(path), path.read_text(encoding="utf-8")
    assert config.model.model == f"google/{path.stem}"
    assert config.train.gradient_checkpointing is config.train.micro_batch_tokens is None
    plan = training(path, config)
    assert f"# {line(plan)}\n" in text
    assert plan.warning is None
    needs = answering(
        SHAPES[config.model.model],
        batch=config.answer.answer_batch,
        prompt=config.train.max_length,
        new=config.answer.max_new_tokens,
    )
    assert f"Answering: {needs:.1f} GiB computed, not measured" in text
    assert plan.forecast.total / GIB <= TARGETS[card(path)]
    assert path in SHARDED or needs <= TARGETS[card(path)]


def test_parameters_are_the_published_ones() -> None:
    billions = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    published = {
        "google/gemma-2b-it": 2.51,
        "google/gemma-7b-it": 8.54,
        "google/gemma-2-2b-it": 2.61,
        "google/gemma-2-9b-it": 9.24,
        "google/gemma-3-1b-it": 1.00,
        "google/gemma-3-4b-it": 3.88,
        "google/gemma-3-12b-it": 11.77,
        "google/gemma-3-27b-it": 27.01,
    }
    assert billions == pytest.approx(published, abs=0.006)


def test_table_of_the_readme_is_what_the_configs_say() -> None:
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    rows = {
        row[0]: row[1:]
        for row in (
            [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
        )
        if len(row) == 7 and row[0].startswith("gemma-")
    }
    assert set(rows) == {name.removeprefix("google/") for name in SHAPES}
    for name, cells in rows.items():
        shape = SHAPES[f"google/{name}"]
        adapter = 16 * shape.adapter(16, Config().lora.targets)
        assert cells[:2] == [f"{size / GIB:.1f}" for size in (shape.parameters * 2, adapter)]
        for size, found in zip(TARGETS, cells[2:], strict=True):
            path = ROOT / "configs" / f"gpu-{size}gb" / f"{name}.yaml"
            if path.exists():
                config = load_config(path)
                assert found == cell(training(path, config), config)
            else:
                assert found == "no"
