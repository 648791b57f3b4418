"""Naming, checking and loading base models; what is refused before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import FAMILIES, save_tiny, tiny_model, tokenizer_for
from transformers import Gemma3ForConditionalGeneration

from gemma_lora import model as models
from gemma_lora.config import ModelConfig
from gemma_lora.errors import ConfigError, EnvironmentFault, ModelError
from gemma_lora.model import load as loading
from gemma_lora.model.families import FAMILIES as TABLE
from gemma_lora.model.reference import STARTER, BaseRef
from gemma_lora.model.safety import safetensors_header


@pytest.fixture
def copy_of(tiny_folder, tmp_path: Path):
    """A private copy of a tiny model's folder, to be damaged."""

    def copy(family: str = "gemma") -> Path:
        return Path(shutil.copytree(tiny_folder(family), tmp_path / family))

    return copy


def edit(file: Path, **changes) -> None:
    value = json.loads(file.read_text())
    value.update(changes)
    file.write_text(json.dumps(value))


def facts_of(folder: Path):
    return models.check_access(models.resolve(str(folder)))


def load(folder: Path, **settings):
    ref = models.resolve(str(folder))
    return models.load_base(ref, **{"precision": "fp32", "device": "cpu", **settings})


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "kind", "location", "revision"),
    [
        ("starter", "starter", str(STARTER), None),
        ("google/gemma-2b-it", "hub", "google/gemma-2b-it", None),
        ("google/gemma-2b-it@abc123", "hub", "google/gemma-2b-it", "abc123"),
        ("google/gemma-2b-it@refs/pr/4", "hub", "google/gemma-2b-it", "refs/pr/4"),
    ],
)
def test_names_of_models(name, kind, location, revision):
    ref = models.resolve(name)
    assert (ref.kind, ref.location, ref.revision) == (kind, location, revision)
    assert ref.is_demo == (name == "starter")


def test_an_existing_folder_is_local(tmp_path):
    assert models.resolve(str(tmp_path)) == BaseRef(str(tmp_path), "local", str(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["", "gemma", "no/such/folder/here", "../up/there", "./nothing", "a/b@", "a/b@../c", "a b/c"],
)
def test_what_is_no_model_name_is_an_error(name):
    with pytest.raises(ModelError, match="neither an existing folder nor a hub id"):
        models.resolve(name)


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        models.resolve(str(tmp_path / "model.gguf"))


# ---------------------------------------------------------------------- facts and loading


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_need_no_weights_and_agree_with_them(tiny_folder, family):
    facts = facts_of(tiny_folder(family))
    loaded = load(tiny_folder(family))
    assert facts.parameters == loaded.num_parameters()
    assert facts.model_type == family
    assert facts.max_positions == 512
    assert facts.weight_bytes == (tiny_folder(family) / "model.safetensors").stat().st_size
    assert facts.attention == ("eager" if family == "gemma2" else "sdpa")
    assert loaded.config._attn_implementation == facts.attention
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaded_model_computes_what_was_saved(tiny_folder, family):
    ids = torch.tensor([[2, 106, 200, 300, 107, 106, 250]])
    original = tiny_model(family, len(tokenizer_for(family)))
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        got = load(tiny_folder(family))(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(got, expected, atol=1e-5)


def test_only_the_language_model_of_a_vision_checkpoint_is_loaded(tiny_folder):
    loaded = load(tiny_folder("gemma3"))
    assert type(loaded).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name for name, _ in loaded.named_parameters())


def test_the_newer_layout_of_a_vision_checkpoint_loads_too(tiny_folder, copy_of):
    from safetensors.torch import load_file, save_file

    folder = copy_of("gemma3")
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        ("model.language_model." + name.removeprefix("language_model.model."))
        if name.startswith("language_model.")
        else "model." + name: tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    expected = load(tiny_folder("gemma3")).state_dict()
    got = load(folder).state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert issubclass(Gemma3ForConditionalGeneration, torch.nn.Module)


def test_sharded_weights_load(tmp_path, tiny_folder):
    model = tiny_model("gemma", len(tokenizer_for("gemma")))
    folder = Path(shutil.copytree(tiny_folder("gemma"), tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").exists()
    assert facts_of(folder).weight_bytes > 100_000
    got = load(folder)
    assert all(torch.equal(a, b) for a, b in zip(got.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_come_in_the_precision_asked_for(tiny_folder, precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert load(tiny_folder("gemma"), precision=precision).dtype == dtype


def test_the_format_takes_stop_tokens_of_the_generation_config(copy_of):
    folder = copy_of()
    edit(folder / "generation_config.json", eos_token_id=[1, 107, 40])
    assert models.load_format(models.resolve(str(folder))).stop_ids == (107, 1, 40)


def test_the_starter_loads():
    if not (STARTER / "model.safetensors").exists():
        pytest.skip("the starter model is not built")
    facts = models.check_access(models.resolve("starter"))
    assert facts.ref.is_demo
    assert facts.parameters <= 7_500_000
    fmt = models.load_format(facts.ref)
    assert len(fmt.tokenizer) <= facts.vocabulary
    assert (fmt.pad_id, fmt.bos_id, fmt.end_of_turn_id) == (0, 2, 107)


# ---------------------------------------------------------------------- identity


def test_the_digest_is_of_the_weights_only(copy_of, tiny_folder):
    folder = copy_of()
    ref = models.resolve(str(folder))
    before = models.weights_digest(ref)
    assert before == models.weights_digest(models.resolve(str(tiny_folder("gemma"))))
    (folder / "README.md").write_text("new")
    assert models.weights_digest(ref) == before
    save_tiny(folder, "gemma", seed=1)
    assert models.weights_digest(ref) != before


# ---------------------------------------------------------------------- refused before loading


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"_attn_implementation_internal": "owner/kernel"},
        {"attn_implementation": "owner/kernel"},
        {"text_config": {"_attn_implementation_internal": "x"}},
        {"custom_generate": "generate.py"},
        {"trust_remote_code": True},
    ],
)
def test_a_config_that_names_code_is_refused(copy_of, change):
    folder = copy_of()
    edit(folder / "config.json", **change)
    for attempt in (facts_of, load, lambda f: models.load_format(models.resolve(str(f)))):
        with pytest.raises(ModelError, match="makes loaders run code"):
            attempt(folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json"])
def test_other_files_that_name_code_are_refused(copy_of, file):
    folder = copy_of()
    edit(folder / file, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with pytest.raises(ModelError, match="makes loaders run code"):
        facts_of(folder)


@pytest.mark.parametrize(
    ("model_type", "found"),
    [
        ("llama", "is no Gemma family"),
        ("paligemma", "PaliGemma is not yet examined"),
        ("gemma4_assistant", "a draft model of Gemma 4 is not yet examined"),
        (None, "is no Gemma family"),
        (["gemma"], "is no Gemma family"),
    ],
)
def test_other_families_are_refused_with_the_reason(copy_of, model_type, found):
    folder = copy_of()
    edit(folder / "config.json", model_type=model_type)
    with pytest.raises(ModelError, match=found) as error:
        facts_of(folder)
    assert "google/gemma-2b-it" in str(error.value)


def test_quantised_weights_are_refused(copy_of):
    folder = copy_of()
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelError, match="quantised"):
        facts_of(folder)


@pytest.mark.parametrize(
    "target", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin"]
)
def test_a_shard_index_that_points_elsewhere_is_refused(copy_of, target):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": target}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for attempt in (facts_of, load):
        with pytest.raises(ModelError, match="outside the folder"):
            attempt(folder)


def test_a_fifo_under_the_name_of_weights_is_refused(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        load(folder)


def test_pickled_weights_are_refused_unopened(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="can hold programs"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"PK\x03\x04 a zip archive", "pickle or an archive"),
        (b"\x80\x02}q\x00.", "pickle or an archive"),
        (struct.pack("<Q", 1 << 60) + b"{}", "damaged"),
        (struct.pack("<Q", 4) + b"abcd", "not a readable"),
        (b"", "damaged"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(copy_of, content, found):
    folder = copy_of()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=found):
        load(folder)


def test_weights_that_are_cut_off_are_refused(copy_of):
    folder = copy_of()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut off"):
        facts_of(folder)


def test_a_damaged_adapter_of_ours_is_made_anew_and_a_base_model_fetched(copy_of, tmp_path):
    base = copy_of() / "model.safetensors"
    adapter = tmp_path / "adapter_model.safetensors"
    shutil.copy(base, adapter)
    for file, remedy in (
        (base, "fetch the file again"),
        (adapter, "run the same `gemma-lora run`"),
    ):
        whole = file.read_bytes()
        for damaged in (whole[:-100], whole[:200], b""):
            file.write_bytes(damaged)
            with pytest.raises(ModelError) as caught:
                safetensors_header(file)
            assert remedy in (caught.value.remedy or "")


def test_missing_tensors_are_an_error_and_not_random_numbers(copy_of):
    from safetensors.torch import load_file, save_file

    folder = copy_of()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors are missing") as error:
        load(folder)
    assert "model.layers.1.mlp.up_proj.weight" in str(error.value)


def test_a_config_of_another_size_is_an_error(copy_of):
    folder = copy_of()
    edit(folder / "config.json", hidden_size=64)
    with pytest.raises(ModelError):
        load(folder)


def test_what_is_no_model_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="not a model folder") as error:
        facts_of(tmp_path)
    assert "notes.txt" in str(error.value)


def test_an_adapter_folder_is_no_base_model(copy_of):
    folder = copy_of()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_damaged_config(copy_of, content):
    folder = copy_of()
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match="JSON"):
        facts_of(folder)


def test_a_folder_without_a_tokenizer(copy_of):
    folder = copy_of()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        models.load_format(models.resolve(str(folder)))


def test_a_damaged_tokenizer(copy_of):
    folder = copy_of()
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        models.load_format(models.resolve(str(folder)))


# ---------------------------------------------------------------------- device and precision


def test_the_cpu_computes_in_fp32_unless_told_otherwise(tiny_folder):
    facts = facts_of(tiny_folder("gemma"))
    choice = models.decide_precision(ModelConfig(), "cpu", facts)
    assert choice == "fp32"
    assert "exact" in choice.reason
    assert models.decide_precision(ModelConfig(precision="bf16"), "cpu", facts) == "bf16"


def test_bf16_on_a_cpu_where_fp32_would_not_fit(tiny_folder):
    facts = facts_of(tiny_folder("gemma"))
    free = loading.free_memory()
    middling = replace(facts, parameters=int(free / 3.5))
    assert models.decide_precision(ModelConfig(), "cpu", middling) == "bf16"
    huge = replace(facts, parameters=free)
    assert models.decide_precision(ModelConfig(), "cpu", huge) == "fp32"


def test_files_in_a_containers_memory_are_no_memory_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_CGROUP", tmp_path)
    mib = 2**20
    (tmp_path / "memory.max").write_text(f"{100 * mib}\n")
    (tmp_path / "memory.current").write_text(f"{90 * mib}\n")
    assert loading.free_memory() == 10 * mib
    (tmp_path / "memory.stat").write_text(
        f"anon {40 * mib}\nfile {45 * mib}\ninactive_file {30 * mib}\nactive_file {12 * mib}\n"
    )
    assert loading.free_memory() == 52 * mib
    (tmp_path / "memory.max").write_text("max\n")
    assert loading.free_memory() > 100 * mib


def test_a_jobs_limit_counts_where_it_stands(tmp_path, monkeypatch):
    """As Slurm and systemd set it: on the job's own control group or one above, not at the root."""
    job = tmp_path / "slurm" / "job_7" / "step_0"
    job.mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/other\n0::/slurm/job_7/step_0\n")
    monkeypatch.setattr(loading, "_CGROUP", tmp_path)
    monkeypatch.setattr(loading, "_OWN_CGROUP", tmp_path / "own")
    whole = loading.free_memory()
    for folder, limit in ((job, 300), (job.parent, 200)):
        (folder / "memory.max").write_text(f"{limit * 2**20}\n")
        (folder / "memory.current").write_text(f"{90 * 2**20}\n")
    assert loading.free_memory() == 110 * 2**20 < whole


def test_what_an_earlier_stage_left_on_a_gpu_is_free(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (told.append("asked") or 5, 9))
    assert loading.free_memory("cuda") == 5
    assert told == ["emptied", "asked"]


def test_the_weights_identity_has_the_config(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("gemma"), tmp_path / "model")
    before = models.weights_digest(models.resolve(str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert models.weights_digest(models.resolve(str(folder))) != before


@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_is_refused_on_a_cpu(tiny_folder, family):
    facts = facts_of(tiny_folder(family))
    with pytest.raises(ConfigError, match="silently not used"):
        models.decide_precision(ModelConfig(precision="fp16"), "cpu", facts)


@pytest.mark.parametrize("family", ["gemma3", "gemma3_text"])
def test_fp16_is_refused_for_gemma_3_on_any_device(tiny_folder, family):
    with pytest.raises(ConfigError, match="65,504"):
        models.decide_precision(
            ModelConfig(precision="fp16"), "cuda", facts_of(tiny_folder(family))
        )


def test_devices():
    assert models.decide_device(ModelConfig(device="cpu")) == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentFault, match="no cuda device"):
            models.decide_device(ModelConfig(device="cuda"))


def test_weights_that_do_not_fit_the_memory_are_told_before_loading(tiny_folder, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda _device: 1000)
    with pytest.raises(EnvironmentFault, match="the weights need"):
        load(tiny_folder("gemma"))


def test_the_family_table_names_classes_that_exist():
    import transformers

    for family in TABLE.values():
        assert hasattr(transformers, family.text_class)
