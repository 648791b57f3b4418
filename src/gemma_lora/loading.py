"""From a YAML file and command-line flags to a validated `Config`, and back to YAML.

Reads one YAML file (safe loader, sections as in `config.py`). Flags are `(leaf name, raw text)`
pairs and win over the file. The merged tree is validated once, so that every fault of both sources
is reported together, each at its place. Writes nothing: `dump` returns the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gemma_lora.config import Config
from gemma_lora.errors import ConfigError

__all__ = ["Leaf", "dump", "leaves", "load_config", "parse_yaml"]


@dataclass(frozen=True)
class Leaf:
    """One knob: its section ("" at the top), name, declaration."""

    section: str
    name: str
    field: FieldInfo

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def place(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


def leaves() -> list[Leaf]:
    """All knobs in declaration order."""
    found: list[Leaf] = []
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += [Leaf(name, leaf, info) for leaf, info in kind.model_fields.items()]
        else:
            found.append(Leaf("", name, field))
    return found


def load_config(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Merge `file` and `flags` (leaf name to value) and validate; ConfigError lists all faults."""
    tree: dict[str, Any] = _read_yaml(file) if file is not None else {}
    by_name = {leaf.name: leaf for leaf in leaves()}
    from_flag: set[str] = set()
    for name, value in (flags or {}).items():
        leaf = by_name[name]
        from_flag.add(leaf.place)
        if not leaf.section:
            tree[name] = value
            continue
        section = tree.setdefault(leaf.section, {})
        if isinstance(section, dict):
            section[name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        details = [_describe(entry, from_flag, file) for entry in error.errors()]
        raise ConfigError(
            f"{len(details)} setting{'s are' if len(details) > 1 else ' is'} wrong",
            where=str(file) if file else None,
            details=details,
            remedy="gemma-lora run --help lists every setting with its meaning",
        ) from None


def dump(config: Config) -> str:
    """The complete resolved configuration as YAML; `load_config` of it gives an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, where: str) -> Any:
    """YAML as its tree, every scalar as text; ConfigError where it is malformed or gives a key twice."""
    try:
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"is not valid YAML: {error}", where=where) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file", where=str(file), remedy="check --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from None
    tree = parse_yaml(text, str(file))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"holds a {type(tree).__name__}",
            where=str(file),
            expected="sections such as `train: {epochs: 3}`",
        )
    # an empty section (`train:` and nothing below it) is the same as none
    return {
        str(k): v
        for k, v in cast(dict[Any, Any], tree).items()
        if v is not None or str(k) not in Config.model_fields
    }


class _TextLoader(yaml.SafeLoader):
    """Scalars stay text (only null is resolved), as flags are, and pydantic gives both their type.

    YAML 1.1 would make `epochs: yes` true, hence 1, and `test_rows: 010` eight. PyYAML also keeps
    the last of two equal keys; a config must not drop a setting silently.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(twice)} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def _similar(place: str) -> str | None:
    """The setting that was probably meant: the same name in its own section, or a like spelling."""
    import difflib

    leaf = place.rpartition(".")[2]
    own = [known.place for known in leaves() if known.name == leaf]
    places = [*(known.place for known in leaves()), *Config.model_fields]
    return next(iter(own or difflib.get_close_matches(place, places, n=1, cutoff=0.5)), None)


def _describe(entry: Any, from_flag: set[str], file: Path | None) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    known = {leaf.place: leaf for leaf in leaves()}
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        close = _similar(place)
        return f"{place}: there is no such setting" + (f"; did you mean {close}?" if close else "")
    if entry["type"] in ("model_type", "model_attributes_type"):
        return f"{place}: must be a section of settings, such as `{place}: {{name: value}}`"
    name = next((p for p in known if place == p or place.startswith(p + ".")), place)
    shown = known[name].flag if name in from_flag and name in known else name
    if not place or isinstance(
        entry.get("input"), dict
    ):  # of a whole section: names its settings itself
        return message
    if entry["type"] == "secret":
        return f"{shown}: {message}"
    return f"{shown}: {message}, found {entry.get('input')!r}"
