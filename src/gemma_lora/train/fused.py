"""The arithmetic of Gemma's layers with LoRA, without waste: the same numbers, fewer passes.

`installed` gives an adapter's layers forward functions with gradients written by hand, and takes them
away again. Compared with PEFT and autograd: projections that read the same input are one function
with one dropout mask, none of it stored as numbers; updates are added in place; of the MLP only gate
and up are kept for the backward pass, in blocks that are used again; normalisation keeps its input
only. Weights, names and the adapter on disk stay plain PEFT. What is not a plain LoRA layer keeps
PEFT's own forward, and is counted. Reads and writes no file.

Source of the formulas: LoRA (arXiv 2106.09685), y = W x + s B A dropout(x).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import GELUTanh

from gemma_lora.model.families import family_of
from gemma_lora.train.gated import gated, gated_backward, rows_at_once
from gemma_lora.train.masks import Masks, Place
from gemma_lora.train.products import Buffers, linear

__all__ = ["Installed", "installed"]

_SHARED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Projections by the input that they read."""


# ---------------------------------------------------------------------- adapted projections


class _Projection:
    """One LoRA layer as PEFT holds it; called, its forward function."""

    def __init__(self, layer: PeftLinear, place: Place | None) -> None:
        self._name = layer.active_adapters[0]
        self.layer, self._place = layer, place
        self.group: _Group | None = None

    # read when needed: a library that shards weights puts others in their place for a while

    @property
    def weight(self) -> Tensor:
        """(out, in), frozen."""
        return cast(Tensor, self.layer.base_layer.weight)

    @property
    def a(self) -> Tensor:
        """(r, in)."""
        return cast(Tensor, self.layer.lora_A[self._name].weight)

    @property
    def b(self) -> Tensor:
        """(out, r)."""
        return cast(Tensor, self.layer.lora_B[self._name].weight)

    @property
    def place(self) -> Place | None:
        """Where its input's dropout is drawn; None without."""
        return self._place if self.layer.training else None

    @property
    def scale(self) -> float:
        """alpha / r."""
        return float(self.layer.scaling[self._name])

    @property
    def factor(self) -> float:
        """Of the update of a dropped input: `scale` and dropout's 1 / (1 - rate)."""
        return self.scale if self.place is None else self.scale * self.place.scale

    def __call__(self, x: Tensor) -> Tensor:
        if self.group is not None:
            return self.group.result(self, x)
        return _together([self], x)[0]


class _Group:
    """Projections that a module asks for one after the other, with the same input: computed at once."""

    def __init__(self, members: Sequence[_Projection]) -> None:
        self._members = members
        self._input: Tensor | None = None
        self._ready: dict[_Projection, Tensor] = {}

    def result(self, wanted: _Projection, x: Tensor) -> Tensor:
        if self._input is not x or wanted not in self._ready:
            # what a failed pass left goes first, and nothing of this one is kept unless it succeeds:
            # the input holds the graph of all layers before
            self._input, self._ready = None, {}
            ready = _together(self._members, x)
            self._input, self._ready = x, dict(zip(self._members, ready, strict=True))
        found = self._ready.pop(wanted)
        if not self._ready:
            self._input = None
        return found


def _together(members: Sequence[_Projection], x: Tensor) -> tuple[Tensor, ...]:
    tensors = [t for p in members for t in (p.weight, p.a, p.b)]
    scales = tuple(p.factor for p in members)
    return cast(tuple[Tensor, ...], _LoraLinears.apply(x, members[0].place, scales, *tensors))


@dataclass(frozen=True)
class _Maps:
    """W, A and B of projections with one input, and their scales."""

    scales: Sequence[float]
    weights: Sequence[Tensor]
    a: Sequence[Tensor]
    b: Sequence[Tensor]

    @staticmethod
    def of(scales: Sequence[float], tensors: Sequence[Tensor]) -> _Maps:
        return _Maps(scales, tensors[0::3], tensors[1::3], tensors[2::3])

    @property
    def ranks(self) -> list[int]:
        return [len(a) for a in self.a]

    def inner(self, x: Tensor) -> Tensor:
        """x A^T of all, side by side (T, sum of ranks)."""
        return linear(x, torch.cat(list(self.a)).to(x.dtype))

    def forward(self, flat: Tensor, inner: Tensor) -> list[Tensor]:
        """x W^T + s (x A^T) B^T of each."""
        made = [linear(flat, weight) for weight in self.weights]
        self.update(made, inner)
        return made

    def update(self, ys: Sequence[Tensor], inner: Tensor) -> None:
        """Add s (x A^T) B^T to each of `ys`, for all rows or for the same part of them as `inner`."""
        parts = inner.split(self.ranks, dim=1)
        for y, b, part, scale in zip(ys, self.b, parts, self.scales, strict=True):
            y.addmm_(part, b.to(y.dtype).t(), alpha=scale)

    def backward(
        self,
        dys: Sequence[Tensor],
        flat: Tensor,
        inner: Tensor,
        place: Place | None,
        *,
        input_too: bool,
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """(dx or None, dA of each, dB of each)."""
        outer = torch.empty_like(inner)
        parts = zip(outer.split(self.ranks, dim=1), inner.split(self.ranks, dim=1), strict=True)
        dbs: list[Tensor] = []
        for n, (own, x) in enumerate(parts):
            torch.mm(dys[n], self.b[n].to(own.dtype), out=own)
            own.mul_(self.scales[n])
            # as (r, out): the fast way round
            dbs.append(linear(x.t(), dys[n].t()).t().float().mul_(self.scales[n]))
        dropped = flat if place is None else place.drop_(flat.clone())
        das = [x.float() for x in linear(outer.t(), dropped.t()).split(self.ranks)]
        dx = None
        if input_too:
            dx = linear(dys[0], self.weights[0].t())
            for dy, weight in zip(dys[1:], self.weights[1:], strict=True):
                dx.add_(linear(dy, weight.t(), dropped if dropped is not flat else None))
            a = torch.cat(list(self.a)).to(dx.dtype)
            dx = dx.addmm_(outer, a) if place is None else place.add_product_(dx, outer, a)
        return dx, das, dbs


def _interleaved(das: Sequence[Tensor], dbs: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients in the order of (W, A, B) of each; W is frozen."""
    return [x for da, db in zip(das, dbs, strict=True) for x in (None, da, db)]


class _LoraLinears(torch.autograd.Function):
    """Adapted projections of one input. Keeps the input and the r numbers a token between A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, place: Place | None, scales: tuple[float, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        maps = _Maps.of(scales, tensors)
        flat = x.reshape(-1, x.shape[-1]).to(tensors[0].dtype)
        inner = maps.inner(flat if place is None else place.drop_(flat.clone()))
        ctx.save_for_backward(flat, inner, *tensors)
        ctx.place, ctx.scales, ctx.shape, ctx.kind = place, scales, x.shape, x.dtype
        return tuple(y.view(*x.shape[:-1], -1) for y in maps.forward(flat, inner))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        flat, inner, *tensors = ctx.saved_tensors
        dys = [dy.reshape(-1, dy.shape[-1]) for dy in grads]
        dx, das, dbs = _Maps.of(ctx.scales, tensors).backward(
            dys,
            flat,
            inner,
            ctx.place,
            input_too=ctx.needs_input_grad[0],  # not for the first layer: embeddings are frozen
        )
        if dx is not None:
            dx = dx.view(ctx.shape).to(ctx.kind)
        return dx, None, None, *_interleaved(das, dbs)


# ---------------------------------------------------------------------- MLP and normalisation


@dataclass(frozen=True)
class _How:
    """What an MLP's function needs beside tensors."""

    buffers: Buffers
    reads: Place | None
    """Dropout of the input of gate and up."""
    down: Place | None
    scales: tuple[float, float, float]
    gradient: bool
    """Whether a backward pass may follow: torch says that inputs need a gradient in validation too."""


class _Mlp(torch.autograd.Function):
    """down(gelu(gate(x)) * up(x)), all three adapted. Keeps x, gate and up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: _How, *tensors: Tensor) -> Tensor:
        ends, down = _Maps.of(how.scales[:2], tensors[:6]), _Maps.of(how.scales[2:], tensors[6:])
        flat = x.reshape(-1, x.shape[-1]).to(tensors[0].dtype)
        rows, width = len(flat), len(ends.weights[0])
        gate, up, hidden = (how.buffers.lend(rows, width, flat) for _ in range(3))
        inner = ends.inner(flat if how.reads is None else how.reads.drop_(flat.clone()))
        for y, weight in zip((gate, up), ends.weights, strict=True):
            linear(flat, weight, y)
        size = rows_at_once(gate)
        for g, u, h, part in zip(*(x.split(size) for x in (gate, up, hidden, inner)), strict=True):
            ends.update((g, u), part)
            gated(g, u, h)
        y = linear(hidden, down.weights[0])
        narrow = down.inner(hidden if how.down is None else how.down.drop_(hidden))
        y.addmm_(narrow, down.b[0].to(y.dtype).t(), alpha=down.scales[0])
        how.buffers.give_back(hidden)
        if not how.gradient:
            how.buffers.give_back(gate, up)
        ctx.save_for_backward(flat, gate, up, inner, narrow, *tensors)
        ctx.how, ctx.shape, ctx.kind = how, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        flat, gate, up, inner, narrow, *tensors = ctx.saved_tensors
        how = cast(_How, ctx.how)
        ends, down = _Maps.of(how.scales[:2], tensors[:6]), _Maps.of(how.scales[2:], tensors[6:])
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        outer = torch.mm(dy, down.b[0].to(dy.dtype)).mul_(down.scales[0])
        dh = linear(dy, down.weights[0].t(), how.buffers.lend(*gate.shape, like=gate))
        a = down.a[0].to(dh.dtype)
        dh = dh.addmm_(outer, a) if how.down is None else how.down.add_product_(dh, outer, a)
        room = how.buffers.lend(*gate.shape, like=gate)
        hidden, dgate, dup = gated_backward(gate, up, dh, room)
        if how.down is not None:
            how.down.drop_(hidden)
        da = linear(outer.t(), hidden.t()).float()
        db = linear(narrow.t(), dy.t()).t().float().mul_(down.scales[0])
        dx, das, dbs = ends.backward(
            [dgate, dup], flat, inner, how.reads, input_too=ctx.needs_input_grad[0]
        )
        how.buffers.give_back(gate, up, dh, room)
        if dx is not None:
            dx = dx.view(ctx.shape).to(ctx.kind)
        return dx, None, *_interleaved([*das, da], [*dbs, db])


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


# ---------------------------------------------------------------------- into the model and out


class Installed(NamedTuple):
    """What goes with the functions while they are in the model."""

    masks: Masks | None
    left: list[str]
    """Names of adapted layers that PEFT itself computes."""
    buffers: Buffers


@contextmanager
def installed(model: PeftModel, *, dropout: float, seed: int, shared: bool) -> Generator[Installed]:
    """Train with the functions above inside.

    `shared`: one dropout mask for projections with the same input; else one each, as PEFT does. Which
    modules of the model these functions compute is in the family's row (`model/families.py`).
    """
    family = family_of(cast(Any, model.get_base_model()).config.model_type, where="the model")
    masks = Masks(dropout, seed)
    found = Installed(masks, [], Buffers())
    changed: list[nn.Module] = []

    def put(module: nn.Module, forward: Callable[..., Tensor]) -> None:
        module.forward = forward
        changed.append(module)

    try:
        for parent in model.modules():
            kind = type(parent).__name__
            projections = _projections(parent, masks if dropout else None, shared)
            for own in projections.values():
                put(own.layer, own)
            if kind == family.fused_attention and shared:
                _join(projections)
            if kind == family.fused_mlp and len(projections) == 3 and _is_gelu(parent) and shared:
                put(parent, _mlp(projections, found.buffers))
            if kind == family.fused_norm and not parent.weight.requires_grad:
                put(parent, _norm(parent))
        found.left.extend(name for name, m in model.named_modules() if _is_left(m, changed))
        yield found
    finally:
        for module in changed:
            del module.forward


def _projections(parent: nn.Module, masks: Masks | None, shared: bool) -> dict[str, _Projection]:
    """The plain LoRA layers among the children."""
    found: dict[str, _Projection] = {}
    children = dict(parent.named_children())
    for names in _SHARED:
        place: Place | None = None
        for name in names:
            layer = children.get(name)
            if not _is_plain(layer):
                continue
            if masks is not None and (place is None or not shared):
                place = masks.place()
            found[name] = _Projection(cast(PeftLinear, layer), place)
    return found


def _join(projections: dict[str, _Projection]) -> None:
    """Compute those that read the same input at once."""
    for names in _SHARED:
        members = [projections[name] for name in names if name in projections]
        if len(members) > 1:
            group = _Group(members)
            for member in members:
                member.group = group


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


def _is_gelu(mlp: nn.Module) -> bool:
    """Whether its activation is that of `_Mlp`."""
    return isinstance(mlp.act_fn, GELUTanh)


def _mlp(own: dict[str, _Projection], buffers: Buffers) -> Callable[[Tensor], Tensor]:
    gate, up, down = (own[name] for name in ("gate_proj", "up_proj", "down_proj"))

    def forward(x: Tensor) -> Tensor:
        scales = (gate.factor, up.factor, down.factor)
        how = _How(buffers, gate.place, down.place, scales, torch.is_grad_enabled())
        tensors = [t for p in (gate, up, down) for t in (p.weight, p.a, p.b)]
        return cast(Tensor, _Mlp.apply(x, how, *tensors))

    return forward


def _norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    weight, epsilon = cast(Tensor, module.weight), float(cast(float, module.eps))

    def forward(x: Tensor) -> Tensor:
        return cast(Tensor, _Norm.apply(x, weight, epsilon))

    return forward
