"""What a step consists of: rows, order, epochs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tiny import small_tokenizer
from support.training import example

from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train.plan import StepPlan


def plan_of(rows=23, *, per_step=6, epochs: float = 2, seed=0):
    return StepPlan(rows, per_step=per_step, epochs=epochs, seed=seed)


def test_each_epoch_covers_each_row_once_in_another_order():
    plan = plan_of()
    assert (plan.steps_per_epoch, plan.steps) == (4, 8)
    epochs = [
        list(itertools.chain.from_iterable(plan[s].rows for s in steps))
        for steps in (range(4), range(4, 8))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]


def test_a_step_has_exactly_the_configured_rows_but_for_the_last_of_an_epoch():
    plan = plan_of(epochs=3)
    assert [len(plan[s].rows) for s in range(plan.steps)] == [6, 6, 6, 5] * 3
    assert [plan[s].number for s in range(plan.steps)] == list(range(12))


def test_the_plan_depends_on_the_seed_alone_and_on_no_step_before():
    assert plan_of()[5] == plan_of()[5]
    assert plan_of(seed=1)[5].rows != plan_of()[5].rows
    forwards = plan_of()
    assert [forwards[s] for s in range(8)] == [plan_of()[s] for s in range(8)]


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.25, 1), (0.3, 2), (1, 4), (2.5, 10)])
def test_fractions_of_epochs_round_up_to_steps(epochs, steps):
    plan = plan_of(epochs=epochs)
    assert plan.steps == len(plan) == steps


def test_epoch_after_counts_rows():
    plan = plan_of()
    assert plan.epoch_after(0) == 0
    assert plan.epoch_after(1) == pytest.approx(6 / 23)
    assert plan.epoch_after(4) == 1
    assert plan.epoch_after(8) == 2


def test_long_rows_are_dropped_or_cut_and_counted():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    examples = [example(n) for n in range(10)]
    lengths = [len(fmt.example(e.messages)) for e in examples]
    limit = int(np.median(lengths))
    over = sum(length > limit for length in lengths)
    assert over
    dropped = tokenise(examples, fmt, max_length=limit, keep_answer=False)
    assert (len(dropped), dropped.dropped, dropped.shortened) == (10 - over, over, 0)
    kept = tokenise(examples, fmt, max_length=limit, keep_answer=True)
    assert kept.shortened + kept.dropped == over
    assert kept.shortened > 0
    assert kept.lengths.max() <= limit
    assert kept.supervised.min() > 0
