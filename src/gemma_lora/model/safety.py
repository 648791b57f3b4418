"""Refusing a model folder that names code, hides unsafe files or is no base model, before loading.

Reads the JSON files of a folder and the first bytes of its weight files; opens nothing else, runs
nothing. What it guards against was exploited elsewhere: remote code through `auto_map`, kernels
through `_attn_implementation_internal`, shard indexes that point out of the folder, pickles.
"""

from __future__ import annotations

import json
import stat
import struct
from pathlib import Path, PurePosixPath
from typing import Any, cast

from gemma_lora.errors import ModelError

__all__ = [
    "check_base_folder",
    "read_config",
    "read_object",
    "safetensors_header",
    "weight_files",
    "weight_names",
]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
MAX_JSON = 64 * 2**20
MAX_HEADER = 100 * 2**20
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")

_CODE_KEYS = frozenset(
    {"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code", "library_name_or_path"}
)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file of sane size; ModelError otherwise."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON:
            raise ModelError("is not a regular JSON file of sane size", where=str(path))
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("there is no such file", where=str(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read as JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=str(path))
    return cast(dict[str, Any], value)


def read_config(folder: Path, *, quantised: bool = False) -> dict[str, Any]:
    """`config.json`, checked for keys that would make a loader run foreign code.

    `quantised`: whether weights may be quantised, as those of a model that is not trained may.
    """
    if not (folder / "config.json").exists():
        listing = sorted(entry.name for entry in folder.iterdir())[:8]
        raise ModelError(
            "there is no config.json, so this is not a model folder",
            where=str(folder),
            expected="config.json, tokenizer.json and model.safetensors, as save_pretrained writes them",
            details=[f"it holds: {', '.join(listing) or 'nothing'}"],
        )
    config = read_object(folder / "config.json")
    _refuse_code(config, folder / "config.json")
    if config.get("quantization_config") is not None and not quantised:
        raise ModelError(
            "the weights are quantised, and training on quantised weights is not supported yet",
            where=str(folder / "config.json"),
            remedy="use the original weights of the model",
        )
    return config


def check_base_folder(folder: Path) -> None:
    """Everything but the weights: adapters, code in the other JSON files, a missing tokenizer."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            "the folder holds an adapter, not a base model",
            where=str(folder),
            remedy="name the base model with --model",
        )
    for name in ("tokenizer_config.json", "generation_config.json", "processor_config.json"):
        if (folder / name).exists():
            _refuse_code(read_object(folder / name), folder / name)
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer.model").exists():
        raise ModelError(
            "there is no tokenizer.json",
            where=str(folder),
            remedy="copy the tokenizer files of the model into the folder",
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a base model, sorted; refuses pickles and indexes that point elsewhere."""
    if (folder / INDEX).exists():
        files = _indexed(folder)
    elif (folder / SINGLE).exists():
        files = [folder / SINGLE]
    else:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        raise ModelError(
            f"the weights are there only as {', '.join(pickled)}, which can hold programs"
            if pickled
            else "there are no weights (model.safetensors)",
            where=str(folder),
            expected="weights as safetensors",
            remedy="take a revision of the model with safetensors, or convert it on a machine "
            "that may run such files",
        )
    for file in files:
        safetensors_header(file)
    return files


def weight_names(folder: Path) -> list[str]:
    """Names of the weight files that `folder` should hold, by its index if it has one."""
    if (folder / INDEX).exists():
        return [file.name for file in _indexed(folder)]
    return [SINGLE]


def safetensors_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file (tensor name to dtype, shape, offsets), without its data.

    Refuses files that are not regular, whose header is too large or does not fit the file's size.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("is not a regular file", where=str(file))
        with file.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") or head[:4] == b"7z\xbc\xaf":
                raise ModelError(
                    "is a pickle or an archive under the name of safetensors", where=str(file)
                )
            if not 2 <= length <= min(MAX_HEADER, status.st_size - 8):
                raise ModelError(
                    "is damaged or not a safetensors file", where=str(file), remedy=_anew(file)
                )
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise ModelError("there is no such file", where=str(file)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"is not a readable safetensors file: {error}", where=str(file), remedy=_anew(file)
        ) from None
    if not isinstance(header, dict):
        raise ModelError("is not a safetensors file", where=str(file), remedy=_anew(file))
    entries = cast(dict[str, Any], header)
    entries.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in entries.values() if isinstance(entry, dict)]
    if ends and max(ends) + 8 + length != status.st_size:
        raise ModelError(
            f"is cut off or has extra bytes: {status.st_size:,} bytes, "
            f"its header says {max(ends) + 8 + length:,}",
            where=str(file),
            remedy=_anew(file),
        )
    return entries


def _anew(file: Path) -> str:
    """How to come by a whole file in place of a damaged one."""
    if file.name == ADAPTER:
        return (
            "the adapter is damaged; run the same `gemma-lora run` command again to make it anew, "
            "or fetch it again if it came from elsewhere"
        )
    return "fetch the file again"


def _indexed(folder: Path) -> list[Path]:
    index = read_object(folder / INDEX)
    names: Any = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError("has no weight_map", where=str(folder / INDEX))
    values = {str(value) for value in cast(dict[str, Any], names).values()}
    wrong = sorted(
        value
        for value in values
        if PurePosixPath(value).name != value or "\\" in value or not value.endswith(".safetensors")
    )
    if wrong:
        raise ModelError(
            "the index names files outside the folder or not in safetensors form",
            where=str(folder / INDEX),
            details=wrong[:10],
            remedy="do not use this model: a well-formed index names only files beside it",
        )
    return [folder / value for value in sorted(values)]


def _refuse_code(value: object, where: Path, path: str = "") -> None:
    if isinstance(value, list):
        for number, part in enumerate(cast(list[object], value)):
            _refuse_code(part, where, f"{path}[{number}]")
    if not isinstance(value, dict):
        return
    for key, part in cast(dict[str, object], value).items():
        place = f"{path}.{key}" if path else key
        names_kernel = "implementation" in key and (
            key.endswith("_internal") or (isinstance(part, str) and "/" in part)
        )
        if (key in _CODE_KEYS and part) or names_kernel:
            raise ModelError(
                f"the key {place} makes loaders run code that comes with the model",
                where=str(where),
                remedy="do not use this model, or remove the key if you know its origin; "
                "code of models is never run here",
            )
        _refuse_code(part, where, place)
