"""Every family of the table computes what it should on every path that is used here.

Each test runs on tiny random models of all variants (tests/support/variants.py), loaded as a user's
model is. The rows are shorter and longer than the sliding window. A family that fails one of these
does not get into the table.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from support.tiny import small_tokenizer
from support.training import example, make_config, make_run, quiet
from support.variants import (
    GEMMA_4,
    TEMPLATE_4,
    TEMPLATE_4_LARGE,
    VARIANTS,
    WHOLE,
    WINDOW,
    Variant,
    random_model,
    save_variant,
)
from torch import Tensor, nn
from torch.nn import functional

from gemma_lora import model as models
from gemma_lora.config import LoraConfig
from gemma_lora.data.tokens import Tokenised, tokenise
from gemma_lora.errors import EnvironmentFault, ModelError
from gemma_lora.model.decoding import generate, stream
from gemma_lora.model.families import FAMILIES, check_versions, family_of
from gemma_lora.model.templates import TURNS_4
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Message
from gemma_lora.train import train
from gemma_lora.train.attention import can_varlen
from gemma_lora.train.loss import nll_sum, plain_nll_sum
from gemma_lora.train.packing import collate
from gemma_lora.train.path import PATHS, candidates, choose
from gemma_lora.train.trainer import autocast_for

LENGTHS = (40, 7, 2 * WINDOW + 3, 1, WINDOW, 25)
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Ready:
    """A variant's folder, its tokenizer, and the base model as it is loaded for training."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        self.variant, self.family = variant, FAMILIES[variant.model_type]
        save_variant(folder, variant, self.family.text_class, self.family.attention)
        self.folder, self.ref = folder, models.resolve(str(folder))
        self.fmt = models.load_format(self.ref)
        self.base = self.load()

    def load(self, precision: str = "fp32"):
        return models.load_base(self.ref, precision=precision, device="cpu")

    def tuned(self, *, spread: float = 0.05) -> PeftModel:
        """A model of its own with an adapter whose update is not zero."""
        model = models.attach_lora(self.load(), LoraConfig(rank=4, alpha=8, dropout=0.0), 0)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        return model.eval()


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def ready(request, tmp_path_factory) -> Ready:
    return Ready(request.param, tmp_path_factory.mktemp("family") / request.param.name)


def rows_of(lengths=LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(200, 800, (length,), generator=generator) for length in lengths]


def alone(model, row: Tensor, **settings) -> Tensor:
    """Logits of one row by the model's plain forward: mask, cache on."""
    ids = row[None]
    mask = torch.ones_like(ids)
    return model(input_ids=ids, attention_mask=mask, use_cache=True, **settings).logits[0]


def padded(rows: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def packed(rows: list[Tensor]) -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return {"input_ids": torch.cat(rows)[None], "position_ids": positions[None]}


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# ---------------------------------------------------------------------- the table


def test_every_row_of_the_table_is_proven_here():
    assert {variant.model_type for variant in VARIANTS} == set(FAMILIES)
    for family in FAMILIES.values():
        assert hasattr(transformers, family.text_class)
        assert family.packing_reason
        assert family.attention_reason


def test_the_documents_say_what_the_table_says():
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| Gemma")]
    told = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}
    assert set(told) == {family.title.split(" (")[0] for family in FAMILIES.values()}
    for family in FAMILIES.values():
        _, attention, fp16, packing, system = told[family.title.split(" (")[0]]
        assert attention.split(":")[0] == family.attention
        assert fp16.startswith("refused") == (family.fp16_refusal is not None)
        assert packing.startswith("yes") == family.packs
        assert system.startswith("folded") == (family.published_template != TURNS_4)


def test_the_variants_hold_what_is_special_in_their_families():
    configs = {variant.name: variant.shape for variant in VARIANTS}
    for name, shape in configs.items():
        if name != "gemma":
            assert set(shape["layer_types"]) == {"sliding_attention", "full_attention"}
            assert max(LENGTHS) > 2 * shape["sliding_window"]
    assert configs["gemma4-experts"]["enable_moe_block"]
    assert configs["gemma4-large"]["attention_k_eq_v"]
    for name in ("gemma3n-text", "gemma4-small"):
        assert configs[name]["num_kv_shared_layers"]
        assert configs[name]["hidden_size_per_layer_input"]


def test_packages_older_than_the_proof_are_refused():
    for family in FAMILIES.values():
        check_versions(family)
    old = replace(
        FAMILIES["gemma"], title="Gemma X", versions={"transformers": "99.1", "peft": "0.1"}
    )
    with pytest.raises(EnvironmentFault) as error:
        check_versions(old)
    assert [line.split(", ")[1] for line in error.value.details] == ["Gemma X needs 99.1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("gemma3-text", True), ("gemma4-large", "all"), ("gemma4-unified-text", "all")],
)
def test_models_for_embeddings_are_refused(name, value, tmp_path):
    variant = next(v for v in VARIANTS if v.name == name)
    family = FAMILIES[variant.model_type]
    folder = save_variant(tmp_path / "m", variant, family.text_class, family.attention)
    config = getattr(transformers, variant.config_class)(
        **{**variant.shape, "use_bidirectional_attention": value}
    )
    config.save_pretrained(folder)
    with pytest.raises(ModelError, match="both directions"):
        models.check_access(models.resolve(str(folder)))


def test_what_is_no_language_model_is_refused_by_name():
    for model_type, title in (("diffusion_gemma", "DiffusionGemma"), ("t5gemma2", "T5Gemma 2")):
        with pytest.raises(ModelError, match=f"{title} is not yet examined"):
            family_of(model_type, where="x")


# ---------------------------------------------------------------------- loading


def test_loading_gives_the_model_that_was_saved(ready):
    facts = models.check_access(ready.ref)
    original = random_model(ready.variant, ready.family.text_class, ready.family.attention)
    assert facts.parameters == original.num_parameters() == ready.base.num_parameters()
    assert (facts.model_type, facts.attention) == (ready.variant.model_type, ready.family.attention)
    assert type(ready.base).__name__ == ready.family.text_class
    assert ready.base.config._attn_implementation == ready.family.attention
    assert not any(re.search("vision|audio", name) for name, _ in ready.base.named_parameters())
    with torch.no_grad():
        near(alone(ready.base, rows_of()[0]), alone(original, rows_of()[0]), 1e-6)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.model_type in WHOLE], ids=str)
def test_the_language_model_of_a_real_multimodal_class_loads_and_computes_the_same(
    variant, tmp_path
):
    family = FAMILIES[variant.model_type]
    text = getattr(transformers, variant.config_class)(**variant.shape).to_dict()
    config = getattr(transformers, str(variant.whole))(
        text_config=text, **WHOLE[variant.model_type]
    )
    torch.manual_seed(0)
    kind = family.text_class.replace("ForCausalLM", "ForConditionalGeneration")
    whole = getattr(transformers, kind)(config).eval()
    whole.save_pretrained(tmp_path)
    small_tokenizer(variant.template, control=variant.control).save_pretrained(tmp_path)
    ours = models.load_base(models.resolve(str(tmp_path)), precision="fp32", device="cpu")
    ids = rows_of()[0][None]
    kinds = {"mm_token_type_ids": torch.zeros_like(ids)} if "gemma4" in variant.model_type else {}
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=torch.ones_like(ids), **kinds).logits
        near(ours(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, expected)


def test_the_attention_backend_is_the_fastest_exact_one(ready):
    """Fused kernels where they compute the same as the plain formula, else the plain formula."""
    rows = rows_of()
    plain = random_model(ready.variant, ready.family.text_class, "eager")
    if ready.family.attention == "eager":
        with pytest.raises(ValueError, match="scaled_dot_product_attention"):
            random_model(ready.variant, ready.family.text_class, "sdpa")(input_ids=rows[0][None])
        return
    assert ready.family.attention == "sdpa"
    with torch.no_grad():
        for row in rows:
            near(alone(ready.base, row), alone(plain, row))


# ---------------------------------------------------------------------- one row, many paths


def test_without_a_cache_a_row_has_the_same_logits(ready):
    with torch.no_grad():
        for row in rows_of():
            near(ready.base(input_ids=row[None], use_cache=False).logits[0], alone(ready.base, row))


def test_token_by_token_through_the_cache_a_row_has_the_same_logits(ready):
    row = rows_of()[0]
    cache = transformers.DynamicCache(config=ready.base.config)
    steps = []
    with torch.no_grad():
        for position, token in enumerate(row):
            output = ready.base(
                input_ids=token[None, None],
                position_ids=torch.tensor([[position]]),
                past_key_values=cache,
                use_cache=True,
            )
            steps.append(output.logits[0, 0])
        near(torch.stack(steps), ready.base(input_ids=row[None], use_cache=False).logits[0])


def test_padding_on_the_right_needs_no_mask(ready):
    rows = rows_of()
    with torch.no_grad():
        found = ready.base(input_ids=padded(rows), use_cache=False).logits
        for line, row in enumerate(rows):
            near(found[line, : len(row)], alone(ready.base, row))


def test_packed_rows_have_the_logits_of_single_rows(ready):
    assert ready.family.packs
    rows = rows_of()
    with torch.no_grad():
        expected = torch.cat([alone(ready.base, row) for row in rows])
        found = ready.base(**packed(rows), attention_mask=None, use_cache=False).logits[0]
        near(found, expected)
        # and the comparison would see a leak: with a cache the rows are not kept apart
        leaking = ready.base(**packed(rows), attention_mask=None, use_cache=True).logits[0]
    assert float((leaking - expected).abs().max()) > 0.05


# ---------------------------------------------------------------------- gradients


def losses(logits: Tensor, row: Tensor) -> Tensor:
    return functional.cross_entropy(logits[: len(row) - 1], row[1:], reduction="sum")


def gradients(model: PeftModel, form: str) -> dict[str, Tensor]:
    rows = [row for row in rows_of() if len(row) > 1]
    model.train().zero_grad()
    if form == "single":
        loss = torch.stack([losses(alone(model, row), row) for row in rows]).sum()
    elif form == "padded":
        logits = model(input_ids=padded(rows), use_cache=False).logits
        loss = torch.stack([losses(logits[n], row) for n, row in enumerate(rows)]).sum()
    else:
        logits = model(**packed(rows), attention_mask=None, use_cache=False).logits[0]
        parts = logits.split([len(row) for row in rows])
        loss = torch.stack([losses(p, row) for p, row in zip(parts, rows, strict=True)]).sum()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-2
    for name, gradient in expected.items():
        near(
            found[name] / scale,
            gradient / scale,
            2e-6 if gradient.dtype == torch.float64 else tolerance,
        )


def test_gradients_are_the_same_single_padded_packed_and_checkpointed(ready):
    # in fp64, since some of the small models magnify what fp32 rounds off; experts' grouped matrix
    # products exist in fp32 only
    model = ready.tuned()
    model = model if ready.variant.shape.get("enable_moe_block") else model.double()
    expected = gradients(model, "single")
    silent = {name for name, gradient in expected.items() if not gradient.abs().max() > 0}
    assert not silent
    for form in ("padded", "packed"):
        same(gradients(model, form), expected)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda *_: calls.append(1))
    for form in ("padded", "packed"):
        calls.clear()
        same(gradients(model, form), expected)
        assert len(calls) == 2  # the layer was really computed again


def training_rows(fmt: PromptFormat) -> Tokenised:
    rows = tokenise([example(n) for n in (3, 14, 5)], fmt, max_length=300, keep_answer=False)
    assert max(rows.lengths) > WINDOW
    return rows


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_path_of_training_gives_the_plain_forwards_loss(ready, precision):
    base = ready.load(precision)
    model = models.attach_lora(base, LoraConfig(rank=4, alpha=8, dropout=0.1), 0)
    rows = training_rows(ready.fmt)
    paths = candidates(model, "cpu", packs=ready.family.packs)
    assert paths[0].packs
    for path in paths:
        chosen, loss = choose(
            model,
            [path],
            collate(rows, [0, 1, 2]),
            collate(rows, [0]),
            autocast=autocast_for(precision, torch.device("cpu")),
            tolerance=1e-5 if precision == "fp32" else 3e-2,
            console=quiet(),
        )
        assert chosen == path
        assert 0 < loss < 30


def test_heads_too_large_for_the_fast_kernel_are_seen_in_every_layer():
    large = next(v for v in VARIANTS if v.name == "gemma4-large")
    shape = {**large.shape, "global_head_dim": 512}
    model = random_model(replace(large, shape=shape), "Gemma4ForCausalLM", "sdpa")
    assert {layer.self_attn.head_dim for layer in model.model.layers} == {8, 512}
    assert not can_varlen(model, "cuda", torch.bfloat16)


def test_every_path_of_training_gives_the_plain_forwards_gradients(ready):
    model, rows = ready.tuned(), training_rows(ready.fmt)

    def taken(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    for path in candidates(model, "cpu", packs=ready.family.packs):
        batch = collate(rows, [0, 1, 2] if path.packs else [0])
        expected = taken(plain_nll_sum(model, batch))
        with path.active(model, dropout=0.0, seed=0, shared=True) as (_, left, *_):
            assert not left  # no layer of the adapter is computed another way than meant
            # these two magnify: PEFT's own fp32 gradient is 2e-4 from that in fp64
            magnifies = ready.variant.name in ("gemma4-small", "gemma4-whole")
            same(taken(nll_sum(model, batch)), expected, tolerance=1e-3 if magnifies else 2e-5)


def test_the_row_says_what_a_layer_is_made_of(ready):
    """Memory is counted by the row, and the layers that it names are those computed by hand."""
    model, family = ready.tuned(), ready.family
    layer = model.get_base_model().model.layers[0]
    norms = [name for name, _ in layer.named_children() if name.endswith("layernorm")]
    shape = models.check_access(ready.ref).shape
    assert shape.norms == family.norms == len(norms)
    assert shape.head_norms == family.head_norms == hasattr(layer.self_attn, "q_norm")
    with PATHS["packed"].active(model, dropout=0.0, seed=0, shared=True):
        by_hand = {m for m in model.modules() if "forward" in vars(m)}
        joined = {
            type(m).__name__
            for m in model.modules()
            if any(
                c in by_hand and getattr(vars(c)["forward"], "group", None) for c in m.children()
            )
        }
    kinds = {type(m).__name__ for m in by_hand if not isinstance(m, BaseTunerLayer)}
    assert kinds == {family.fused_norm, family.fused_mlp} - {None}
    assert joined == {family.fused_attention} - {None}
    assert shape.fused_mlp == (type(layer.mlp).__name__ in kinds)


# ---------------------------------------------------------------------- adapters

# linear layers that keep their weights: the output layer (tied to the embedding), and in newer
# families the narrow ones around attention and MLP, which feed, mix and route
LEFT_ALONE = {
    "Gemma 3n": r"model\.(per_layer_model_projection|altup_(unembed_)?projections\.\d+)"
    r"|model\.layers\.\d+\.(altup\.\w+|laurel\.linear_(left|right)|per_layer_(input_gate|projection))",
    "Gemma 4": r"model\.per_layer_model_projection"
    r"|model\.layers\.\d+\.(per_layer_(input_gate|projection)|router\.proj)",
}


def test_every_linear_layer_of_attention_and_mlp_is_wrapped_and_no_other(ready):
    model = ready.tuned()
    wrapped = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_A." in name
    }
    linear = {name for name, module in ready.base.named_modules() if isinstance(module, nn.Linear)}
    left = LEFT_ALONE.get(ready.family.title.split(" (")[0], "(?!)")
    expected = {name for name in linear - {"lm_head"} if not re.fullmatch(left, name)}
    assert wrapped == expected
    assert {name.rpartition(".")[2] for name in wrapped} == set(ALL_LINEAR)
    shared = ready.base.config.to_dict().get("num_kv_shared_layers") or 0
    layers = ready.base.config.num_hidden_layers
    assert sum(name.endswith("k_proj") for name in wrapped) == layers - shared
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(wrapped)


def test_experts_are_left_alone_and_the_user_is_told(ready):
    facts = models.check_access(ready.ref)
    experts = [name for name, _ in ready.base.named_parameters() if ".experts." in name]
    assert bool(facts.notes) == bool(experts)
    assert all("experts" in note for note in facts.notes)


def test_saved_and_loaded_the_adapter_computes_the_same_also_in_plain_peft(ready, tmp_path):
    live = ready.tuned(spread=0.2)
    models.save_adapter(live, tmp_path / "adapter", ready.ref)
    row = rows_of()[0]
    with torch.no_grad():
        expected = alone(live, row)
        ours = models.load_adapter(ready.load(), tmp_path / "adapter", ref=ready.ref)
        assert torch.equal(alone(ours, row), expected)
        plain = PeftModel.from_pretrained(ready.load(), tmp_path / "adapter").eval()
        assert torch.equal(alone(plain, row), expected)
        assert float((expected - alone(ready.base, row)).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["gemma3-vision", "gemma4-experts-whole"])
def test_the_snippet_of_the_card_puts_the_adapter_on_a_multimodal_checkpoints_text(
    name, tmp_path, monkeypatch
):
    variant = next(v for v in VARIANTS if v.name == name)
    ready = Ready(variant, tmp_path / "base")
    run = make_run(tmp_path / "run", train=8, validation=0)
    train(make_config(ready.folder, learning_rate=0.1), run, quiet())
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(run.adapter)
    made: dict[str, Any] = {}
    code = card.split("```python\n")[1].split("```")[0].replace("=256", "=4")
    exec(compile(code, "card", "exec"), made)
    tuned = models.load_adapter(ready.base, run.adapter, ref=ready.ref)
    with torch.no_grad():
        row = rows_of()[0]
        near(alone(made["model"], row), alone(tuned, row))
    assert (run.adapter / "NOTICE").exists() == ready.family.gemma_terms


# ---------------------------------------------------------------------- generation


def prompts_of(fmt: PromptFormat) -> list[list[int]]:
    """Prompts of unlike lengths, the longest above the sliding window."""
    questions = ["Hello", "what is the number of my order please", "please help " * (2 * WINDOW)]
    return [fmt.prompt([Message(role="user", content=text)]) for text in questions]


def by_hand(model, prompt: list[int], stops: set[int], limit: int) -> list[int]:
    """Greedy tokens with everything computed anew for each: no cache, no mask, no batch."""
    made: list[int] = []
    while len(made) < limit:
        logits = model(input_ids=torch.tensor([prompt + made]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in stops:
            break
        made.append(token)
    return made


def test_a_batch_generates_what_single_calls_and_plain_recomputing_give(ready):
    prompts, limit = prompts_of(ready.fmt), WINDOW + 4
    assert max(map(len, prompts)) > 2 * WINDOW
    # with one in thirty tokens as a stop, rows leave the batch at different steps
    ready_fmt = PromptFormat(ready.fmt.tokenizer, name="x", stop_ids=range(300, 330))
    batch = generate(ready.base, ready_fmt, prompts, max_new_tokens=limit)
    single = [generate(ready.base, ready_fmt, [p], max_new_tokens=limit)[0] for p in prompts]
    assert batch == single
    with torch.no_grad():
        for prompt, answer in zip(prompts, batch, strict=True):
            assert list(answer.ids) == by_hand(ready.base, prompt, set(ready_fmt.stop_ids), limit)


def test_an_answer_stops_at_the_familys_end_of_turn(ready):
    stop, made = ready.variant.stop, []

    def end_after_three(_module, _inputs, logits: Tensor) -> Tensor:
        made.append(1)
        if len(made) > 3:
            logits = logits.clone()
            logits[..., stop] = 1e4
        return logits

    assert ready.fmt.tokenizer.convert_ids_to_tokens(stop) in ready.family.stop_tokens
    hook = ready.base.lm_head.register_forward_hook(end_after_three)
    try:
        ids = list(stream(ready.base, ready.fmt, prompts_of(ready.fmt)[1], max_new_tokens=20))
    finally:
        hook.remove()
    assert len(ids) == 3


# ---------------------------------------------------------------------- template


def test_the_template_opens_once_and_its_end_of_turn_is_trained(ready):
    fmt, stop = ready.fmt, ready.variant.stop
    talk = [Message(role="user", content="Why?"), Message(role="assistant", content=" Because. ")]
    prompt, encoded = fmt.prompt(talk[:1]), fmt.example(talk)
    assert list(encoded.ids[: len(prompt)]) == prompt  # trained as it is asked
    assert (encoded.ids.count(fmt.bos_id), encoded.ids[0]) == (1, fmt.bos_id)
    assert fmt.end_of_turn_id == stop == encoded.ids[-1]
    assert {stop, 1} <= set(fmt.stop_ids)
    assert encoded.supervised[-1]
    assert not any(encoded.supervised[: len(prompt)])
    assert fmt.decode(encoded.ids[len(prompt) :]) == "Because."
    assert fmt.template_hash == hashlib.sha256(ready.variant.template.encode()).hexdigest()


def test_system_text_is_native_or_folded_and_the_same_when_asked(ready):
    fmt = ready.fmt
    talk = [Message(role="system", content="Be brief."), Message(role="user", content="Why?")]
    text = fmt.tokenizer.decode(fmt.prompt(talk))
    if ready.family.stop_tokens == ("<turn|>",):
        assert "<|turn>system\nBe brief.<turn|>\n<|turn>user\nWhy?<turn|>" in text
    else:
        assert "<start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>" in text
    encoded = fmt.example([*talk, Message(role="assistant", content="So.")])
    assert list(encoded.ids[: len(fmt.prompt(talk))]) == fmt.prompt(talk)


def test_a_base_model_gets_the_familys_published_template(ready):
    tokenizer = small_tokenizer(None, control=ready.variant.control)
    fmt = PromptFormat(tokenizer, name="base", published=ready.family.published_template)
    assert fmt.template_source == "published"
    question = [Message(role="user", content="Why?")]
    # instruction models of Gemma 4 from 12B on close an empty thought, base models do not think
    thought = ready.fmt.tokenizer(
        "<|channel>thought\n<channel|>", add_special_tokens=False
    ).input_ids
    scaffold = thought if ready.variant.template == TEMPLATE_4_LARGE else []
    assert fmt.prompt(question) + scaffold == ready.fmt.prompt(question)
    assert fmt.end_of_turn_id == ready.variant.stop
    with pytest.raises(ModelError, match="its vocabulary has no"):
        PromptFormat(
            small_tokenizer(None, control={}), name="x", published=ready.family.published_template
        )


def gemma_4_templates() -> dict[str, str]:
    """Ours, and where TRL is installed the five of google/gemma-4-E2B-it that it carries."""
    found = {"small": TEMPLATE_4, "large": TEMPLATE_4_LARGE, "published": TURNS_4}
    trl = importlib.util.find_spec("trl")
    if trl is not None and trl.origin is not None:
        for file in sorted((Path(trl.origin).parent / "chat_templates").glob("gemma4*.jinja")):
            found[file.stem] = file.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize("name", gemma_4_templates())
def test_templates_of_gemma_4_train_what_is_asked_later(name):
    template = gemma_4_templates()[name]
    fmt = PromptFormat(small_tokenizer(template, control=GEMMA_4), name=name)
    talk = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="a <|channel>thought\nb<channel|>"),
        Message(role="assistant", content="first <|channel>thought\nx<channel|> y <turn|>"),
        Message(role="user", content="b"),
        Message(role="assistant", content="second"),
    ]
    encoded, prompt = fmt.example(talk), fmt.prompt(talk[:-1])
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert encoded.ids[-1] == fmt.end_of_turn_id == 106
    assert encoded.ids.count(2) == 1
    # markers in the data stay text: the template neither strips them nor makes them tokens
    assert "first <|channel>thought\nx<channel|> y <turn|>" in fmt.tokenizer.decode(encoded.ids)
    assert fmt.takes_system
    scaffold = fmt.tokenizer.decode(prompt).endswith("<|channel>thought\n<channel|>")
    assert scaffold == (name == "large") == (not fmt.prefix_consistent)
    trained = [text for text, loss in fmt.runs(encoded) if loss]
    assert trained[-1] == "second<turn|>"
    assert len(trained) == (1 if scaffold else 2)
