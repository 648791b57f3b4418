"""The choice of how to compute: the fastest that is right, told where it is not the fastest."""

from __future__ import annotations

import pytest
import torch
from support.stepping import EVERY, model_folder, peft_model
from support.tiny import small_tokenizer
from support.training import example, make_config, make_run, talking, text_of
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gemma_lora.data.tokens import tokenise
from gemma_lora.errors import ModelError
from gemma_lora.prompt import PromptFormat
from gemma_lora.rundir import read_json
from gemma_lora.train import train
from gemma_lora.train import trainer as trainers
from gemma_lora.train.attention import ROWS, rows_attention
from gemma_lora.train.loss import causal_model, nll_sum
from gemma_lora.train.packing import collate
from gemma_lora.train.path import candidates, choose
from gemma_lora.train.trainer import autocast_for

CPU = torch.device("cpu")
FAMILIES = ("gemma", "gemma2", "gemma3_text", "gemma3")


@pytest.fixture(scope="module")
def rows():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    return tokenise([example(n) for n in range(8)], fmt, max_length=200, keep_answer=False)


@pytest.fixture
def backend():
    """Replace the attention of packed rows for one test."""
    yield lambda wrong: ALL_ATTENTION_FUNCTIONS.register(ROWS, wrong)
    ALL_ATTENTION_FUNCTIONS.register(ROWS, rows_attention)


def leaking(module, query, key, value, mask, *, row_lengths, **settings):
    """Later rows see the earlier ones."""
    return rows_attention(
        module, query, key, value, mask, row_lengths=(sum(row_lengths),), **settings
    )


def early(module, query, key, value, mask, *, row_lengths, **settings):
    """Rows begin a token too early: each sees the last one of the row before."""
    first, *others, last = row_lengths
    bounds = (first - 1, *others, last + 1)
    return rows_attention(module, query, key, value, mask, row_lengths=bounds, **settings)


def late(module, query, key, value, mask, *, row_lengths, **settings):
    """Rows begin a token too late: the first of each is taken for the end of the row before."""
    first, *others, last = row_lengths
    bounds = (first + 1, *others, last - 1)
    return rows_attention(module, query, key, value, mask, row_lengths=bounds, **settings)


def middle(module, query, key, value, mask, *, row_lengths, **settings):
    """Only between the last two rows the bound is wrong."""
    *others, third, last = row_lengths
    bounds = (*others, third - 1, last + 1)
    return rows_attention(module, query, key, value, mask, row_lengths=bounds, **settings)


def windowless(module, query, key, value, mask, *, sliding_window=None, **settings):
    """As if all layers saw all of the row."""
    return rows_attention(module, query, key, value, mask, sliding_window=None, **settings)


def wide(module, query, key, value, mask, *, sliding_window=None, **settings):
    """The window holds a token too many."""
    window = None if sliding_window is None else sliding_window + 1
    return rows_attention(module, query, key, value, mask, sliding_window=window, **settings)


def chosen_for(model, rows, paths=None, *, precision="fp32", console=None, longest=None):
    return choose(
        model,
        paths or candidates(model, "cpu", packs=True),
        collate(rows, [0, 3, 5]),
        collate(rows, [0]),
        autocast=autocast_for(precision, CPU),
        tolerance=1e-4 if precision == "fp32" else 5e-3,
        console=console or talking(),
        longest=int(rows.lengths.max()) if longest is None else longest,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fastest_is_chosen_and_every_other_would_pass(family, precision, tiny_folder, rows):
    model = peft_model(tiny_folder(family), precision=precision, disturbed=False, dropout=0.1)
    causal_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    console = talking()
    path, loss = chosen_for(model, rows, precision=precision, console=console)
    assert path.name == "packed"
    assert 0 < loss < 30
    assert not console.warnings
    for other in candidates(model, "cpu", packs=True):
        assert chosen_for(model, rows, [other], precision=precision)[0] is other
    assert all(p.grad is None for p in model.parameters())  # the check leaves nothing behind


def test_a_family_that_does_not_pack_is_not_packed(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma"), disturbed=False)
    assert [path.name for path in candidates(model, "cpu", packs=False)] == ["single-rows", "plain"]


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_that_leaks_is_told_and_not_used(family, tiny_folder, rows, backend):
    backend(leaking)
    console = talking()
    path, _ = chosen_for(peft_model(tiny_folder(family), disturbed=False), rows, console=console)
    assert path.name == "single-rows"
    (warning,) = console.warnings
    assert "computing packed: a loss of " in warning
    assert "training goes on with single-rows, which is slower" in warning


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("wrong", [leaking, early, late, middle], ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", EVERY)
def test_rows_that_see_each_other_are_found_in_every_precision(
    wrong, family, precision, tmp_path, rows, backend
):
    model = peft_model(model_folder(tmp_path, family), precision=precision, disturbed=False)
    assert chosen_for(model, rows, precision=precision)[0].name == "packed"
    backend(wrong)
    console = talking()
    # without a row beyond the window, so that nothing but the rows can tell
    path, _ = chosen_for(model, rows, precision=precision, console=console, longest=0)
    assert path.name == "single-rows"
    assert "computing packed: " in console.warnings[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("wrong", [windowless, wide], ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", [name for name in EVERY if name != "gemma"])
def test_a_window_that_is_not_kept_is_found_though_the_checked_rows_are_shorter(
    wrong, family, precision, tmp_path, rows, backend
):
    model = peft_model(model_folder(tmp_path, family), precision=precision, disturbed=False)
    longest = int(rows.lengths.max())
    for layer in causal_model(model).base_model.layers:
        if getattr(layer.self_attn, "sliding_window", None) is not None:
            layer.self_attn.sliding_window = longest
    causal_model(model).config.get_text_config().sliding_window = longest
    assert chosen_for(model, rows, precision=precision, longest=400)[0].name == "packed"
    backend(wrong)
    console = talking()
    path, _ = chosen_for(model, rows, precision=precision, console=console, longest=400)
    assert path.name == "single-rows"
    assert f"the sliding window of {longest} tokens is not kept" in console.warnings[0]
    assert chosen_for(model, rows, precision=precision, longest=longest)[0].name == "packed"


def test_the_row_beyond_the_window_leaves_nothing_in_memory(tmp_path, rows):
    """With recomputation it took more than a whole step: 1,964 MiB where 1,104 were forecast."""
    model = peft_model(model_folder(tmp_path, "gemma2"), disturbed=False)
    text = causal_model(model).config.get_text_config()
    text.sliding_window = longest = int(rows.lengths.max())
    for layer in causal_model(model).base_model.layers:
        if getattr(layer.self_attn, "sliding_window", None) is not None:
            layer.self_attn.sliding_window = longest
    kept, seen = [], []

    def pack(saved):
        kept.append(tuple(saved.shape))
        return saved

    layers = causal_model(model).base_model.layers
    hook = layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        assert chosen_for(model, rows, longest=400)[0].name == "packed"
    hook.remove()
    long = longest + 64
    assert seen.count(long) == 3
    assert kept
    assert [shape for shape in kept if long in shape] == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no kernel\nlong story"),
        ValueError("x"),
        TypeError("x"),
        ImportError("no varlen"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_attention_that_fails_is_told_and_not_used(error, tiny_folder, rows, backend):
    def failing(*_, **__):
        raise error

    backend(failing)
    model = peft_model(tiny_folder("gemma"), disturbed=False)
    console = talking()
    assert chosen_for(model, rows, console=console)[0].name == "single-rows"
    first = str(error).splitlines()[0]
    assert console.warnings == [
        f"computing packed: {type(error).__name__}: {first}; training goes on with single-rows, "
        "which is slower"
    ]
    assert causal_model(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: 5 bytes"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED, no memory for a handle"),
    ],
    ids=["cuda", "cpu", "driver", "cublas"],
)
def test_a_lack_of_memory_is_no_fault_of_the_path(error, tiny_folder, rows, backend):
    def failing(*_, **__):
        raise error

    backend(failing)
    with pytest.raises(type(error), match="memory"):
        chosen_for(peft_model(tiny_folder("gemma"), disturbed=False), rows)


def test_where_no_path_is_right_nothing_is_trained(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma"), disturbed=False)
    body = causal_model(model).base_model
    forward = body.forward

    def without_positions(*args, **kwargs):
        if not kwargs.get("use_cache"):
            kwargs["position_ids"] = torch.zeros_like(kwargs["input_ids"])
        return forward(*args, **kwargs)

    body.forward = without_positions
    with pytest.raises(ModelError, match="no way of training gives the loss") as caught:
        chosen_for(model, rows)
    assert [line.split(":")[0] for line in caught.value.details] == [
        "computing packed",
        "computing single-rows",
        "computing plain",
    ]


def test_a_base_model_whose_loss_is_no_number_is_refused(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma"), disturbed=False)
    with torch.no_grad():
        causal_model(model).base_model.norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="loss is nan before any training"):
        chosen_for(model, rows)


# ---------------------------------------------------------------------- in a training


def test_after_a_fall_back_rows_are_computed_one_by_one_and_a_resumed_run_does_the_same(
    tiny_folder, tmp_path, backend, monkeypatch
):
    seen = []

    def looking(model, batch, stop=10**9):
        seen.append(batch.lengths)
        if len(seen) > stop:
            raise KeyboardInterrupt
        return nll_sum(model, batch)

    run = make_run(tmp_path / "run", train=8, validation=3)
    config = make_config(tiny_folder("gemma"), epochs=2, eval_steps=1)
    backend(leaking)
    monkeypatch.setattr(trainers, "nll_sum", lambda m, b: looking(m, b, stop=9))
    with pytest.raises(KeyboardInterrupt):
        train(config, run, talking())
    backend(rows_attention)  # now it would be right; the decision stands
    monkeypatch.setattr(trainers, "nll_sum", looking)
    seen.clear()
    console = talking()
    result = train(config, run, console)
    assert "going on from the checkpoint of step 2" in text_of(console)
    assert len(seen) == 8  # of steps 3 and 4
    assert {len(lengths) for lengths in seen} == {1}
    assert result["decisions"]["path"] == "single-rows"
    assert read_json(run.training)["decisions"]["path"] == "single-rows"


def test_the_plain_path_is_pefts_own_arithmetic(tiny_folder, tmp_path, backend, monkeypatch):
    """With everything of ours out of order the training still runs, and says so twice."""
    from gemma_lora.train import fused

    def failing(*_, **__):
        raise RuntimeError("out of order")

    backend(failing)
    monkeypatch.setattr(fused, "linear", failing)
    run = make_run(tmp_path / "run", train=8, validation=3)
    result = train(make_config(tiny_folder("gemma")), run, talking())
    assert result["decisions"]["path"] == "plain"
    told = [warning for warning in result["warnings"] if "goes on with plain" in warning]
    assert len(told) == 2
    assert result["validation_loss_best"] < result["validation_loss_before"]


def test_a_path_that_no_longer_fits_is_an_error_on_resumption(tiny_folder, tmp_path, backend):
    run = make_run(tmp_path / "run", train=8, validation=3)
    config = make_config(tiny_folder("gemma"))
    train(config, run, talking())
    backend(leaking)
    with pytest.raises(ModelError, match="no way of training") as caught:
        train(config, run, talking())
    assert len(caught.value.details) == 1
