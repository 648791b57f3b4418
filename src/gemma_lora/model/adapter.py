"""LoRA adapters: attaching fresh ones, writing them whole or not at all, reading them with suspicion.

Writes a folder with `adapter_model.safetensors` (LoRA tensors only) and `adapter_config.json` (byte
for byte the same for the same recipe), which plain `PeftModel.from_pretrained` loads. Reads such
folders after checking names, config keys, shapes and values; refuses pickles, other adapter types,
adapters made for another base, and adapters that change nothing. PEFT itself never sees a config
or pattern from the folder: the targets are taken from the tensor names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from gemma_lora.config import LoraConfig
from gemma_lora.errors import ConfigError, ModelError
from gemma_lora.model.families import Family, family_of
from gemma_lora.model.load import skeleton
from gemma_lora.model.reference import BaseRef, weights_digest
from gemma_lora.model.safety import PICKLED, read_object, safetensors_header
from gemma_lora.rundir import PART, disk_fault, fsync_folder

__all__ = ["attach_lora", "load_adapter", "save_adapter"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_TENSORS = 100_000
_TENSOR = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")

# keys of adapter_config.json whose value may differ from PEFT's default
_FREE_KEYS = frozenset(
    {
        "base_model_name_or_path",
        "inference_mode",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)


def attach_lora(base: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    """Fresh fp32 LoRA weights (B zero) on the language model's linear layers, the same for a seed.

    ConfigError for names that are no linear layer there, and for tied embeddings.
    """
    _check_targets(base, config.targets)
    names = "|".join(sorted(config.targets))
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    recipe = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=cast(int, alpha),
        lora_dropout=config.dropout,
        target_modules=f"{_family(base).layers}(?:{names})",
        bias="none",
    )
    with torch.random.fork_rng(devices=_devices(base)):
        torch.manual_seed(seed)
        model = get_peft_model(base, recipe, autocast_adapter_dtype=True)
    assert isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ModelError(
                f"{name} is {parameter.dtype}, not fp32: updates would be rounded away"
            )
    return model


def save_adapter(
    model: PeftModel,
    folder: Path,
    ref: BaseRef,
    *,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write the adapter folder at once; `extra` are further text files (model card, licence)."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in sorted(
            # "auto" would ask the hub for the base model's vocabulary, even for a local folder
            get_peft_model_state_dict(model, save_embedding_layers=False).items()
        )
    }
    foreign = [name for name in tensors if not _TENSOR.fullmatch(name)]
    if foreign or not tensors:
        raise ModelError(f"the adapter would hold other tensors than LoRA's: {foreign[:5]}")
    texts = {CONFIG: _config_text(model, ref), **(extra or {})}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=PART)
        )
        try:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8", newline="")
            for file in temporary.iterdir():
                file.chmod(0o644)
                _fsync(file)
            temporary.chmod(0o755)
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        fsync_folder(folder.parent)
    except OSError as error:
        raise disk_fault(error, folder) from error


def load_adapter(base: PreTrainedModel, folder: Path, *, ref: BaseRef | None = None) -> PeftModel:
    """The adapter in `folder` on `base`, after all checks; `ref` (if given) must be its own base.

    Afterwards the weights in memory equal the file's, and the outputs differ from the base model's.
    """
    settings = _read_settings(folder)
    reference = ref if ref is not None else getattr(base, "base_ref", None)
    _check_base(settings, reference, folder)
    tensors = _read_tensors(folder)
    modules = _check_shapes(base, tensors, settings, folder)
    recipe = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=int(settings["r"]),
        lora_alpha=settings["lora_alpha"],
        lora_dropout=float(settings.get("lora_dropout", 0.0)),
        use_rslora=bool(settings.get("use_rslora", False)),
        target_modules=sorted(modules),
        bias="none",
        inference_mode=True,
    )
    model = get_peft_model(base, recipe, autocast_adapter_dtype=True)
    assert isinstance(model, PeftModel)
    set_peft_model_state_dict(model, tensors)
    _check_arrived(model, tensors, folder)
    model.requires_grad_(False)  # last, because PEFT's disable_adapter() turns gradients on again
    model.eval()
    return model


# ---------------------------------------------------------------------- attaching


def check_targets(ref: BaseRef, targets: tuple[str, ...]) -> None:
    """ConfigError for a name that is no layer of this model; loads no weights."""
    _check_targets(skeleton(ref), targets)


def _check_targets(base: PreTrainedModel, targets: tuple[str, ...]) -> None:
    pattern = re.compile(_family(base).layers + r"(\w+)")
    there: list[str] = []
    for name, module in base.named_modules():
        match = pattern.fullmatch(name)
        if match and isinstance(module, nn.Linear):
            there.append(match.group(1))
    known = sorted(set(there))
    tied = sorted({"lm_head", "embed_tokens"} & set(targets))
    if tied:
        raise ConfigError(
            f"{' and '.join(tied)} cannot be trained: in Gemma input and output embedding are one "
            "tied matrix, and an adapter on one side merges wrongly",
            where="--targets",
            expected=", ".join(known),
        )
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise ConfigError(
            f"the language model has no linear layer named {', '.join(unknown)}",
            where="--targets",
            expected="some of: " + ", ".join(known),
        )


def _family(base: PreTrainedModel) -> Family:
    return family_of(base.config.model_type, where=str(base.name_or_path))


def _devices(base: PreTrainedModel) -> list[int]:
    return [base.device.index or 0] if base.device.type == "cuda" else []


# ---------------------------------------------------------------------- writing


def _config_text(model: PeftModel, ref: BaseRef) -> str:
    settings = dict(model.peft_config["default"].to_dict())
    settings.pop("runtime_config", None)
    settings |= {
        "base_model_name_or_path": ref.location if ref.kind == "hub" else ref.name,
        "revision": _identity(ref),
        "inference_mode": True,
    }
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
    return json.dumps(plain, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _identity(ref: BaseRef) -> str | None:
    """The commit on the hub, the digest of the weights elsewhere."""
    return ref.revision if ref.kind == "hub" else f"sha256-{weights_digest(ref)}"


def _swap(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(new.name + ".old")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def _fsync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


# ---------------------------------------------------------------------- reading


def _read_settings(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError("there is no adapter folder", where=str(folder), remedy="train first")
    if not (folder / WEIGHTS).exists():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        raise ModelError(
            f"the adapter is there only as {', '.join(pickled)}, which can hold programs"
            if pickled
            else f"there is no {WEIGHTS}",
            where=str(folder),
            expected=f"{WEIGHTS} and {CONFIG}",
        )
    settings = read_object(folder / CONFIG)
    faults = _config_faults(settings)
    if faults:
        raise ModelError(
            "the adapter's config is refused",
            where=str(folder / CONFIG),
            details=faults,
            expected="a plain LoRA adapter",
            remedy="use an adapter made by gemma-lora, or by PEFT's LoRA without extras",
        )
    return settings


def _config_faults(settings: dict[str, Any]) -> list[str]:
    defaults = {
        field.name: getattr(PeftLoraConfig(), field.name)
        for field in dataclasses.fields(PeftLoraConfig)
    }
    if settings.get("peft_type") != "LORA":
        return [f"peft_type is {settings.get('peft_type')!r}, only LORA is supported"]
    faults: list[str] = []
    for key, value in sorted(settings.items()):
        if key in _FREE_KEYS:
            continue
        if key not in defaults:
            faults.append(f"{key} is no known setting")
        elif value not in (None, False, {}, []) and value != defaults[key]:
            faults.append(f"{key} = {value!r} is not supported")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 4096:
        faults.append(f"r = {rank!r} is no rank")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        faults.append(f"lora_alpha = {alpha!r} is no scale")
    return faults


def _check_base(settings: dict[str, Any], ref: BaseRef | None, folder: Path) -> None:
    if ref is None:
        return
    theirs, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    ours = ref.location if ref.kind == "hub" else ref.name
    ours_revision = _identity(ref)
    same_weights = isinstance(revision, str) and revision == ours_revision
    digests = isinstance(revision, str) and revision.startswith("sha256-") and ref.kind != "hub"
    comparable = ref.kind == "hub" and isinstance(revision, str) and ours_revision is not None
    if same_weights or (not digests and not comparable and theirs in (ours, None, "")):
        return
    raise ModelError(
        "the adapter was made for another base model",
        where=str(folder),
        details=[
            f"the adapter's base: {theirs} at {revision}",
            f"the base model here: {ours} at {ours_revision}",
        ],
        remedy="name the adapter's own base with --model (and its revision with @), or train again",
    )


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS
    names = list(safetensors_header(file))
    if not 0 < len(names) <= MAX_TENSORS:
        raise ModelError(f"holds {len(names):,} tensors", where=str(file))
    foreign = [name for name in names if not _TENSOR.fullmatch(name)]
    if foreign:
        raise ModelError(
            "holds tensors that are not LoRA's",
            where=str(file),
            details=foreign[:10],
            expected="base_model.model.<layer>.lora_A.weight and .lora_B.weight",
        )
    try:
        tensors = load_file(file)
    except Exception as error:  # noqa: BLE001 - safetensors raises its own bare Exception type
        raise ModelError(f"cannot be read: {error}", where=str(file)) from None
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if bad:
        raise ModelError(
            f"{len(bad)} tensors hold NaN or infinity",
            where=str(file),
            details=bad[:10],
            remedy="the training has diverged; train again with a lower --learning-rate",
        )
    return tensors


def _check_shapes(
    base: PreTrainedModel,
    tensors: dict[str, torch.Tensor],
    settings: dict[str, Any],
    folder: Path,
) -> set[str]:
    allowed = re.compile(_family(base).layers + r"\w+")
    layers = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and allowed.fullmatch(name)
    }
    rank = int(settings["r"])
    modules: dict[str, set[str]] = {}
    faults: list[str] = []
    for name, tensor in sorted(tensors.items()):
        match = cast(re.Match[str], _TENSOR.fullmatch(name))
        module, side = match["module"], match["side"]
        modules.setdefault(module, set()).add(side)
        layer = layers.get(module)
        if layer is None:
            faults.append(f"{module}: the base model has no such layer in attention or MLP")
            continue
        wanted = (rank, layer.in_features) if side == "A" else (layer.out_features, rank)
        if tuple(tensor.shape) != wanted:
            faults.append(
                f"{module} lora_{side}: shape {tuple(tensor.shape)}, the base needs {wanted}"
            )
    faults += [
        f"{module}: only one of the two factors" for module, s in modules.items() if len(s) < 2
    ]
    if faults:
        raise ModelError(
            "the adapter does not fit the base model",
            where=str(folder),
            details=sorted(set(faults)),
            remedy="name the adapter's own base with --model",
        )
    return set(modules)


def _check_arrived(model: PeftModel, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """An adapter can be ignored without an error; so compare tensors, and then outputs."""
    live = get_peft_model_state_dict(model, save_embedding_layers=False)
    lost = [
        name
        for name, tensor in tensors.items()
        if name not in live or not torch.equal(live[name].cpu().float(), tensor.cpu().float())
    ]
    if lost or len(live) != len(tensors):
        raise ModelError(
            "the adapter's weights did not arrive in the model",
            where=str(folder),
            details=lost[:10],
        )
    if not outputs_differ(model):
        raise ModelError(
            "the adapter changes nothing: with it the model computes the same as without",
            where=str(folder),
            remedy="it was saved before any training step; train again",
        )


def outputs_differ(model: PeftModel) -> bool:
    """Whether the adapter alters the logits of a short fixed input."""
    was_training = model.training
    model.eval()
    size = int(model.config.vocab_size)
    ids = torch.tensor([[token % size for token in (2, 5, 11, 23, 47, 95)]], device=model.device)
    with torch.no_grad():
        tuned = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            base = model(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    return not torch.equal(tuned, base)
