"""The declarations: defaults are the recipe, names are unique, bounds hold."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gemma_lora.config import Config
from gemma_lora.loading import leaves

FLAGS = """
answer-batch answer-column accumulation alpha batch context-column delimiter device dropout encoding
epochs eval-steps gradient-checkpointing judge judge-concurrency judge-max-tokens judge-retries
judge-timeout learning-rate max-cost max-grad-norm max-length max-new-tokens messages-column micro-batch-tokens model
near-duplicate on-bad-row on-long-row path patience precision price-input price-output
probe
question-column rank repeats report-to schedule seed seeds shard-weights shared-dropout system-column targets temperature test test-rows train-seed
validation-rows warmup weight-decay
aa baseline canaries
rubric teacher
"""


def test_the_flags_are_these() -> None:
    """A renamed setting breaks saved commands and files: change this list knowingly."""
    assert sorted(leaf.flag.removeprefix("--") for leaf in leaves()) == sorted(FLAGS.split())


def test_leaf_names_are_unique_and_documented() -> None:
    names = [leaf.name for leaf in leaves()]
    assert len(set(names)) == len(names)
    assert not [leaf.place for leaf in leaves() if not leaf.field.description]


def test_the_default_is_the_recipe() -> None:
    config = Config()
    lora, train = config.lora, config.train
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert lora.targets == (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    assert (train.epochs, train.batch, train.accumulation, train.schedule) == (3, 4, 4, "cosine")
    assert train.warmup > 0
    assert config.model.precision == "auto"
    assert (config.model.model, config.judge.judge) == ("starter", "lexical")
    assert config.answer.temperature == 0
    assert config.advice() == []


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        Config().lora.rank = 3


@pytest.mark.parametrize(
    "tree",
    [
        {"lora": {"rank": 0}},
        {"lora": {"alpha": 0}},
        {"lora": {"alpha": float("nan")}},
        {"lora": {"dropout": 1.0}},
        {"lora": {"targets": ""}},
        {"lora": {"targets": "q_proj,q_proj"}},
        {"train": {"epochs": 0}},
        {"train": {"epochs": "inf"}},
        {"train": {"learning_rate": float("inf")}},
        {"train": {"learning_rate": -1}},
        {"train": {"batch": 0}},
        {"train": {"batch": 1.5}},
        {"train": {"max_length": 15}},
        {"train": {"warmup": 1.0}},
        {"train": {"schedule": "cubic"}},
        {"answer": {"temperature": -0.1}},
        {"answer": {"max_new_tokens": 0}},
        {"judge": {"judge_timeout": 0}},
        {"data": {"test_rows": 1}},
        {"data": {"near_duplicate": 0}},
        {"data": {"messages_column": "m", "question_column": "q"}},
        {"model": {"precision": "int8"}},
        {"seed": -1},
        {"seed": 2**32},
        {"unknown": {}},
        {"lora": {"unknown": 1}},
        {"lora": 3},
    ],
    ids=str,
)
def test_out_of_bounds_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(tree)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"lora": {"rank": 4}}, "little room to learn"),
        ({"lora": {"rank": 128, "alpha": 256}}, "more memory"),
        ({"lora": {"alpha": 128}}, "8 x rank"),
        ({"lora": {"dropout": 0.5}}, "dropout 0.5"),
        ({"train": {"learning_rate": 0.1}}, "may diverge"),
    ],
)
def test_the_unusual_is_allowed_with_a_line_on_it(tree: dict[str, Any], words: str) -> None:
    advice = Config.model_validate(tree).advice()
    assert any(words in line for line in advice)


def test_auto_is_none_in_any_case() -> None:
    tree = {
        "train": {"learning_rate": "auto", "eval_steps": "AUTO", "gradient_checkpointing": "auto"}
    }
    train = Config.model_validate(tree).train
    assert train.learning_rate is None
    assert train.eval_steps is None
    assert train.gradient_checkpointing is None
