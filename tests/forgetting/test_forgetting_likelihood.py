"""Likelihoods and divergence equal what full logits of single rows give, in every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.variants import VARIANTS, Variant, save_variant
from torch import Tensor

from gemma_lora import model as models
from gemma_lora.config import LoraConfig
from gemma_lora.forgetting import likelihood
from gemma_lora.forgetting.likelihood import (
    Asked,
    Compared,
    answer_nll,
    choose,
    compare,
    in_batches,
)
from gemma_lora.model import Arms
from gemma_lora.model.families import FAMILIES
from gemma_lora.records import ARMS

LENGTHS = (40, 7, 21, 33, 12)
"""Shorter and longer than the sliding window of 16."""


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def load(request, tmp_path_factory) -> Callable[[float], Arms]:
    """Both arms of a variant; B of the adapter is random with the given spread, 0 as it begins."""
    variant: Variant = request.param
    family = FAMILIES[variant.model_type]
    folder = tmp_path_factory.mktemp("family") / variant.name
    save_variant(folder, variant, family.text_class, family.attention)
    ref = models.resolve(str(folder))

    def make(spread: float) -> Arms:
        base = models.load_base(ref, precision="fp32", device="cpu")
        model = models.attach_lora(base, LoraConfig(rank=4, alpha=8, dropout=0.5), 0).eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        return Arms(model, ARMS, {})

    return make


def asked() -> list[Asked]:
    generator = torch.Generator().manual_seed(3)
    rows: list[Asked] = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(200, 800, (length,), generator=generator).tolist()
        places = (2, 3, 5) if number == 2 else tuple(range(max(1, length - 6), length))
        rows.append(Asked(tuple(ids), places))
    return rows


@torch.no_grad()
def plain(arms: Arms, arm: str, ids: tuple[int, ...]) -> Tensor:
    """Logs of the next token's probabilities after each token, by the model's own forward."""
    row = torch.tensor([ids])
    with arms.use(arm):
        logits = arms.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
    return logits.double().log_softmax(-1)


def by_hand(arms: Arms, row: Asked, order: tuple[str, str] = ARMS) -> Compared:
    base, tuned = (plain(arms, arm, row.ids) for arm in order)
    figures = [0.0, 0.0, 0.0]
    for place in row.places:
        before, token = place - 1, row.ids[place]
        figures[0] -= float(base[before, token])
        figures[1] -= float(tuned[before, token])
        share = base[before].exp()
        figures[2] += float((share * (base[before] - tuned[before])).sum())
    return Compared(*figures)


def near(found: list[Compared], expected: list[Compared], tolerance: float = 2e-4) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in ("base_nll", "tuned_nll", "kl"):
            assert getattr(one, name) == pytest.approx(
                getattr(other, name), abs=tolerance, rel=1e-4
            )


def test_a_batch_gives_what_single_rows_and_full_logits_give(load, monkeypatch) -> None:
    arms, rows = load(0.3), asked()
    with torch.no_grad():  # small random models predict almost evenly; larger logits tell more
        arms.model.get_base_model().base_model.norm.weight.add_(5)
    batch = compare(arms, rows)
    near(batch, [by_hand(arms, row) for row in rows])
    near(batch, [compare(arms, [row])[0] for row in rows])
    # the other direction of the divergence would be seen
    back = [by_hand(arms, row, ("tuned", "base")).kl for row in rows]
    assert max(abs(kl - row.kl) for kl, row in zip(back, batch, strict=True)) > 5e-3
    assert answer_nll(arms, "tuned", rows) == pytest.approx([row.tuned_nll for row in batch])
    # three places at a time through the output layer
    monkeypatch.setattr(likelihood, "chunk_rows", lambda *_: 3)
    near(compare(arms, rows), batch, 1e-5)


def test_an_adapter_that_does_nothing_loses_nothing(load) -> None:
    for row in compare(load(0.0), asked()):
        assert row.kl == 0
        assert row.base_nll == row.tuned_nll > 0


def test_the_likeliest_letter_is_chosen(load) -> None:
    arms = load(0.3)
    prompts = [row.ids for row in asked()]
    letters = [(300, 301, 302, 303), (400, 310), (500, 501, 502), (220, 230), (700, 600, 640)]
    found = choose(arms, prompts, letters)
    for arm in ARMS:
        for prompt, ids, pick in zip(prompts, letters, found[arm], strict=True):
            last = plain(arms, arm, prompt)[-1]
            assert pick == max(range(len(ids)), key=lambda n: float(last[ids[n]]))
    assert found["base"] != found["tuned"]


def test_soft_capping_is_part_of_it(load) -> None:
    arms, row = load(0.1), asked()[0]
    config = arms.model.get_base_model().config.get_text_config()
    if getattr(config, "final_logit_softcapping", None) is None:
        pytest.skip("a family without soft-capping")
    before = compare(arms, [row])[0]
    config.final_logit_softcapping = 0.2  # the logits of small random models are small
    after = compare(arms, [row])[0]
    near([after], [by_hand(arms, row)])
    assert abs(before.base_nll - after.base_nll) > 1e-2


def test_batches_hold_every_item_once_and_keep_to_the_budget(load, monkeypatch) -> None:
    monkeypatch.setitem(likelihood.BATCH_TOKENS, "cpu", 50)
    sizes = [10, 30, 20, 60, 10, 10, 5]
    seen: list[list[int]] = []
    in_batches(load(0.0), range(len(sizes)), lambda n: sizes[n], seen.append)
    assert sorted(n for batch in seen for n in batch) == list(range(len(sizes)))
    assert all(len(b) == 1 or len(b) * max(sizes[n] for n in b) <= 50 for b in seen)
    assert max(map(len, seen)) > 1


def test_a_full_gpu_halves_the_batch(load) -> None:
    done: list[int] = []

    def work(batch: list[int]) -> None:
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError
        done.extend(batch)

    in_batches(load(0.0), range(9), lambda _: 10, work)
    assert sorted(done) == list(range(9))
