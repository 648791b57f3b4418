"""Rows into micro-batches: what the bins hold, and what of a row is the label."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import small_tokenizer
from support.training import example

from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train.packing import IGNORED, batches, collate, pack


@pytest.fixture(scope="module")
def fmt():
    return PromptFormat(small_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def rows(fmt):
    return tokenise([example(n) for n in range(23)], fmt, max_length=200, keep_answer=False)


LENGTHS = st.lists(st.integers(1, 120), max_size=60)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 150))
def test_every_row_is_in_one_bin_and_the_budget_holds(lengths, budget):
    bins = pack(lengths, budget)
    assert sorted(row for found in bins for row in found) == list(range(len(lengths)))
    for found in bins:
        assert found
        assert len(found) == 1 or sum(lengths[row] for row in found) <= budget
    assert pack(lengths, budget) == bins


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 150))
def test_bins_are_few(lengths, budget):
    """Against what no packing can undercut: all tokens in full bins, and rows over half the budget,
    no two of which share a bin. Best fit is within 3/2 of the larger one (bins are two thirds full
    but for one, or hold one large row); rows over the whole budget stand alone."""
    alone = sum(length > budget for length in lengths)
    rest = [length for length in lengths if length <= budget]
    fewest = max(math.ceil(sum(rest) / budget), sum(2 * length > budget for length in rest))
    found = len(pack(lengths, budget)) - alone
    assert fewest <= found <= 3 / 2 * fewest + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(30, 60))
def test_bins_are_at_most_11_9_of_the_fewest_that_there_are(lengths, budget):
    def fewest(left: list[int], bins: tuple[int, ...]) -> int:
        """By trying everything."""
        if not left:
            return len(bins)
        best = fewest(left[1:], (*bins, left[0]))
        for place in set(bins):
            if place + left[0] <= budget:
                index = bins.index(place)
                filled = (*bins[:index], place + left[0], *bins[index + 1 :])
                best = min(best, fewest(left[1:], filled))
        return best

    assert len(pack(lengths, budget)) <= 11 / 9 * fewest(lengths, ()) + 1


def test_each_row_goes_into_the_fullest_bin_that_holds_it():
    #        60 and 50 open bins; 40 fits the first exactly, 30 and 20 the second, 45 none
    assert pack([20, 60, 30, 50, 40, 45], 100) == [[1, 4], [3, 5], [2, 0]]
    assert pack([], 100) == []
    assert pack([7, 200, 9], 1) == [[1], [2], [0]]


def test_a_batch_is_its_rows_one_after_the_other(fmt, rows):
    chosen = [3, 0, 4]
    batch = collate(rows, chosen)
    encoded = [fmt.example(example(number).messages) for number in chosen]
    assert batch.lengths == tuple(len(row) for row in encoded)
    assert batch.tokens == sum(batch.lengths) == batch.input_ids.shape[1]
    assert batch.input_ids[0].tolist() == [i for row in encoded for i in row.ids]
    assert batch.position_ids[0].tolist() == [i for row in encoded for i in range(len(row))]


def test_labels_are_the_next_token_where_it_is_supervised_and_nothing_else(fmt, rows):
    chosen = [3, 0, 4]
    batch = collate(rows, chosen)
    wanted = []
    for number in chosen:
        encoded = fmt.example(example(number).messages)
        following = zip(encoded.ids[1:], encoded.supervised[1:], strict=True)
        wanted += [*(i if s else IGNORED for i, s in following), IGNORED]
    assert batch.labels[0].tolist() == wanted
    assert batch.supervised == sum(label != IGNORED for label in wanted)
    assert batch.supervised == rows.tokens(chosen)[1]


def test_the_end_of_turn_is_supervised(fmt, rows):
    batch = collate(rows, [1])
    supervised = batch.labels[batch.labels != IGNORED].tolist()
    assert supervised[-1] == fmt.end_of_turn_id


@pytest.mark.parametrize("budget", [1, 60, 150, 10_000])
def test_batches_cover_the_chosen_rows_fullest_first(rows, budget):
    chosen = [5, 1, 22, 8, 13, 2]
    made = batches(rows, chosen, budget)
    assert sum(batch.supervised for batch in made) == rows.tokens(chosen)[1]
    assert sum(batch.tokens for batch in made) == rows.tokens(chosen)[0]
    found = sorted(length for batch in made for length in batch.lengths)
    assert found == sorted(int(rows.lengths[row]) for row in chosen)
    tokens = [batch.tokens for batch in made]
    assert tokens == sorted(tokens, reverse=True)
    assert all(batch.tokens <= budget or len(batch.lengths) == 1 for batch in made)
    assert len(made) == (len(chosen) if budget == 1 else 1 if budget == 10_000 else len(made))


def test_a_batch_reads_its_rows_once(rows, monkeypatch):
    """Reading the table is most of the time that packing takes."""
    honest, read = type(rows.table).__getitem__, []

    def counting(self, key):
        read.append(key)
        return honest(self, key)

    monkeypatch.setattr(type(rows.table), "__getitem__", counting)
    collate(rows, [4, 2])
    assert read == [[4, 2]]
