"""LoRA adapters: attached as asked, saved for plain PEFT, read with suspicion."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.tiny import FAMILIES, save_tiny

from gemma_lora import model as models
from gemma_lora.config import LoraConfig
from gemma_lora.errors import ConfigError, ModelError

IDS = torch.tensor([[2, 106, 200, 300, 107]])


def base_of(folder: Path, precision: str = "fp32"):
    return models.load_base(models.resolve(str(folder)), precision=precision, device="cpu")


def tuned_of(folder: Path, config: LoraConfig | None = None, precision: str = "fp32"):
    model = models.attach_lora(base_of(folder, precision), config or LoraConfig(rank=8), 0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A base folder and an adapter for it, saved."""
    folder = tiny_folder("gemma")
    models.save_adapter(tuned_of(folder), tmp_path / "adapter", models.resolve(str(folder)))
    return folder, tmp_path / "adapter"


def edit_config(folder: Path, **changes) -> None:
    file = folder / "adapter_config.json"
    value = json.loads(file.read_text())
    value.update(changes)
    file.write_text(json.dumps(value))


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# ---------------------------------------------------------------------- attaching


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_the_language_model_and_nothing_else(tiny_folder, family):
    model = models.attach_lora(base_of(tiny_folder(family)), LoraConfig(), 0)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2  # layers, targets, factors
    pattern = r"base_model\.model\.model\.layers\.\d\.(self_attn|mlp)\.\w+_proj\.lora_[AB]\.default\.weight"
    assert all(re.fullmatch(pattern, name) for name in trained)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapter_weights_are_fp32_on_any_base(tiny_folder, precision):
    model = models.attach_lora(base_of(tiny_folder("gemma"), precision), LoraConfig(), 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_is_the_same_for_a_seed(tiny_folder):
    folder = tiny_folder("gemma2")
    fresh = models.attach_lora(base_of(folder), LoraConfig(), 3).eval()
    assert torch.equal(logits(fresh), logits(base_of(folder)))
    torch.manual_seed(99)
    again = models.attach_lora(base_of(folder), LoraConfig(), 3)
    other = models.attach_lora(base_of(folder), LoraConfig(), 4)
    values = [dict(m.named_parameters()) for m in (fresh, again, other)]
    name = next(n for n in values[0] if "lora_A" in n)
    assert torch.equal(values[0][name], values[1][name])
    assert not torch.equal(values[0][name], values[2][name])


def test_attaching_leaves_the_random_state_alone(tiny_folder):
    base = base_of(tiny_folder("gemma"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.attach_lora(base, LoraConfig(), 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_misspelt_target_lists_the_names_there_are(tiny_folder):
    with pytest.raises(ConfigError, match="no linear layer named q_porj") as error:
        models.attach_lora(
            base_of(tiny_folder("gemma3")), LoraConfig(targets=("q_porj", "v_proj")), 0
        )
    for name in LoraConfig().targets:
        assert name in str(error.value)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_embeddings_are_refused_with_the_reason(tiny_folder, target):
    with pytest.raises(ConfigError, match="tied"):
        models.attach_lora(base_of(tiny_folder("gemma")), LoraConfig(targets=("q_proj", target)), 0)


# ---------------------------------------------------------------------- round trip


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_is_the_live_model_also_in_plain_peft(tiny_folder, tmp_path, family):
    folder = tiny_folder(family)
    live = tuned_of(folder, LoraConfig(targets=("v_proj", "q_proj", "down_proj")))
    ref = models.resolve(str(folder))
    models.save_adapter(live, tmp_path / "adapter", ref)
    ours = models.load_adapter(base_of(folder), tmp_path / "adapter", ref=ref)
    assert not ours.training
    assert not any(p.requires_grad for p in ours.parameters())
    plain = PeftModel.from_pretrained(base_of(folder), tmp_path / "adapter").eval()
    assert torch.equal(logits(ours), logits(live))
    assert torch.equal(logits(plain), logits(live))
    with ours.disable_adapter():
        assert torch.equal(logits(ours), logits(base_of(folder)))


def test_only_lora_tensors_are_saved_and_the_config_is_byte_stable(tiny_folder, tmp_path):
    folder = tiny_folder("gemma")
    ref = models.resolve(str(folder))
    texts = set()
    for number, targets in enumerate([("q_proj", "v_proj"), ("v_proj", "q_proj")]):
        target = tmp_path / str(number)
        models.save_adapter(tuned_of(folder, LoraConfig(targets=targets)), target, ref)
        texts.add((target / "adapter_config.json").read_bytes())
        names = list(load_file(target / "adapter_model.safetensors"))
        assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in names)
        assert (target / "adapter_model.safetensors").stat().st_size < 100_000
    assert len(texts) == 1
    config = json.loads(texts.pop())
    assert list(config) == sorted(config)
    assert config["base_model_name_or_path"] == str(folder)
    assert config["revision"] == f"sha256-{models.weights_digest(ref)}"


def test_saving_replaces_the_folder_as_a_whole(adapter, tmp_path):
    folder, target = adapter
    (target / "stale.txt").write_text("old")
    ref = models.resolve(str(folder))
    models.save_adapter(tuned_of(folder), target, ref, extra={"README.md": "# card\n"})
    assert sorted(p.name for p in target.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert [p.name for p in target.parent.iterdir()] == ["adapter"]  # nothing temporary stays


def test_a_failed_save_leaves_the_old_adapter(adapter, monkeypatch):
    folder, target = adapter
    before = {p.name: p.read_bytes() for p in target.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gemma_lora.model.adapter.save_file", full)
    with pytest.raises(Exception, match="No space left"):
        models.save_adapter(tuned_of(folder), target, models.resolve(str(folder)))
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert [p.name for p in target.parent.iterdir()] == ["adapter"]


# ---------------------------------------------------------------------- refused


def refused(adapter, match: str) -> ModelError:
    folder, target = adapter
    with pytest.raises(ModelError, match=match) as error:
        models.load_adapter(base_of(folder), target, ref=models.resolve(str(folder)))
    assert error.value.exit_code == 3
    return error.value


def test_a_pickled_adapter_is_refused_by_name(adapter):
    _, target = adapter
    (target / "adapter_model.safetensors").rename(target / "adapter_model.bin")
    refused(adapter, "can hold programs")


def test_a_pickle_renamed_is_refused_by_its_first_bytes(adapter):
    (adapter[1] / "adapter_model.safetensors").write_bytes(b"\x80\x02}q\x00.")
    refused(adapter, "pickle or an archive")


def test_no_adapter_at_all(adapter):
    shutil.rmtree(adapter[1])
    refused(adapter, "no adapter folder")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "only LORA"),
        ({"auto_mapping": {"parent_library": "evil", "base_model_class": "x"}}, "auto_mapping"),
        ({"megatron_core": "evil.core"}, "megatron_core"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs is no known setting"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"r": 0}, "r = 0 is no rank"),
        ({"lora_alpha": "inf"}, "lora_alpha"),
    ],
)
def test_unsafe_or_unknown_settings_are_refused(adapter, change, found):
    edit_config(adapter[1], **change)
    assert found in str(refused(adapter, "config is refused"))


def test_hostile_target_patterns_are_never_matched(adapter):
    edit_config(adapter[1], target_modules="(([a-z._0-9]+)+)+!")
    folder, target = adapter
    models.load_adapter(base_of(folder), target, ref=models.resolve(str(folder)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(adapter, value):
    def poison(tensors):
        next(iter(tensors.values()))[0, 0] = value

    edit_tensors(adapter[1], poison)
    refused(adapter, "NaN or infinity")


def test_foreign_tensors_are_refused(adapter):
    edit_tensors(adapter[1], lambda t: {**t, "base_model.model.lm_head.weight": torch.zeros(2, 2)})
    assert "lm_head" in str(refused(adapter, "not LoRA's"))


def test_all_shapes_that_do_not_fit_are_listed_with_both_shapes(adapter, tmp_path):
    _, target = adapter
    wide = save_tiny(tmp_path / "wide", "gemma", hidden=64)
    edit_config(target, base_model_name_or_path=None, revision=None)
    with pytest.raises(ModelError, match="does not fit the base") as error:
        models.load_adapter(base_of(wide), target, ref=models.resolve(str(wide)))
    assert "shape (8, 32), the base needs (8, 64)" in str(error.value)
    assert len(error.value.details) >= 20


def test_a_missing_factor_is_told(adapter):
    def drop(tensors):
        del tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]

    edit_tensors(adapter[1], drop)
    assert "only one of the two factors" in str(refused(adapter, "does not fit"))


def test_layers_that_the_base_lacks_are_told(adapter):
    def rename(tensors):
        return {name.replace("layers.1.", "layers.7."): t.clone() for name, t in tensors.items()}

    edit_tensors(adapter[1], rename)
    assert "the base model has no such layer" in str(refused(adapter, "does not fit"))


def test_an_adapter_of_another_base_is_refused_with_both_identities(adapter, tmp_path):
    folder, target = adapter
    other = save_tiny(tmp_path / "other", "gemma", seed=1)
    with pytest.raises(ModelError, match="another base model") as error:
        models.load_adapter(base_of(other), target, ref=models.resolve(str(other)))
    for ref in (models.resolve(str(folder)), models.resolve(str(other))):
        assert models.weights_digest(ref) in str(error.value)


def test_the_base_is_known_by_its_weights_and_not_by_its_place(adapter, tmp_path):
    folder, target = adapter
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    models.load_adapter(base_of(moved), target, ref=models.resolve(str(moved)))


def test_an_adapter_that_changes_nothing_is_refused(tiny_folder, tmp_path):
    folder = tiny_folder("gemma")
    ref = models.resolve(str(folder))
    untrained = models.attach_lora(base_of(folder), LoraConfig(), 0)
    models.save_adapter(untrained, tmp_path / "a", ref)
    with pytest.raises(ModelError, match="changes nothing"):
        models.load_adapter(base_of(folder), tmp_path / "a", ref=ref)


def test_an_adapter_made_by_plain_peft_loads(tiny_folder, tmp_path):
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    folder = tiny_folder("gemma3_text")
    model = get_peft_model(
        base_of(folder),
        PeftConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    ).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    model.save_pretrained(tmp_path / "plain")
    loaded = models.load_adapter(base_of(folder), tmp_path / "plain")
    assert torch.equal(logits(loaded), logits(model))
