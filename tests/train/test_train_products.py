"""Matrix products by either library, into memory that is there; blocks that are lent and given back."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional

from gemma_lora.train import products
from gemma_lora.train.products import Buffers, by_numpy, linear


@pytest.fixture(params=[True, False], ids=["numpy", "torch"])
def library(request, monkeypatch):
    monkeypatch.setattr(products, "by_numpy", lambda: request.param)
    return request.param


def test_the_matrix_product_is_the_usual_one(library):
    x, weight = torch.randn(7, 12), torch.randn(9, 12)
    for left, right in [
        (x, weight),
        (weight, x),
        (x.t().contiguous().t(), weight),
        (x[::2], weight),
        (x, torch.randn(12, 9).t()),
    ]:
        expected = functional.linear(left, right)
        torch.testing.assert_close(linear(left, right), expected)
        out = torch.empty_like(expected)
        assert linear(left, right, out) is out
        torch.testing.assert_close(out, expected)
    half = x.bfloat16(), weight.bfloat16()
    assert torch.equal(linear(*half), functional.linear(*half))


def test_weights_that_could_have_a_gradient_are_multiplied_as_they_are(library):
    weight = torch.nn.Parameter(torch.randn(3, 4))
    x = torch.randn(2, 4, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), functional.linear(x, weight))


@pytest.mark.parametrize(
    ("maker", "blas", "wanted"),
    [
        ("vendor_id\t: AuthenticAMD", "scipy-openblas", True),
        ("AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD", "openblas", True),
        ("vendor_id\t: GenuineIntel", "scipy-openblas", False),
        ("Intel64 Family 6 Model 158 Stepping 10, GenuineIntel", "openblas", False),
        ("vendor_id\t: AuthenticAMD", "mkl-sdl", False),
    ],
)
def test_the_library_follows_from_the_processor_alone(maker, blas, wanted, monkeypatch):
    monkeypatch.setattr(products, "_processor", lambda: maker)
    shown = {"Build Dependencies": {"blas": {"name": blas}}}
    monkeypatch.setattr(products.np, "show_config", lambda mode: shown)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    by_numpy.cache_clear()
    assert by_numpy() is wanted
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    by_numpy.cache_clear()
    assert not by_numpy()
    monkeypatch.undo()
    by_numpy.cache_clear()


def test_a_block_given_back_is_lent_again_and_one_in_use_is_not():
    buffers, like = Buffers(), torch.empty(0)
    first, second = buffers.lend(300, 8, like), buffers.lend(300, 8, like)
    assert first.shape == (300, 8)
    assert first.is_contiguous()
    assert first.data_ptr() != second.data_ptr()
    buffers.give_back(first)
    again = buffers.lend(290, 8, like)  # a little smaller
    assert again.data_ptr() == first.data_ptr()
    assert buffers.lend(290, 8, like).data_ptr() not in (again.data_ptr(), second.data_ptr())
    buffers.give_back(again)
    assert buffers.lend(500, 8, like).data_ptr() == first.data_ptr()  # rounded up beforehand
    buffers.give_back(second)
    assert buffers.lend(290, 8, like.bfloat16()).dtype == torch.bfloat16


def kept(buffers):
    """Numbers in the blocks that are free."""
    return sum(block.numel() for block in buffers._free)


def test_what_is_kept_is_what_the_largest_micro_batch_takes():
    """Micro-batches that grow from step to step do not leave a set of blocks each."""
    buffers, like = Buffers(), torch.empty(0)
    other = buffers.lend(300, 8, like.bfloat16())
    buffers.give_back(other)
    for rows in (300, 600, 900, 400, 900):
        lent = [buffers.lend(rows, 8, like) for _ in range(5)]
        assert len({block.data_ptr() for block in lent}) == 5
        buffers.give_back(*lent)
    assert [b.numel() for b in buffers._free if b.dtype == torch.float32] == [1024 * 8] * 5
    assert [b.numel() for b in buffers._free if b.dtype == torch.bfloat16] == [512 * 8]


def test_blocks_of_any_sizes_never_grow_beyond_the_most_that_was_lent():
    """Layers of several widths too: at each moment no more blocks than were lent at once."""
    dice, like = random.Random(0), torch.empty(0)
    buffers, most, largest = Buffers(), 0, 0
    for _ in range(200):
        rows, lent = dice.randint(1, 1500), []
        for width in dice.choices((4, 8), k=dice.randint(1, 6)):
            lent.append(buffers.lend(rows, width, like))
            most = max(most, len(lent))
            largest = max(largest, -(-rows // 256) * 256 * width)
            assert len(buffers._free) + len(lent) <= most
            assert kept(buffers) <= (most - len(lent)) * largest
        dice.shuffle(lent)
        buffers.give_back(*lent)


def test_autograd_takes_lent_blocks_for_tensors_of_their_own():
    """What is written to a block after it was given back is no change of the tensor lent before."""
    buffers = Buffers()
    lent = buffers.lend(4, 2, torch.empty(0))
    lent.fill_(1.0)
    weight = torch.ones(2, requires_grad=True)
    loss = (lent * weight).sum()  # keeps `lent` for its gradient
    other = torch.empty(0).set_(lent.untyped_storage(), 0, (8,))
    other.fill_(1.0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, 4.0]


def test_cleared_blocks_are_freed():
    buffers = Buffers()
    buffers.give_back(buffers.lend(1000, 1000, torch.empty(0)))
    assert buffers._free
    buffers.clear()
    assert not buffers._free
