"""How much memory training will take, by arithmetic on the model's config, before anything is loaded.

`forecast` adds up what `train/fused.py`, `train/attention.py` and `train/loss.py` keep and work with;
`Shape` holds the sizes it needs. Every term names what it stands for; docs/benchmarks.md has the table of
predictions and measurements. `reuse_freed_blocks` and `return_freed_blocks` tell the C library what to do with
free memory. Imports no torch; reads and writes no file.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

from gemma_lora.model.families import Family

__all__ = [
    "Forecast",
    "Load",
    "Shape",
    "chunk_rows",
    "even_chunk",
    "forecast",
    "map_large_blocks",
    "return_freed_blocks",
    "reuse_freed_blocks",
]

CHUNK_BYTES = {"cpu": 31 * 2**20, "cuda": 2**28}
"""Of one chunk's fp32 logits in the loss, where that is `CHUNK_ROWS` or more; below what the C library maps anew
each time (32 MiB). Two such buffers exist at a time, three where a final soft-capping needs its slope."""
CHUNK_ROWS = 96
"""A chunk may always have as many positions: the whole output layer is read for each, and with few of them that takes
longer than multiplying (Gemma 2B's on two cores: 73 GFLOP/s for 32 rows, 135 for 64, 146 for 96, 168 for 256)."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
SURROUNDINGS = {"cpu": 40 * 2**20, "cuda": 2**30}
"""CPU: code that torch and PEFT load at first use, compiled kernels, and small blocks that the C
library keeps (measured on models of 20 million parameters). CUDA, not measured: context
and the allocator's gaps."""
HOLES = {"cpu": 1.3, "cuda": 1.0}
"""What the heap holds for each byte of a step's buffers in use (measured; CUDA: in SURROUNDINGS)."""


def chunk_rows(vocabulary: int, device: str) -> int:
    """How many positions at most go through the output layer at once on a device of this type."""
    return max(CHUNK_ROWS, CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]) // (4 * vocabulary))


def even_chunk(count: int, most: int) -> int:
    """The size of chunks of nearly one size: a short rest would cost nearly as much as a whole one."""
    return max(1, -(-count // max(1, -(-count // most))))


@dataclass(frozen=True)
class Shape:
    """A language model's sizes; `heads` x `head` need not be `hidden`."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    parameters: int
    """Tied embeddings counted once."""
    stored_bytes: int = 2
    """Of a number on disk."""
    norms: int = 2
    """Normalisations of a layer over `hidden`; this and the next as the family's row has it."""
    head_norms: bool = False
    """Queries and keys are normalised."""
    capped_attention: bool = False
    """Scores are soft-capped, so they are written out (Gemma 2)."""
    capped_head: bool = False
    window: int | None = None
    windowed_layers: int = 0
    fused_mlp: bool = True
    """Whether train/fused.py can compute the MLP in one, as the family's row has it."""
    streams: int = 1
    """Copies of the hidden state that a layer carries along (AltUp of Gemma 3n)."""
    shared_out: int = 0
    """Numbers in the matrices of all decoder layers, which can be sharded."""
    largest_layer: int = 0
    """Those of the largest one."""

    @staticmethod
    def of(
        text: Any,
        family: Family,
        *,
        parameters: int,
        stored_bytes: int,
        layer_sizes: Sequence[int] = (),
    ) -> Shape:
        """From a transformers text config and its family. Layers that differ count as the largest of them.

        `layer_sizes`: numbers in the matrices of each layer.
        """

        # newer configs give some sizes for each layer only, and refuse to be asked for one
        layered: Sequence[Any] = getattr(text, "per_layer_config", None) or ()

        def largest(name: str, other: int) -> int:
            values: list[Any] = []
            for config in layered or (text,):
                value: Any = getattr(config, name, None)
                values += value if isinstance(value, list) else [value]
            return int(max((v for v in values if v), default=other))

        types: Sequence[str] = getattr(text, "layer_types", None) or ()
        heads = largest("num_attention_heads", 1)
        head = largest("head_dim", int(text.hidden_size) // heads)
        return Shape(
            layers=int(text.num_hidden_layers),
            hidden=int(text.hidden_size),
            mlp=largest("intermediate_size", 0),
            heads=heads,
            kv_heads=largest("num_key_value_heads", heads),
            head=largest("global_head_dim", head),
            vocabulary=int(text.vocab_size),
            parameters=parameters,
            stored_bytes=stored_bytes,
            norms=family.norms,
            head_norms=family.head_norms,
            capped_attention=getattr(text, "attn_logit_softcapping", None) is not None,
            capped_head=getattr(text, "final_logit_softcapping", None) is not None,
            window=getattr(text, "sliding_window", None),
            windowed_layers=sum(kind == "sliding_attention" for kind in types),
            fused_mlp=family.fused_mlp is not None,
            streams=largest("altup_num_inputs", 1),
            shared_out=sum(layer_sizes),
            largest_layer=max(layer_sizes, default=0),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's seven linear maps."""
        q, kv, h, f = self.heads * self.head, self.kv_heads * self.head, self.hidden, self.mlp
        return {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, f),
            "up_proj": (h, f),
            "down_proj": (f, h),
        }

    def adapter(self, rank: int, targets: Sequence[str]) -> int:
        """Trained numbers."""
        maps = self.linears
        return self.layers * rank * sum(sum(maps[name]) for name in targets if name in maps)


@dataclass(frozen=True)
class Load:
    """What is trained on the model, and how."""

    device: str
    precision: str
    rank: int
    targets: Sequence[str]
    dropout: float
    """Share of the adapter's inputs that is dropped."""
    shared: bool
    """Projections that read the same input share a dropout mask, so that they are computed at once."""
    checkpointing: bool
    tokens: int
    """Of the fullest micro-batch."""
    longest: int
    """Tokens of the longest row."""
    shortest: int
    """Tokens of the shortest row, with which the saved adapter is checked."""
    supervised: float
    """Share of the tokens that carry loss."""
    shards: int = 1
    """Processes that hold a part of the layers' weights each; 1: all of them here."""


@dataclass(frozen=True)
class Forecast:
    """Bytes at the moment of most memory, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def forecast(shape: Shape, load: Load) -> Forecast:
    """The largest of four moments: loading, a training step, writing a checkpoint, the last check."""
    size = BYTES[load.precision]
    whole = shape.parameters * size
    weights = whole - shape.shared_out * size
    weights += -(-shape.shared_out * size // load.shards)
    gathered = _GATHERED[_place(load)] * shape.largest_layer * size if load.shards > 1 else 0
    trained = shape.adapter(load.rank, load.targets)
    kept = _kept(shape, load, size)
    layers = shape.layers
    if load.checkpointing:  # every layer's input; one layer at a time is computed again
        activations = (layers * shape.streams * load.tokens * shape.hidden * size) + kept
    else:
        activations = layers * kept
    ends = (2 * load.tokens + 2 * _answers(load)) * shape.hidden * size  # last norm; head's input
    step = {
        "adapter": 16 * trained,  # fp32 weight, gradient, two moments
        "activations": round(HOLES[_place(load)] * (activations + ends)),
        "working": gathered
        + round(HOLES[_place(load)] * max(_head(shape, load), _backward(shape, load, size))),
    }
    # the file's pages count until all numbers are converted, in the machine's memory
    converted = shape.parameters * shape.stored_bytes if size != shape.stored_bytes else 0
    if _place(load) == "cuda":
        converted = 0
    loading = {"adapter": 0, "activations": 0, "working": converted}
    if load.shards > 1:  # made whole in the machine's memory, and then cut
        loading["working"] = whole - weights + converted if _place(load) == "cpu" else 0
    # weights and moments, each as bytes and as a file in memory (train/checkpoint.py)
    saving = {"adapter": 12 * trained, "activations": 0, "working": 20 * trained}
    # full logits of one row three times over, and what comparing them takes (train/adapter.py)
    logits = 6 * load.shortest * shape.vocabulary * 4
    checking = {"adapter": 16 * trained, "activations": 0, "working": gathered + logits}
    most = max((step, loading, saving, checking), key=lambda moment: sum(moment.values()))
    return Forecast({"weights": weights, **most, "surroundings": SURROUNDINGS[_place(load)]})


_GATHERED = {"cpu": 2, "cuda": 3}
"""Layers that are whole at a time where they are sharded: as received and as used. CUDA, not measured: the
next one on its way besides."""


def _place(load: Load) -> str:
    """Whose memory it is: an Apple GPU's is the machine's."""
    return "cuda" if load.device == "cuda" else "cpu"


def _answers(load: Load) -> int:
    return round(load.tokens * load.supervised)


def _kept(shape: Shape, load: Load, size: int) -> int:
    """Bytes that one layer keeps for its backward pass."""
    h, f = shape.hidden, shape.mlp
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    adapted = set(load.targets)
    inner = load.rank * len(adapted)  # between A and B
    # inputs of the norms; the result of one before attention or MLP where an adapted projection reads it
    read = bool(adapted & _QKV) + bool(adapted & _GATE_UP)
    norms = (shape.norms + read) * shape.streams * h
    # queries, keys, values, attention's result as its kernel left it; and as an adapted o_proj reads it
    attention = 2 * q + 2 * (q if shape.capped_attention else kv)
    attention += q * ("o_proj" in adapted)
    if load.device == "cuda" and shape.kv_heads > 1 and (size == 4 or shape.head > 256):
        attention += 2 * (q - kv)  # for each head (train/attention.py)
    if shape.head_norms:
        attention += q + kv  # before normalisation
    # gate and up; where autograd does it, gelu's result, and the product that an adapted down_proj reads
    mlp = (2 if _fused_mlp(shape, load) else 3 + ("down_proj" in adapted)) * f
    numbers = norms + attention + mlp + inner
    small = 4 * (shape.norms + shape.heads)  # fp32: a number a norm, log-sum-exp a head
    if load.device == "cpu":  # numbers of what is dropped of each input, or for each projection
        drawn = [adapted & _QKV, adapted & {"o_proj"}, adapted & _GATE_UP, adapted & {"down_proj"}]
        times = [bool(group) if load.shared else len(group) for group in drawn]
        small += round(4 * load.dropout * sum(map(mul, times, (h, q, h, f))))
    per_token = numbers * size + small
    return load.tokens * per_token + _scores(shape, load, size)


_QKV, _GATE_UP = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}


def _fused_mlp(shape: Shape, load: Load) -> bool:
    """Whether train/fused.py computes the MLP in one: all of it is adapted, with one mask an input."""
    return shape.fused_mlp and load.shared and _GATE_UP | {"down_proj"} <= set(load.targets)


def _scores(shape: Shape, load: Load, size: int) -> int:
    """Bytes of (row, row) that one layer keeps."""
    row = min(load.longest, load.tokens)
    rows = max(1, load.tokens // max(1, row))
    if shape.capped_attention:
        # after tanh; after softmax in fp32, and that in 16 bits; the mask
        each = size + 4 + (size if size < 4 else 0)
        return rows * row * row * (shape.heads * each + 1)
    if shape.window is not None and row > shape.window:
        # the mask as flags, and as numbers for the kernel, in the layers that have a window
        return rows * row * row * (1 + size) * shape.windowed_layers // shape.layers
    return 0


def _head(shape: Shape, load: Load) -> int:
    """Bytes that the chunked loss works with."""
    most = chunk_rows(shape.vocabulary, _place(load))
    # blocks of the most there may be are reserved; on a CPU only the part that is written takes memory
    rows = even_chunk(_answers(load), most) if _place(load) == "cpu" else min(_answers(load), most)
    return (3 if shape.capped_head else 2) * rows * shape.vocabulary * 4


def _backward(shape: Shape, load: Load, size: int) -> int:
    """Bytes that the backward pass of the last layer works with, beside what is kept."""
    # MLP: its product and the gradient of that; the factors' gradients take their places (train/gated.py).
    # Elsewhere these are new, as is the mask
    fused = _fused_mlp(shape, load)
    lent = fused and size == 4 and load.device == "cpu"
    mlp = 2 * size if lent else 4 * size + 2 * bool(load.dropout)
    most = load.tokens * (mlp * shape.mlp + 2 * size * shape.hidden)
    if shape.capped_attention:  # gradient of the scores before and after softmax
        row = min(load.longest, load.tokens)
        scores = 3 * row * row * shape.heads * 4
        if load.device == "cpu" and fused:  # whose blocks are kept for the next layer
            return most + scores
        most = max(most, scores - load.tokens * 2 * shape.mlp * size)  # when MLP's are gone
    return most


def reuse_freed_blocks() -> None:
    """Let the C library keep what is freed from now on for the next block, on Linux with glibc.

    By itself it gives blocks of some MiB back to the system again and again, and each page that it takes
    anew is mapped and zeroed (what that costs by itself was not recorded). The opposite, mapping all large
    blocks singly, leaves the heap without holes but costs 30 % more CPU time a step: tried, dropped
    (docs/training.md). Blocks above 32 MiB are always mapped singly.
    """
    library = _c_library()
    if library is not None:
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes; more changes nothing


def map_large_blocks() -> None:
    """Give blocks from 4 MiB on back as soon as they are freed, on Linux with glibc.

    For sharded weights and for recomputation: layers that come and go left holes in the heap which took
    more than was saved (peak of a process in a model of 72 million parameters, sharded: 1,163 MiB, and 633
    with this; recomputed, 4,096 tokens at once: 1,414 MiB, and 996).
    """
    library = _c_library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, 2**22)


def return_freed_blocks() -> None:
    """Give memory that is free inside this process back to the system, on Linux with glibc."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""


def _c_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
