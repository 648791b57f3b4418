"""The hand-written layers compute what PEFT and autograd do: numbers, gradients, dropout."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from support.stepping import (
    EVERY,
    assert_near,
    disturb,
    gradients,
    model_folder,
    peft_model,
    rounding,
)
from support.tiny import small_tokenizer
from support.training import example

from gemma_lora import model as models
from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train import fused
from gemma_lora.train.fused import installed
from gemma_lora.train.loss import causal_model, nll_sum, plain_nll_sum
from gemma_lora.train.packing import collate
from gemma_lora.train.path import PATHS
from gemma_lora.train.state import trainable

FAMILIES = ("gemma", "gemma2", "gemma3_text", "gemma3")


@pytest.fixture(scope="module")
def rows():
    fmt = PromptFormat(small_tokenizer(), name="tiny")
    return tokenise([example(n) for n in range(8)], fmt, max_length=200, keep_answer=False)


@pytest.fixture(scope="module")
def batch(rows):
    return collate(rows, [0, 3, 5, 6])


def packed(model, *, dropout=0.0, seed=0, shared=True):
    return PATHS["packed"].active(model, dropout=dropout, seed=seed, shared=shared)


def taken(model, loss):
    loss.backward()
    return loss.item(), gradients(model)


def lora_layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, PeftLinear)}


# ---------------------------------------------------------------------- without dropout: PEFT's own


@pytest.mark.parametrize(
    "targets",
    [
        ("q_proj", "v_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("down_proj",),
        ("gate_proj", "down_proj"),
        ("up_proj",),
    ],
    ids=",".join,
)
@pytest.mark.parametrize("family", FAMILIES[:3])
def test_any_choice_of_layers_gives_pefts_gradients(family, targets, tiny_folder, batch):
    model = peft_model(tiny_folder(family), targets=targets).train()
    loss, expected = taken(model, plain_nll_sum(model, batch))
    assert len(expected) == 2 * 2 * len(targets)
    with packed(model) as (_, left, *_):
        assert not left
        assert all("forward" in vars(layer) for layer in lora_layers(model).values())
        found, ours = taken(model, nll_sum(model, batch))
    assert found == pytest.approx(loss, rel=1e-5)
    assert_near(ours, expected, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_near_to_the_truth_as_pefts_own(family, tiny_folder, batch):
    """Both round; ours may not be further from what fp32 says of the same weights than PEFT's."""
    model = peft_model(tiny_folder(family), precision="bf16").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = plain_nll_sum(model, batch)
    loss, theirs = taken(model, plain)
    with packed(model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = nll_sum(model, batch)
        found, ours = taken(model, total)
    exact_loss, exact = taken(model.float(), plain_nll_sum(model, batch))

    def distance(of):
        return max(float((of[name] - value).norm() / value.norm()) for name, value in exact.items())

    assert found == pytest.approx(exact_loss, rel=5e-3)
    assert loss == pytest.approx(exact_loss, rel=5e-3)
    assert distance(ours) < 1.5 * distance(theirs) + 0.01
    assert distance(ours) < 0.2


def test_pefts_forward_is_back_afterwards_also_after_an_error(tiny_folder, batch):
    model = peft_model(tiny_folder("gemma")).train()
    before = float(plain_nll_sum(model, batch).detach())
    with pytest.raises(KeyError), packed(model):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())
    assert causal_model(model).config._attn_implementation == "sdpa"
    assert float(plain_nll_sum(model, batch).detach()) == before


# ---------------------------------------------------------------------- with dropout


@contextmanager
def written_out(model):
    """PEFT's layers as autograd does them inside, with the masks of the layers now installed."""

    def forward(projection):
        def compute(x):
            flat = x.reshape(-1, x.shape[-1])
            kept = projection.place.drop_(torch.ones_like(flat)) * projection.place.scale
            update = ((flat * kept) @ projection.a.t()) @ projection.b.t()
            return (flat @ projection.weight.t() + update * projection.scale).view(
                *x.shape[:-1], -1
            )

        return compute

    fast = {m: vars(m).pop("forward") for m in model.modules() if "forward" in vars(m)}
    for layer in lora_layers(model).values():
        layer.forward = forward(fast[layer])
    yield
    for module, own in fast.items():
        module.forward = own


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", EVERY)
def test_with_dropout_gradients_are_autograds_for_the_same_masks(family, shared, tmp_path, batch):
    model = peft_model(model_folder(tmp_path, family), dropout=0.3).train()
    _, without = taken(model, plain_nll_sum(model.eval(), batch))
    model.train()
    with packed(model, dropout=0.3, shared=shared) as (masks, *_):
        masks.at(4, 1)
        loss, ours = taken(model, nll_sum(model, batch))
        with written_out(model):
            expected_loss, expected = taken(model, nll_sum(model, batch))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_near(ours, expected, rounding(family))
    with pytest.raises(AssertionError):  # the masks are really there
        assert_near(ours, without, 1e-2)


def test_the_gradient_is_the_slope_of_the_loss_with_dropout(tiny_folder, batch):
    """Finite differences along the gradient: forward and backward draw the same masks."""
    model = peft_model(tiny_folder("gemma"), dropout=0.3).train()
    with packed(model, dropout=0.3) as (masks, *_):
        masks.at(2, 0)
        _, found = taken(model, nll_sum(model, batch))
        length = sum(float(g.square().sum()) for g in found.values()) ** 0.5
        ends = []
        for step in (1e-2, -1e-2):
            for name, weight in trainable(model).items():
                weight.data.add_(found[name], alpha=step / length)
            ends.append(float(nll_sum(model, batch).detach()))
            for name, weight in trainable(model).items():
                weight.data.sub_(found[name], alpha=step / length)
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(length, rel=1e-2)


@pytest.mark.parametrize("family", EVERY)
def test_recomputed_activations_give_the_same_gradients_with_dropout(family, tmp_path, batch):
    model = peft_model(model_folder(tmp_path, family), dropout=0.3).train()
    found = []
    with packed(model, dropout=0.3) as (masks, *_):
        for checkpointing in (False, True):
            if checkpointing:
                causal_model(model).gradient_checkpointing_enable({"use_reentrant": False})
            calls = []
            mlp = causal_model(model).base_model.layers[1].mlp
            hook = mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            masks.at(1, 1)
            found.append(taken(model, nll_sum(model, batch)))
            hook.remove()
            assert len(calls) == 1 + checkpointing
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(found[1][1][name], value), name


def places(model):
    return {
        name.rpartition(".")[2]: vars(layer)["forward"].place
        for name, layer in lora_layers(model).items()
        if ".layers.1." in name
    }


def test_projections_of_one_input_share_a_mask_or_not_as_asked(tiny_folder):
    model = peft_model(tiny_folder("gemma"), dropout=0.3).train()
    with installed(model, dropout=0.3, seed=0, shared=True):
        found = places(model)
        assert found["q_proj"] is found["k_proj"] is found["v_proj"]
        assert found["gate_proj"] is found["up_proj"]
        assert len({id(place) for place in found.values()}) == 4
    with installed(model, dropout=0.3, seed=0, shared=False):
        assert len({id(place) for place in places(model).values()}) == 7


def test_projections_of_one_input_are_computed_once_and_nothing_stays_behind(tiny_folder, batch):
    model = peft_model(tiny_folder("gemma"), dropout=0.3).train()
    with packed(model, dropout=0.3) as own:
        own.masks.at(0, 0)
        nll_sum(model, batch).backward()
        for layer in lora_layers(model).values():
            group = vars(layer)["forward"].group
            if group is not None:
                assert group._input is None
                assert not group._ready
        lent = {block.data_ptr() for block in own.buffers._free}
        assert len(lent) == len(own.buffers._free) > 0  # given back once each
        own.masks.at(0, 1)
        nll_sum(model, batch).backward()
        assert {block.data_ptr() for block in own.buffers._free} == lent  # and used again


def test_validation_gives_all_blocks_of_the_mlp_back(tiny_folder, batch):
    model = peft_model(tiny_folder("gemma")).eval()
    with packed(model) as own:
        with torch.no_grad():
            nll_sum(model, batch)
        lent = {block.data_ptr() for block in own.buffers._free}
        assert len(lent) == len(own.buffers._free) == 3  # gate, up and their product
        with torch.no_grad():
            nll_sum(model, batch)
        assert {block.data_ptr() for block in own.buffers._free} == lent


def test_a_projection_asked_alone_is_computed_alone(tiny_folder):
    model = peft_model(tiny_folder("gemma")).train()
    attention = causal_model(model).base_model.layers[0].self_attn
    x, other = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    plain = [attention.k_proj(x), attention.v_proj(other), attention.q_proj(other)]
    with packed(model):
        ours = [attention.k_proj(x), attention.v_proj(other), attention.q_proj(other)]
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected)


def test_dropout_ends_with_training_mode(tiny_folder, batch):
    model = peft_model(tiny_folder("gemma"), dropout=0.5)
    with packed(model, dropout=0.5), torch.no_grad():
        tuned = float(nll_sum(model.eval(), batch))
        assert float(nll_sum(model.train(), batch)) != pytest.approx(tuned, rel=1e-3)
    assert tuned == pytest.approx(float(plain_nll_sum(model.eval(), batch).detach()), rel=1e-5)


# ---------------------------------------------------------------------- what stays PEFT's


def special_model(folder, **settings):
    base = models.load_base(models.resolve(str(folder)), precision="fp32", device="cpu")
    recipe = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings
    )
    return disturb(peft.get_peft_model(base, recipe)).train()


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}], ids=str
)
def test_layers_that_are_not_plain_lora_are_left_to_peft_and_counted(settings, tiny_folder, batch):
    if settings.get("bias"):
        model = special_model(tiny_folder("gemma"))
        for layer in lora_layers(model).values():
            layer.base_layer.bias = torch.nn.Parameter(0.1 * torch.ones(layer.out_features))
    else:
        model = special_model(tiny_folder("gemma"), **settings)
    loss, expected = taken(model, plain_nll_sum(model, batch))
    with packed(model) as (_, left, *_):
        assert (
            sorted(name.rpartition(".")[2] for name in left) == ["down_proj"] * 2 + ["q_proj"] * 2
        )
        found, ours = taken(model, nll_sum(model, batch))
    assert found == pytest.approx(loss, rel=1e-5)
    assert_near(ours, expected, 1e-5)


def test_adapted_layers_outside_of_attention_and_mlp_are_counted_too(tiny_folder, batch):
    """As of a user's own PEFT model: the output layer has an adapter of its own."""
    base = models.load_base(
        models.resolve(str(tiny_folder("gemma"))), precision="fp32", device="cpu"
    )
    recipe = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"
    )
    model = disturb(peft.get_peft_model(base, recipe)).train()
    loss, expected = taken(model, plain_nll_sum(model, batch))
    with packed(model) as (_, left, *_):
        assert [name.rpartition(".")[2] for name in left] == ["lm_head"]
        found, ours = taken(model, nll_sum(model, batch))
    assert found == pytest.approx(loss, rel=1e-5)
    assert_near(ours, expected, 1e-5)


def test_a_trained_norm_keeps_its_own_gradient(tiny_folder, batch):
    model = peft_model(tiny_folder("gemma3_text")).train()
    norm = causal_model(model).base_model.norm
    norm.weight.requires_grad_(True)
    loss, expected = taken(model, plain_nll_sum(model, batch))
    assert any(name.endswith("model.norm.weight") for name in expected)
    with packed(model):
        found, ours = taken(model, nll_sum(model, batch))
    assert found == pytest.approx(loss, rel=1e-5)
    assert_near(ours, expected, 1e-5)


# ---------------------------------------------------------------------- a pass that fails


class Mark:
    pass


def test_a_failed_pass_leaves_nothing_alive(tiny_folder, batch, monkeypatch):
    """Memory runs out in q, k, v of a later layer: the graph of the layers before must go."""
    model = peft_model(tiny_folder("gemma")).train()
    honest_mlp, honest_maps = fused._Mlp.forward, fused._Maps.forward
    made, calls = [], []

    def watched(ctx, *arguments):
        ctx.mark = Mark()  # lives as long as this node of the graph, and what it saved
        made.append(weakref.ref(ctx.mark))
        return honest_mlp(ctx, *arguments)

    def failing(self, flat, inner):
        calls.append(len(self.weights))
        if calls.count(3) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest_maps(self, flat, inner)

    with packed(model) as own:
        with monkeypatch.context() as patch:
            patch.setattr(fused._Mlp, "forward", staticmethod(watched))
            patch.setattr(fused._Maps, "forward", failing)
            with pytest.raises(torch.OutOfMemoryError):
                nll_sum(model, batch)
        own.buffers.clear()
        gc.collect()
        assert made
        assert [ref() for ref in made] == [None] * len(made)
