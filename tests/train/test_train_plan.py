"""What a step consists of: masks, padding, order, epochs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tiny import small_tokenizer
from support.training import example

from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train.batches import IGNORED, StepPlan, by_length, collate


@pytest.fixture(scope="module")
def fmt():
    return PromptFormat(small_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def rows(fmt):
    return tokenise([example(n) for n in range(23)], fmt, max_length=200, keep_answer=False)


def plan_of(rows, **settings):
    defaults = {"batch": 2, "accumulation": 3, "epochs": 2, "seed": 0, "pad_id": 0}
    return StepPlan(rows, **{**defaults, **settings})


def test_labels_are_the_supervised_ids_and_nothing_else(fmt, rows):
    batch = collate(rows, [0, 3, 4], fmt.pad_id)
    for line, number in enumerate([0, 3, 4]):
        encoded = fmt.example(example(number).messages)
        length = len(encoded)
        assert batch.input_ids[line, :length].tolist() == list(encoded.ids)
        assert batch.input_ids[line, length:].eq(fmt.pad_id).all()
        wanted = [i if s else IGNORED for i, s in zip(*vars(encoded).values(), strict=True)]
        assert batch.labels[line, :length].tolist() == wanted
        assert batch.labels[line, length:].eq(IGNORED).all()
    assert batch.supervised == int((batch.labels[:, 1:] != IGNORED).sum())


def test_the_end_of_turn_is_supervised(fmt, rows):
    batch = collate(rows, [1], fmt.pad_id)
    supervised = batch.labels[batch.labels != IGNORED].tolist()
    assert supervised[-1] == fmt.end_of_turn_id


def test_each_epoch_covers_each_row_once_in_another_order(rows):
    plan = plan_of(rows)
    assert (plan.steps_per_epoch, plan.steps) == (4, 8)
    epochs = [
        list(itertools.chain.from_iterable(plan.rows_of(s) for s in steps))
        for steps in (range(4), range(4, 8))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]


def test_the_plan_depends_on_the_seed_alone_and_on_no_step_before(rows):
    assert plan_of(rows).rows_of(5) == plan_of(rows).rows_of(5)
    assert plan_of(rows, seed=1).rows_of(5) != plan_of(rows).rows_of(5)


def test_a_step_holds_its_rows_whatever_the_batches(rows):
    whole, cut = (
        plan_of(rows, batch=6, accumulation=1)[0],
        plan_of(rows, batch=1, accumulation=6)[0],
    )
    assert len(whole.batches) == 1
    assert len(cut.batches) == 6
    assert (whole.supervised, whole.tokens) == (cut.supervised, cut.tokens)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.25, 1), (0.3, 2), (1, 4), (2.5, 10)])
def test_fractions_of_epochs_round_up_to_steps(rows, epochs, steps):
    plan = plan_of(rows, epochs=epochs)
    assert plan.steps == len(plan) == steps


def test_epoch_after_counts_rows(rows):
    plan = plan_of(rows)
    assert plan.epoch_after(0) == 0
    assert plan.epoch_after(1) == pytest.approx(6 / 23)
    assert plan.epoch_after(4) == 1
    assert plan.epoch_after(8) == 2


def test_long_rows_are_dropped_or_cut_and_counted(fmt):
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


def test_validation_batches_cover_all_rows_longest_first(rows):
    batches = by_length(rows, 4, 0)
    assert sum(batch.supervised for batch in batches) == int(rows.supervised.sum())
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)
