"""Deciding device and precision, and loading tokenizer and base weights, with every check first.

Reads the model's folder (see `reference.fetch`). `check_access` needs no weights and tells whether
the model can be had, what it is and how much memory it takes. Refuses unknown families, precisions
that a device or family does not stand, and checkpoints whose tensors do not all arrive.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from gemma_lora.config import ModelConfig
from gemma_lora.errors import ConfigError, EnvironmentFault, ModelError
from gemma_lora.model.families import (
    Family,
    check_kind,
    check_versions,
    family_of,
    notes_of,
)
from gemma_lora.model.memory import BYTES, Shape
from gemma_lora.model.reference import BaseRef, fetch
from gemma_lora.model.safety import (
    check_base_folder,
    read_config,
    read_object,
    safetensors_header,
    weight_files,
)
from gemma_lora.prompt import PromptFormat

__all__ = [
    "BaseFacts",
    "Choice",
    "check_access",
    "decide_device",
    "decide_precision",
    "free_memory",
    "load_base",
    "load_format",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
"""Of a container, version 2."""


class Choice(str):
    """A decision as its plain text, with the `reason` to print beside it."""

    reason: str

    def __new__(cls, value: str, reason: str) -> Choice:
        choice = super().__new__(cls, value)
        choice.reason = reason
        return choice


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base model without its weights. Sizes in bytes, positions in tokens."""

    ref: BaseRef
    """The reference with its revision pinned to a commit (hub)."""
    family: str
    model_type: str
    parameters: int
    """Of the language model, tied embeddings counted once."""
    weight_bytes: int
    """On disk, or parameters x bytes of the stored type where the files are not here yet."""
    revision: str | None
    licence: str | None
    max_positions: int
    vocabulary: int
    stored_dtype: str
    attention: str
    attention_reason: str
    shape: Shape
    """Its sizes, from which memory is predicted."""
    notes: tuple[str, ...] = ()
    """What is to be known before training this model."""


def check_access(ref: BaseRef) -> BaseFacts:
    """Facts from config and tokenizer; ModelError with steps where the model cannot be had."""
    folder, commit = fetch(ref, weights=False)
    family, text = _text_config(folder)
    check_base_folder(folder)
    layers = _without_weights(family, text)
    parameters = int(layers.num_parameters())
    stored = str(getattr(text, "dtype", None) or "float32").removeprefix("torch.")
    if ref.kind == "hub":
        weight_bytes = parameters * (4 if stored == "float32" else 2)
    else:
        weight_bytes = sum(file.stat().st_size for file in weight_files(folder))
    return BaseFacts(
        ref=replace(ref, revision=commit or ref.revision),
        family=family.title,
        model_type=family.model_type,
        parameters=parameters,
        weight_bytes=weight_bytes,
        revision=commit or ref.revision,
        licence=_licence(folder, ref),
        max_positions=int(text.max_position_embeddings),
        vocabulary=int(text.vocab_size),
        stored_dtype=stored,
        attention=family.attention,
        attention_reason=family.attention_reason,
        shape=Shape.of(
            text,
            family,
            parameters=parameters,
            stored_bytes=4 if stored == "float32" else 2,
            layer_sizes=[
                sum(p.numel() for p in layer.parameters() if p.dim() > 1)
                for layer in cast(Any, layers.base_model).layers
            ],
        ),
        notes=notes_of(family, text),
    )


def skeleton(ref: BaseRef) -> PreTrainedModel:
    """The model's layers without weights (on the meta device)."""
    folder, _ = fetch(ref, weights=False)
    return _without_weights(*_text_config(folder))


def _without_weights(family: Family, text: Any) -> PreTrainedModel:
    with torch.device("meta"):
        return getattr(transformers, family.text_class)(text)


def load_format(ref: BaseRef) -> PromptFormat:
    """The tokenizer with its template; the family's and the generation config's stop tokens are added."""
    folder, _ = fetch(ref, weights=False)
    family = family_of(read_config(folder).get("model_type"), where=str(folder))
    check_base_folder(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise ModelError(
            f"the tokenizer cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            where=ref.name,
            remedy="fetch the tokenizer files of the model again (tokenizer.json, tokenizer_config.json)",
        ) from None
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary[token] for token in family.stop_tokens if token in vocabulary]
    return PromptFormat(
        tokenizer,
        name=ref.name,
        published=family.published_template,
        stop_ids=[*stops, *_generation_stops(folder)],
    )


def decide_device(config: ModelConfig) -> Choice:
    """`cpu`, `cuda` or `mps`; EnvironmentFault where the one asked for is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if config.device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
        return Choice(device, "found on this machine" if device != "cpu" else "no GPU found")
    if not there[config.device]:
        raise EnvironmentFault(
            f"PyTorch finds no {config.device} device",
            where="--device",
            remedy="use --device cpu, or install the PyTorch build and driver for the GPU",
        )
    return Choice(config.device, "as asked")


def decide_precision(config: ModelConfig, device: str, facts: BaseFacts) -> Choice:
    """`fp32`, `bf16` or `fp16` for the frozen weights; ConfigError for what would fail silently.

    On a CPU `auto` is fp32: it is exact, and bf16 matrix products are fast only on the few CPUs with
    AMX or AVX512-BF16; bf16 is taken there only where fp32 weights would not fit the free memory. That
    is for models that are asked; training takes more than its weights (`fitting.plan_training`).
    """
    device = str(device)
    if config.precision == "fp16":
        _refuse_fp16(device, facts)
        return Choice("fp16", "as asked; guarded by loss scaling")
    if config.precision == "bf16":
        if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                "this GPU does not compute in bf16",
                where="--precision bf16",
                remedy="use --precision auto",
            )
        return Choice("bf16", "as asked")
    if config.precision == "fp32":
        return Choice("fp32", "as asked")
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16", "the GPU computes in it")
        return Choice("fp32", "the GPU does not compute in bf16")
    need = facts.parameters * BYTES["fp32"] * 1.25
    free = free_memory()
    if device == "cpu" and need > free and facts.parameters * BYTES["bf16"] * 1.25 <= free:
        return Choice(
            "bf16", f"fp32 weights need {_gb(need)} GB, {_gb(free)} GB are free; slower but it fits"
        )
    return Choice(
        "fp32", f"exact on {device}, and it fits" if need <= free else f"exact on {device}"
    )


def load_base(ref: BaseRef, *, precision: str, device: str) -> PreTrainedModel:
    """The text-only model with frozen weights, in evaluation mode, on `device`.

    ModelError where a tensor is missing or has another shape: transformers would only print it and
    go on with random numbers. EnvironmentFault where the memory does not suffice.
    """
    folder, commit = fetch(ref, weights=True)
    family, text = _text_config(folder)
    check_base_folder(folder)
    files = weight_files(folder)
    _check_memory(files, family, precision, device, ref)
    kind: Any = getattr(transformers, family.text_class)
    try:
        with _quiet_transformers():
            model, report = kind.from_pretrained(
                folder,
                config=text,
                dtype=DTYPES[precision],
                attn_implementation=family.attention,
                key_mapping=dict(family.key_mapping) or None,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the weights cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            where=ref.name,
            remedy="fetch the model again; its config and weights do not belong together",
        ) from None
    _check_report(report, ref)
    model.requires_grad_(False)
    model.name_or_path = ref.name
    model.base_ref = replace(ref, revision=commit or ref.revision)
    return cast(PreTrainedModel, model.to(str(device)).eval())


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process may still take: of the GPU; of the machine, or of its container."""
    if device == "cuda":
        # what a model of an earlier stage left to PyTorch's allocator counts as taken there
        gc.collect()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    free = int(psutil.virtual_memory().available)
    for folder in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no such limit
            names = ("memory.max", "memory.current")
            limit, used = (int((folder / name).read_text()) for name in names)
            free = min(free, limit - used + _page_cache(folder))
    return max(free, 0)


def _control_groups() -> list[Path]:
    """This process's (of a container, a Slurm job, a systemd slice) and those above it; cgroup v2."""
    own = ""
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUP.read_text().splitlines():
            own = line.removeprefix("0::").strip("/") if line.startswith("0::") else own
    inner = _CGROUP / own
    return [inner, *(above for above in inner.parents if above.is_relative_to(_CGROUP))]


def _page_cache(folder: Path) -> int:
    """Bytes of files in the group's memory, which count as used there and are given up when needed."""
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return sum(int(v) for name, v in lines if name in ("inactive_file", "active_file"))
    return 0


def _refuse_fp16(device: str, facts: BaseFacts) -> None:
    family = family_of(facts.model_type, where=facts.ref.name)
    reason = family.fp16_refusal
    if device == "cpu":
        reason = "on a CPU fp16 is accepted by the libraries and then silently not used"
    elif device == "mps":
        reason = "fp16 training on mps has not been proven here"
    if reason is None and torch.cuda.is_bf16_supported(including_emulation=False):
        reason = "this GPU computes in bf16, which has the same speed and does not overflow"
    if reason is not None:
        raise ConfigError(
            reason,
            where="--precision fp16",
            expected="bf16 where the device computes in it, else fp32",
            remedy="use --precision auto",
        )


def _text_config(folder: Path) -> tuple[Family, Any]:
    raw = read_config(folder)
    family = family_of(raw.get("model_type"), where=str(folder))
    check_versions(family)
    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        text: Any = getattr(config, family.text_config) if family.text_config else config
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ModelError(
            f"config.json does not describe a {family.title} model: {str(error).splitlines()[0]}",
            where=str(folder),
        ) from None
    check_kind(family, text, where=str(folder))
    return family, text


def _generation_stops(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    if not path.exists():
        return []
    value = read_object(path).get("eos_token_id")
    stops: list[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
    return [stop for stop in stops if isinstance(stop, int)]


def _check_memory(
    files: list[Path], family: Family, precision: str, device: str, ref: BaseRef
) -> None:
    numbers = 0
    for file in files:
        for name, entry in safetensors_header(file).items():
            if family.key_mapping and not any(re.match(key, name) for key in family.key_mapping):
                continue  # what is no part of the language model is not loaded
            count = 1
            for size in entry["shape"]:
                count *= int(size)
            numbers += count
    need = numbers * BYTES[precision]
    free = free_memory(device)
    if need > free:
        raise EnvironmentFault(
            f"the weights need {_gb(need)} GB in {precision}, {_gb(free)} GB are free on {device}",
            where=ref.name,
            remedy="use --precision bf16 (half of fp32), a smaller model, or another machine",
        )


def _check_report(report: Any, ref: BaseRef) -> None:
    missing = sorted(str(key) for key in report["missing_keys"])
    wrong = sorted(str(key) for key in report["mismatched_keys"])
    if missing or wrong:
        raise ModelError(
            f"{len(missing)} tensors are missing and {len(wrong)} have another shape",
            where=ref.name,
            details=[*missing[:5], *wrong[:5]],
            remedy="config.json and the weights do not belong together; fetch the model again",
        )


def _licence(folder: Path, ref: BaseRef) -> str | None:
    if ref.is_demo:
        return "apache-2.0"
    card = folder / "README.md"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        head = card.read_text(encoding="utf-8")[:4000]
        if head.startswith("---"):
            for line in head.split("---", 2)[1].splitlines():
                if line.startswith("license:"):
                    return line.partition(":")[2].strip() or None
    return None


@contextlib.contextmanager
def _quiet_transformers() -> Generator[None]:
    """No progress bar and no report: `_check_report` says what matters, as an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}"
