"""The gated activation and its gradient are those of PyTorch's gelu, whatever the size and format."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gemma_lora.train.gated import BLOCK, gated, gated_backward, rows_at_once

SIZES = [(1, 1), (3, 7), (BLOCK, 16), (700, 33)]  # below, at and above a block of rows


def parts(size, kind=torch.float32):
    torch.manual_seed(0)
    gate = 3 * torch.randn(size)
    gate.view(-1)[:1] = 30.0  # far out on either side
    gate.view(-1)[-1:] = -30.0
    return [x.to(kind) for x in (gate, torch.randn(size), torch.randn(size))]


def expected(gate, up, dy):
    gate, up = (x.double().requires_grad_() for x in (gate, up))
    product = functional.gelu(gate, approximate="tanh") * up
    return product.detach(), *torch.autograd.grad(product, (gate, up), dy.double())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("kind", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"]
)
def test_product_and_gradients_are_those_of_gelu(size, kind, tolerance):
    gate, up, dy = parts(size, kind)
    product, dgate, dup = expected(gate, up, dy)
    out = gated(gate, up, torch.empty_like(gate))
    torch.testing.assert_close(out.double(), product, rtol=tolerance, atol=tolerance)
    found = gated_backward(gate.clone(), up, dy.clone(), torch.empty_like(gate))
    for ours, exact in zip(found, (product, dgate, dup), strict=True):
        assert ours.dtype == kind
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=3 * tolerance)


def test_only_a_cpu_in_fp32_is_asked_block_by_block():
    assert rows_at_once(torch.empty(700, 3)) == BLOCK
    assert rows_at_once(torch.empty(700, 3, dtype=torch.bfloat16)) == 700
    assert rows_at_once(torch.empty(700, 3, device="meta")) == 700
    assert rows_at_once(torch.empty(0, 3, device="meta")) == 1  # of which none is left to split


def test_results_share_no_memory():
    found = gated_backward(*parts((300, 5)), torch.empty(300, 5))
    assert len({x.data_ptr() for x in found}) == 3
