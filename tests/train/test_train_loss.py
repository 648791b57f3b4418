"""The loss as equalities: with the plain forward, over micro-batches, over the form of the head."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.stepping import (
    CPU,
    EVERY,
    assert_near,
    gradients,
    model_folder,
    peft_model,
    rounding,
    trainer_for,
)
from support.tiny import small_tokenizer
from support.training import example
from support.variants import WINDOW
from torch import nn
from torch.nn import functional

from gemma_lora.data.tokens import tokenise
from gemma_lora.prompt import PromptFormat
from gemma_lora.train import loss as losses
from gemma_lora.train import trainer as trainers
from gemma_lora.train.loss import causal_model, head_nll, mean_nll, nll_sum, plain_nll_sum
from gemma_lora.train.packing import IGNORED, batches, collate
from gemma_lora.train.path import PATHS
from gemma_lora.train.state import trainable

PACKED = PATHS["packed"]


@pytest.fixture(scope="module")
def fmt():
    return PromptFormat(small_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def rows(fmt):
    return tokenise([example(n) for n in range(18)], fmt, max_length=200, keep_answer=False)


def packing(model, *, dropout=0.0):
    """Compute as training does by default on a CPU."""
    return PACKED.active(model, dropout=dropout, seed=0, shared=True)


# ---------------------------------------------------------------------- one number


def test_the_plain_loss_is_what_anybody_would_write(tiny_folder, rows):
    """`plain_nll_sum`, which everything else is compared with: padded, shifted, summed by hand."""
    model = peft_model(tiny_folder("gemma"))
    chosen = [0, 3, 5, 9]
    ids = [torch.tensor(rows.table[row]["ids"], dtype=torch.int64) for row in chosen]
    masks = [torch.tensor(rows.table[row]["mask"]) for row in chosen]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    seen = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    labels = padded.masked_fill(~nn.utils.rnn.pad_sequence(masks, batch_first=True), -100)
    logits = causal_model(model)(input_ids=padded, attention_mask=seen).logits
    expected = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="sum"
    )
    assert plain_nll_sum(model, collate(rows, chosen)).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_soft_capping_of_gemma_2_is_in_the_loss(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma2"))
    assert causal_model(model).config.final_logit_softcapping == 30.0
    causal_model(model).config.final_logit_softcapping = 0.1
    batch = collate(rows, [0])
    capped = float(nll_sum(model, batch).detach())
    assert capped == pytest.approx(float(plain_nll_sum(model, batch).detach()), rel=1e-5)
    causal_model(model).config.final_logit_softcapping = None
    assert float(nll_sum(model, batch).detach()) != pytest.approx(capped, rel=1e-4)


def test_only_supervised_positions_reach_the_output_layer(tiny_folder, rows, monkeypatch):
    model = peft_model(tiny_folder("gemma"))
    seen = []
    monkeypatch.setattr(losses, "head_nll", lambda *given: seen.append(given) or head_nll(*given))
    batch = collate(rows, [0, 3, 5])
    with packing(model):
        nll_sum(model, batch)
    ((hidden, _, targets, _),) = seen
    assert hidden.shape == (batch.supervised, 32)
    assert targets.tolist() == batch.labels[batch.labels != IGNORED].tolist()


# ---------------------------------------------------------------------- a step, however it is cut


@pytest.mark.parametrize("family", EVERY)
def test_loss_and_gradient_of_a_step_do_not_depend_on_the_budget(
    family, rows, tmp_path, monkeypatch
):
    model = peft_model(model_folder(tmp_path, family))
    assert rows.lengths.min() > WINDOW  # longer than the sliding window, where there is one
    with packing(model):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=1)
        chosen = sorted(plan[1].rows)
        lengths = sorted(int(rows.lengths[row]) for row in chosen)
        assert len(set(lengths)) > 1
        found = []
        for budget, parts in [(1, 4), (lengths[0] + lengths[1], None), (70, 2), (10_000, 1)]:
            seen = []
            monkeypatch.setattr(
                trainers, "nll_sum", lambda m, b, seen=seen: seen.append(b) or nll_sum(m, b)
            )
            trainer.decided = replace(trainer.decided, micro_batch_tokens=budget)
            loss = float(trainer.training_step(model, plan[1]))
            found.append((loss, gradients(model)))
            # exactly the configured rows, once each, for every budget
            assert sorted(length for batch in seen for length in batch.lengths) == lengths
            assert len(seen) == parts or parts is None
    plain = plain_nll_sum(model, collate(rows, chosen)) / rows.tokens(chosen)[1]
    plain.backward()
    expected = gradients(model)
    for loss, made in found:
        assert loss == pytest.approx(plain.item(), abs=1e-5)
        assert_near(made, expected, rounding(family))


def test_a_whole_training_is_the_same_however_its_steps_are_cut(tiny_folder, rows, tmp_path):
    ends = []
    for budget in (1, 70, 10_000):
        model = peft_model(tiny_folder("gemma"), disturbed=False)
        with packing(model):
            trainer, _ = trainer_for(model, rows, tmp_path / str(budget), budget=budget, epochs=2)
            trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainable(model).items()})
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(value, end[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_every_micro_batch_of_every_step_has_dropout_of_its_own(
    path, fmt, tiny_folder, tmp_path, monkeypatch
):
    same = tokenise([example(3)] * 8, fmt, max_length=200, keep_answer=False)
    model = peft_model(tiny_folder("gemma"), dropout=0.5)
    found = []

    def looking(model, batch):
        found.append(nll_sum(model, batch))
        return found[-1]

    monkeypatch.setattr(trainers, "nll_sum", looking)
    with PATHS[path].active(model, dropout=0.5, seed=0, shared=True) as (masks, *_):
        trainer, plan = trainer_for(model, same, tmp_path, budget=1, per_step=2, masks=masks)
        for step in (0, 1, 0):
            trainer.training_step(model, plan[step])
    losses = [loss.item() for loss in found]
    assert len(losses) == 6
    assert len(set(losses[:4])) == 4
    assert losses[4:] == losses[:2]  # a step that is repeated is the same


def test_validation_loss_does_not_depend_on_the_budget(tiny_folder, rows):
    model = peft_model(tiny_folder("gemma"), dropout=0.3)
    with packing(model, dropout=0.3):
        found = [
            mean_nll(model, batches(rows, range(18), budget), device=CPU, autocast=nullcontext)
            for budget in (1, 100, 10_000)
        ]
        per_row = [
            mean_nll(model, [batch], device=CPU, autocast=nullcontext)
            for batch in batches(rows, range(18), 1)
        ]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)
    # and it is weighted by token: the mean of row means is another number
    assert sum(per_row) / len(per_row) != pytest.approx(found[0], abs=1e-4)


def test_adapter_weights_are_fp32_on_bf16_base_weights_and_learn(tiny_folder, rows, tmp_path):
    model = peft_model(tiny_folder("gemma"), precision="bf16", disturbed=False)
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert next(causal_model(model).parameters()).dtype == torch.bfloat16
    with packing(model):
        trainer, plan = trainer_for(model, rows, tmp_path, budget=70, precision="bf16")
        trainer.training_step(model, plan[0])
    found = [p.grad for n, p in trainable(model).items() if "lora_B" in n]
    assert all(g.dtype == torch.float32 and g.abs().max() > 0 for g in found)


# ---------------------------------------------------------------------- the output layer


HIDDEN, VOCABULARY, TOKENS = 16, 50, 23


def head_case(kind=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False).to(kind)
    hidden = torch.randn(TOKENS, HIDDEN).to(kind).requires_grad_()
    return head, hidden, torch.randint(0, VOCABULARY, (TOKENS,))


def head_gradients(total, head, hidden):
    (total / TOKENS).backward()
    found = {"hidden": hidden.grad.float().clone()}
    if head.weight.grad is not None:
        found["weight"] = head.weight.grad.float().clone()
    hidden.grad, head.weight.grad = None, None
    return found


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
def test_chunks_give_loss_and_gradients_of_all_logits_at_once(monkeypatch, trained, cap, chunk):
    monkeypatch.setattr(losses, "chunk_rows", lambda *_: chunk)
    head, hidden, targets = head_case()
    head.weight.requires_grad_(trained)
    logits = head(hidden)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    by_hand = head_gradients(expected, head, hidden)
    assert ("weight" in by_hand) == trained
    sizes = []
    head.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    found = head_nll(hidden, head, targets, cap)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_near(head_gradients(found, head, hidden), by_hand, 1e-6)
    assert max(sizes, default=0) <= chunk


@pytest.mark.parametrize(
    ("vocabulary", "positions", "sizes"),
    [
        # Gemma's: blocks of 31 MiB would be chunks of 31 rows, for each of which 2 GB of weights are read
        (256_000, 330, [83, 83, 83, 81]),
        (256_000, 97, [49, 48]),
        (256_000, 20, [20]),
        (32_768, 780, [195, 195, 195, 195]),
        (850, 9_000, [9_000]),
    ],
)
def test_chunks_are_large_enough_to_be_fast_and_leave_no_short_rest(vocabulary, positions, sizes):
    seen = []
    head = SimpleNamespace(weight=torch.empty(vocabulary, 1, device="meta"))

    def part(_, hidden, *rest):
        seen.append(len(hidden))
        return hidden.sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_part_nll", part)
        head_nll(torch.zeros(positions, 1), head, torch.zeros(positions, dtype=torch.long), None)
    assert seen == sizes


def test_no_positions_give_no_loss():
    head, hidden, targets = head_case()
    for trained in (False, True):
        head.weight.requires_grad_(trained)
        assert head_nll(hidden[:0], head, targets[:0], None).item() == 0


def test_bf16_logits_are_summed_in_fp32():
    head, hidden, targets = head_case(torch.bfloat16)
    head.weight.requires_grad_(False)
    found = head_nll(hidden, head, targets, None)
    assert found.dtype == torch.float32
    exact = functional.cross_entropy(hidden.float() @ head.weight.float().t(), targets)
    assert found.item() / TOKENS == pytest.approx(exact.item(), rel=3e-3)
    ours = head_gradients(found, head, hidden)
    (exact).backward()
    assert_near(ours, {"hidden": hidden.grad.float()}, 2e-2)


def test_no_gradient_is_made_where_none_is_wanted():
    head, hidden, targets = head_case()
    head.weight.requires_grad_(False)
    with torch.no_grad():
        found = head_nll(hidden, head, targets, None)
    expected = functional.cross_entropy(head(hidden), targets, reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_a_trained_embedding_gets_the_gradients_of_both_its_ends(
    family, tiny_folder, rows, monkeypatch
):
    """Gemma's output layer is its embedding: what reads it and what writes it both count."""
    monkeypatch.setattr(losses, "chunk_rows", lambda *_: 5)
    model = peft_model(tiny_folder(family))
    causal = causal_model(model)
    embedding = causal.get_input_embeddings().weight
    assert causal.get_output_embeddings().weight is embedding
    embedding.requires_grad_(True)
    if family == "gemma2":  # random logits are small: a low cap makes the capping visible
        causal.config.final_logit_softcapping = 0.5
    batch = collate(rows, [0, 3, 5])
    plain = plain_nll_sum(model, batch) / batch.supervised
    plain.backward()
    expected = gradients(model)
    assert any("embed_tokens" in name for name in expected)
    with packing(model):
        ours = nll_sum(model, batch) / batch.supervised
        ours.backward()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
    assert_near(gradients(model), expected, 1e-5)
