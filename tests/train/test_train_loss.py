"""The loss as equalities: with the plain forward, over accumulation, over batch sizes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support.tiny import small_tokenizer
from support.training import example, make_config, quiet
from torch.nn import functional

from gemma_lora import model as models
from gemma_lora.config import LoraConfig
from gemma_lora.data.tokens import tokenise
from gemma_lora.errors import ModelError
from gemma_lora.prompt import PromptFormat
from gemma_lora.train import trainer as trainers
from gemma_lora.train.batches import IGNORED, StepPlan, by_length, collate
from gemma_lora.train.decisions import decide
from gemma_lora.train.interrupts import Interrupts
from gemma_lora.train.loss import causal_model, check_training_path, mean_nll, nll_sum
from gemma_lora.train.progress import Progress
from gemma_lora.train.state import trainable

CPU = torch.device("cpu")
ALL_FAMILIES = ("gemma", "gemma2", "gemma3_text", "gemma3")


@pytest.fixture(scope="module")
def fmt():
    return PromptFormat(small_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def rows(fmt):
    return tokenise([example(n) for n in range(16)], fmt, max_length=200, keep_answer=False)


def peft_model(folder, *, precision="fp32", disturbed=True, dropout=0.0):
    """A model with an adapter whose update is not zero."""
    ref = models.resolve(str(folder))
    base = models.load_base(ref, precision=precision, device="cpu")
    model = models.attach_lora(base, LoraConfig(rank=8, alpha=16, dropout=dropout), 0)
    if disturbed:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_loss(model, batch, lengths):
    """Written out from scratch: full logits with the attention mask, shifted, mean over the labels."""
    mask = torch.zeros_like(batch.input_ids)
    for line, length in enumerate(lengths):
        mask[line, :length] = 1
    logits = causal_model(model)(input_ids=batch.input_ids, attention_mask=mask).logits
    return functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), batch.labels[:, 1:], ignore_index=IGNORED
    )


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_loss_and_gradient_equal_the_plain_forward(family, tiny_folder, rows, fmt):
    model = peft_model(tiny_folder(family))
    if family == "gemma2":  # random logits are small: a low cap makes the capping visible
        causal_model(model).config.final_logit_softcapping = 0.1
    chosen = [0, 3, 5, 9]
    batch = collate(rows, chosen, fmt.pad_id)
    ours = nll_sum(model, batch) / batch.supervised
    ours.backward()
    found = {n: p.grad.clone() for n, p in trainable(model).items()}
    model.zero_grad()
    plain = plain_loss(model, batch, [int(rows.lengths[i]) for i in chosen])
    plain.backward()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-6)


def test_soft_capping_of_gemma_2_is_in_the_loss(tiny_folder, rows, fmt):
    model = peft_model(tiny_folder("gemma2"))
    assert causal_model(model).config.final_logit_softcapping == 30.0
    causal_model(model).config.final_logit_softcapping = 0.1
    batch = collate(rows, [0, 1], fmt.pad_id)
    capped = float(nll_sum(model, batch).detach())
    causal_model(model).config.final_logit_softcapping = None
    assert float(nll_sum(model, batch).detach()) != pytest.approx(capped, rel=1e-4)


def trainer_for(model, rows, tmp_path, *, batch, accumulation, validation=()):
    config = make_config(tmp_path, batch=batch, accumulation=accumulation)
    plan = StepPlan(rows, batch=batch, accumulation=accumulation, epochs=1, seed=0, pad_id=0)
    decided = decide(
        config.train,
        device="cpu",
        precision="fp32",
        parameters=1,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        console=quiet(),
    )
    return trainers.StepTrainer(
        model,
        trainers.training_arguments(config, decided, tmp_path / "checkpoints"),
        plan=plan,
        validation=validation,
        decided=decided,
        patience=0,
        folder=tmp_path / "checkpoints",
        identity={},
        interrupts=Interrupts(quiet()),
        progress=lambda step: Progress(
            quiet(), tmp_path / "m.jsonl", steps=plan.steps, start_step=step
        ),
        resume=None,
    ), plan


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_accumulation_equals_one_large_batch(family, tiny_folder, rows, tmp_path):
    model = peft_model(tiny_folder(family))
    gradients, losses = [], []
    for batch, accumulation in [(1, 4), (2, 2), (4, 1)]:
        trainer, plan = trainer_for(model, rows, tmp_path, batch=batch, accumulation=accumulation)
        model.zero_grad()
        losses.append(float(trainer.training_step(model, plan[1])))
        gradients.append({n: p.grad.clone() for n, p in trainable(model).items()})
    assert losses[0] == pytest.approx(losses[2], abs=1e-6)
    assert losses[1] == pytest.approx(losses[2], abs=1e-6)
    for other in gradients[:2]:
        for name, gradient in gradients[2].items():
            torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-6)
    assert max(float(g.abs().max()) for g in gradients[2].values()) > 1e-4


def test_a_whole_training_is_the_same_however_its_steps_are_cut(tiny_folder, rows, tmp_path):
    ends = []
    for batch, accumulation in [(1, 4), (4, 1)]:
        model = peft_model(tiny_folder("gemma"), disturbed=False)
        trainer, _ = trainer_for(
            model, rows, tmp_path / str(batch), batch=batch, accumulation=accumulation
        )
        trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainable(model).items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=0, atol=1e-5)


def test_validation_loss_does_not_depend_on_the_batch_size(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma"), dropout=0.3)
    losses = [
        mean_nll(model, by_length(rows, size, 0), device=CPU, autocast=nullcontext)
        for size in (1, 3, 16)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)
    # and it is weighted by token: the mean of row means is another number
    per_row = [
        mean_nll(model, [batch], device=CPU, autocast=nullcontext)
        for batch in by_length(rows, 1, 0)
    ]
    assert sum(per_row) / len(per_row) != pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_start_check_passes_every_family(family, precision, tiny_folder, rows, fmt):
    model = peft_model(tiny_folder(family), precision=precision, disturbed=False, dropout=0.1)
    if family == "gemma2":
        causal_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    loss = check_training_path(
        model,
        collate(rows, [0, 3], fmt.pad_id),
        [int(rows.lengths[0]), int(rows.lengths[3])],
        device=CPU,
        autocast=trainers.autocast_for(precision, CPU),
        tolerance=1e-4 if precision == "fp32" else 3e-2,
    )
    assert 0 < loss < 30


def test_the_start_check_stops_a_path_that_is_off(tiny_folder, rows, fmt):
    model = peft_model(tiny_folder("gemma"), disturbed=False)
    batch = collate(rows, [0, 3], fmt.pad_id)
    body = causal_model(model).base_model
    forward = body.forward

    def without_positions(*args, **kwargs):
        if not kwargs.get("use_cache"):
            kwargs["position_ids"] = torch.zeros_like(kwargs["input_ids"])
        return forward(*args, **kwargs)

    body.forward = without_positions
    with pytest.raises(ModelError, match="plain forward"):
        check_training_path(
            model,
            batch,
            [int(rows.lengths[0]), int(rows.lengths[3])],
            device=CPU,
            autocast=nullcontext,
            tolerance=1e-4,
        )


def test_adapter_weights_are_fp32_on_bf16_base_weights_and_learn(tiny_folder, rows, tmp_path):
    model = peft_model(tiny_folder("gemma"), precision="bf16", disturbed=False)
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert next(causal_model(model).parameters()).dtype == torch.bfloat16
    trainer, plan = trainer_for(model, rows, tmp_path, batch=2, accumulation=2)
    trainer._autocast = trainers.autocast_for("bf16", CPU)
    trainer.training_step(model, plan[0])
    gradients = [p.grad for n, p in trainable(model).items() if "lora_B" in n]
    assert all(g.dtype == torch.float32 and g.abs().max() > 0 for g in gradients)


def test_only_supervised_positions_reach_the_output_layer(tiny_folder, rows, fmt):
    model = peft_model(tiny_folder("gemma"))
    seen = []
    causal_model(model).get_output_embeddings().register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape)
    )
    batch = collate(rows, [0, 3, 5], fmt.pad_id)
    nll_sum(model, batch)
    assert seen == [(batch.supervised, 32)]
