"""The arithmetic of Gemma's layers with LoRA, without waste: the same numbers, fewer passes.

`install` gives an adapter's layers forward functions with gradients written by hand, and takes them
away again. Compared with PEFT and autograd: one dropout mask for projections that read the same
input and none of them stored; the update added in place; of the MLP only gate and up are kept for
the backward pass; normalisation keeps its input only; on a CPU, matrix products by oneDNN, where
PyTorch would take MKL. Weights, names and the adapter on disk stay plain PEFT. What is not a plain
LoRA layer keeps PEFT's own forward, and is counted. Reads and writes no file.

Source of the formulas: LoRA (arXiv 2106.09685), y = W x + s B A dropout(x).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh

from gemma_lora.train.masks import Masks, Place

__all__ = ["installed", "linear"]

_SHARED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Projections by the input that they read."""
_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")
"""Normalisations by (1 + weight) in fp32."""
_MLPS = ("GemmaMLP", "Gemma2MLP", "Gemma3MLP", "Gemma4TextMLP")
"""Those that compute down(act(gate(x)) * up(x)) and nothing else."""


def _onednn() -> Callable[..., Tensor] | None:
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _onednn()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (T, in) times weight (out, in) transposed.

    oneDNN's fp32 product is up to half as fast again as MKL's on AMD processors and no slower on
    others (docs/benchmarks.md); PyTorch itself takes it for 16-bit numbers only.
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _ONEDNN is not None:
        return _ONEDNN(x, weight, None, "none", [], "")
    return functional.linear(x, weight)


class _Projection:
    """The tensors of one LoRA layer; PEFT's own, not copies."""

    def __init__(self, layer: PeftLinear, place: Place | None) -> None:
        name = layer.active_adapters[0]
        self.a = cast(Tensor, layer.lora_A[name].weight)  # (r, in)
        self.b = cast(Tensor, layer.lora_B[name].weight)  # (out, r)
        self.scale = float(layer.scaling[name])
        self.layer, self.place = layer, place

    @property
    def weight(self) -> Tensor:
        """Looked up anew: FSDP2 puts another tensor there around the layer's passes."""
        return cast(Tensor, self.layer.base_layer.weight)

    @property
    def rest(self) -> tuple[Tensor, Tensor, Tensor, float, Place | None]:
        """Weight, A, B, scale and dropout, as the functions below take them."""
        place = self.place if self.layer.training else None
        scale = self.scale if place is None else self.scale * place.scale
        return self.weight, self.a, self.b, scale, place

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, _LoraLinear.apply(x, *self.rest))


def _update(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """y += scale * (x A^T) B^T; returns x A^T."""
    inner = linear(x, a.to(x.dtype))
    y.addmm_(inner, b.to(x.dtype).t(), alpha=scale)
    return inner


def _gradients(
    dy: Tensor, inner: Tensor, dropped: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(s dy B, dA, dB); `dropped` is the input after dropout."""
    outer = linear(dy, b.to(dy.dtype).t()).mul_(scale)
    da = linear(outer.t(), dropped.t())
    db = linear(inner.t(), dy.t()).t()  # as (r, out): the fast way round for oneDNN
    return outer, da.float(), db.float().mul_(scale)


def _input_gradient(
    dy: Tensor, outer: Tensor, weight: Tensor, a: Tensor, place: Place | None, room: Tensor | None
) -> Tensor:
    """dy W + drop(outer A); `room` is memory of the result's size that may be overwritten."""
    dx = linear(dy, weight.t())
    if place is None or room is None:
        return dx.addmm_(outer, a.to(dx.dtype))
    return dx.add_(place.drop_(torch.mm(outer, a.to(dx.dtype), out=room)))


class _LoraLinear(torch.autograd.Function):
    """One adapted projection. Keeps its input and the r numbers a token between A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        place: Place | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        y = linear(flat, weight)
        inner = _update(y, flat if place is None else place.drop_(flat.clone()), a, b, scale)
        ctx.save_for_backward(flat, weight, a, b, inner)
        ctx.scale, ctx.place, ctx.shape, ctx.kind = scale, place, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        flat, weight, a, b, inner = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        own = None if ctx.place is None else ctx.place.drop_(flat.clone())
        outer, da, db = _gradients(dy, inner, flat if own is None else own, b, ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:  # not for the first layer: embeddings are frozen
            dx = _input_gradient(dy, outer, weight, a, ctx.place, own)
            dx = dx.view(ctx.shape).to(ctx.kind)
        return dx, None, da, db, None, None


class _GatedDown(torch.autograd.Function):
    """down(gelu(gate) * up) with the adapted down projection. Keeps gate and up only."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        place: Place | None,
    ) -> Tensor:
        gate_flat, up_flat = (x.reshape(-1, x.shape[-1]) for x in (gate, up))
        hidden = functional.gelu(gate_flat, approximate="tanh").mul_(up_flat)
        y = linear(hidden, weight)
        inner = _update(y, hidden if place is None else place.drop_(hidden), a, b, scale)
        ctx.save_for_backward(gate_flat, up_flat, weight, a, b, inner)
        ctx.scale, ctx.place, ctx.shape = scale, place, gate.shape
        return y.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        gate, up, weight, a, b, inner = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        active = functional.gelu(gate, approximate="tanh")
        hidden = active * up
        if ctx.place is not None:
            ctx.place.drop_(hidden)
        outer, da, db = _gradients(dy, inner, hidden, b, ctx.scale)
        dh = _input_gradient(dy, outer, weight, a, ctx.place, hidden)
        del hidden
        dup = active.mul_(dh)
        dgate = torch.ops.aten.gelu_backward(dh.mul_(up), gate, approximate="tanh")
        return dgate.view(ctx.shape), dup.view(ctx.shape), None, da, db, None, None


class _Norm(torch.autograd.Function):
    """Gemma's RMSNorm, x / rms(x) * (1 + weight) in fp32, with frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(1.0 + weight.float()).type_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, inverse = ctx.saved_tensors
        normal = x.float() * inverse
        scaled = grads[0].float() * (1.0 + weight.float())
        along = (scaled * normal).mean(-1, keepdim=True)
        dx = normal.mul_(-along).add_(scaled).mul_(inverse)
        return dx.type_as(x), None, None


@contextmanager
def installed(
    model: PeftModel, *, dropout: float, seed: int, shared: bool
) -> Generator[tuple[Masks, list[str]]]:
    """Train with the functions above inside; gives the masks and the names of layers left to PEFT.

    `shared`: one dropout mask for projections with the same input; else one each, as PEFT does.
    """
    masks = Masks(dropout, seed)
    changed: list[nn.Module] = []
    left: list[str] = []

    def put(module: nn.Module, forward: Callable[..., Tensor]) -> None:
        module.forward = forward
        changed.append(module)

    try:
        for parent in model.modules():
            projections = _projections(parent, masks if dropout else None, shared)
            for found in projections.values():
                put(found.layer, found)
            down = projections.get("down_proj")
            if down is not None and _gated(parent):
                put(parent, _mlp(parent, down))
            if type(parent).__name__ in _NORMS and not parent.weight.requires_grad:
                put(parent, _norm(parent))
        left += [name for name, module in model.named_modules() if _is_left(module, changed)]
        yield masks, left
    finally:
        for module in changed:
            del module.forward


def _projections(parent: nn.Module, masks: Masks | None, shared: bool) -> dict[str, _Projection]:
    """The plain LoRA layers among the children."""
    found: dict[str, _Projection] = {}
    children = dict(parent.named_children())
    for group in _SHARED:
        place: Place | None = None
        for name in group:
            layer = children.get(name)
            if not _is_plain(layer):
                continue
            if masks is not None and (place is None or not shared):
                place = masks.place()
            found[name] = _Projection(cast(PeftLinear, layer), place)
    return found


def _is_left(module: nn.Module, changed: list[nn.Module]) -> bool:
    """Whether `module` is an adapted layer that only PEFT itself computes."""
    return isinstance(module, BaseTunerLayer) and not any(module is other for other in changed)


def _is_plain(layer: Any) -> bool:
    """LoRA as in the paper: one active adapter on a frozen full-precision linear map without bias."""
    if type(layer) is not PeftLinear or type(layer.base_layer) is not nn.Linear:
        return False
    base, names = layer.base_layer, layer.active_adapters
    biases: list[Any] = [base.bias, *(layer.lora_B[name].bias for name in names)]
    return (
        len(names) == 1
        and not any(bias is not None for bias in biases)
        and not base.weight.requires_grad
        and not layer.merged
        and not layer.disable_adapters
        and not layer.lora_variant
    )


def _gated(parent: nn.Module) -> bool:
    """Whether `parent` is an MLP that `_GatedDown` computes."""
    return type(parent).__name__ in _MLPS and isinstance(parent.act_fn, GELUTanh)


def _mlp(parent: nn.Module, down: _Projection) -> Callable[[Tensor], Tensor]:
    gate, up = cast(nn.Module, parent.gate_proj), cast(nn.Module, parent.up_proj)

    def forward(x: Tensor) -> Tensor:
        return cast(Tensor, _GatedDown.apply(gate(x), up(x), *down.rest))

    return forward


def _norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    weight, epsilon = cast(Tensor, module.weight), float(cast(float, module.eps))

    def forward(x: Tensor) -> Tensor:
        return cast(Tensor, _Norm.apply(x, weight, epsilon))

    return forward
