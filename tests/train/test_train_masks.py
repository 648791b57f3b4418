"""Dropout masks: right in the mean, and a function of where they are drawn and of nothing else."""

from __future__ import annotations

import pytest
import torch

from gemma_lora.train.masks import Masks

SIZE = torch.Size((400, 257))


def drawn(masks: Masks, place=None, *, step=0, micro=0, size=SIZE, kind=torch.float32):
    masks.at(step, micro)
    return (place or masks.place()).drop_(torch.ones(size, dtype=kind)) * masks.scale


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_share_of_zeros_is_the_rate_and_the_mean_is_kept(rate):
    mask = drawn(Masks(rate, 0))
    count = SIZE.numel()
    spread = (rate * (1 - rate) / count) ** 0.5
    assert float((mask == 0).float().mean()) == pytest.approx(rate, abs=5 * spread)
    assert mask.unique().tolist() == [0, pytest.approx(1 / (1 - rate), rel=2e-4)]
    assert float(mask.mean()) == pytest.approx(1, abs=5 * spread / (1 - rate))
    # in every column and row, not only as a whole
    for axis in (0, 1):
        shares = (mask == 0).float().mean(axis)
        edge = 6 * (rate * (1 - rate) / mask.shape[axis]) ** 0.5
        assert float((shares - rate).abs().max()) < edge


def test_the_distances_between_dropped_numbers_are_geometric():
    """As for independent draws: also one after the other, also the first and across rows."""
    for rate in (0.05, 0.3):
        mask = drawn(Masks(rate, 0), size=torch.Size((1000, 1000))).flatten()
        gaps = (mask == 0).nonzero().flatten().diff(prepend=torch.tensor([-1]))
        count = len(gaps)
        for gap in range(1, 6):
            share = rate * (1 - rate) ** (gap - 1)
            edge = 5 * (share * (1 - share) / count) ** 0.5
            assert float((gaps == gap).float().mean()) == pytest.approx(share, abs=edge)
    firsts = [int(drawn(Masks(0.3, seed), size=(64,)).eq(0).nonzero()[0]) for seed in range(2000)]
    assert firsts.count(0) == pytest.approx(600, abs=5 * (2000 * 0.3 * 0.7) ** 0.5)


def test_more_is_drawn_where_the_estimate_falls_short(monkeypatch):
    monkeypatch.setattr("gemma_lora.train.masks.math.sqrt", lambda count: -count / 8)  # a quarter
    mask = drawn(Masks(0.5, 0), size=torch.Size((20, 5000)))
    edge = 5 * 0.5 / 5000**0.5
    assert float(((mask == 0).float().mean(1) - 0.5).abs().max()) < edge


def test_the_same_key_gives_the_same_mask_whatever_was_drawn_before():
    first, second = Masks(0.2, 3), Masks(0.2, 3)
    places = [first.place() for _ in range(3)], [second.place() for _ in range(3)]
    for step in range(4):
        drawn(second, places[1][0], step=step)
    torch.randn(100)
    found = drawn(second, places[1][2], step=7, micro=1)
    assert torch.equal(found, drawn(first, places[0][2], step=7, micro=1))
    assert torch.equal(found, drawn(first, places[0][2], step=7, micro=1))  # and again


def test_another_seed_step_micro_batch_or_place_gives_an_independent_mask():
    masks, other = Masks(0.5, 0), Masks(0.5, 1)
    place, second = masks.place(), masks.place()
    found = [
        drawn(masks, place),
        drawn(masks, place, step=1),
        drawn(masks, place, micro=1),
        drawn(masks, second),
        drawn(other),
    ]
    edge = 5 / SIZE.numel() ** 0.5
    for n, one in enumerate(found):
        for two in found[:n]:
            together = torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]
            assert abs(float(together)) < edge


def test_whole_masks_of_other_devices_are_drawn_once_in_a_row_and_again_the_same():
    """As on a GPU, where a backward pass asks for each place twice."""
    masks, x = Masks(0.3, 0), torch.ones(400, 257)
    masks.at(2, 1)
    first = masks.mask(1, x)
    assert masks.mask(1, x) is first
    second = masks.mask(2, x)
    assert not torch.equal(second, first)
    again = masks.mask(1, x)
    assert again is not first
    assert torch.equal(again, first)
    assert masks.mask(1, x[:100]).shape == (100, 257)
    assert masks.mask(1, x[:100].bfloat16()).dtype == torch.bfloat16
    masks.at(2, 2)
    assert not torch.equal(masks.mask(1, x), first)
    edge = 5 * (0.3 * 0.7 / x.numel()) ** 0.5
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=edge)


def test_drawing_uses_no_other_random_state():
    before = torch.get_rng_state()
    drawn(Masks(0.5, 0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7,), (2, 3, 5)])
def test_any_shape_and_kind(size):
    mask = drawn(Masks(0.5, 0), size=torch.Size(size), kind=torch.bfloat16)
    assert mask.shape == torch.Size(size)
    assert mask.dtype == torch.bfloat16
    assert set(mask.unique().tolist()) <= {0.0, 2.0}
