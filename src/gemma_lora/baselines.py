"""What the tuned model is compared with besides the base: the names of `--baseline`, taken apart.

    few-shot        the base with training rows as examples in the prompt (few-shot:N for N of them)
    prompt:FILE     the base with the text of FILE as its system instruction
    MODEL           another model: starter, a local folder, or a hub id with @revision

Each is an arm with a slug that names its files, made from the name alone: the same in every run, and
no path leads out of a folder by it. `parse` asks nobody and opens no file; `read_prompt` reads one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemma_lora.errors import ConfigError

__all__ = ["FEW_SHOT", "FORMS", "Baseline", "parse", "read_prompt"]

FEW_SHOT = 4
"""Examples in the prompt where no number is given."""

_MOST_EXAMPLES = 64
FORMS = (
    "few-shot, few-shot:N (examples, 1 to 64), prompt:FILE (a text file), or a model: `starter`, "
    "a folder, owner/name[@revision]"
)
_HUB_LIKE = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True)
class Baseline:
    """One further arm. `source`: the prompt's file, or the model's name; empty for few-shot."""

    name: str
    """As the user wrote it."""
    kind: Literal["few-shot", "prompt", "model"]
    slug: str
    source: str = ""
    examples: int = 0

    @property
    def shown(self) -> str:
        """The name for reports: of a path the last part only, since it may hold a person's name."""
        if self.kind == "prompt":
            return f"prompt:{Path(self.source).name}"
        if self.kind == "model" and not _HUB_LIKE.fullmatch(self.source):
            return Path(self.source).name or self.source
        return self.name


def parse(names: Sequence[str]) -> tuple[Baseline, ...]:
    """The arms that `names` stand for; ConfigError with every fault of them."""
    found: list[Baseline] = []
    faults: list[str] = []
    for name in names:
        try:
            found.append(_one(name.strip()))
        except ValueError as fault:
            faults.append(f"{name}: {fault}")
    taken: dict[str, Baseline] = {}
    for baseline in found:
        # file names may be compared without regard to case
        other = taken.setdefault(baseline.slug.casefold(), baseline)
        if other is not baseline:
            faults.append(
                f"{baseline.name}: is given twice"
                if other.name == baseline.name
                else f"{baseline.name}: has the same short name as {other.name} ({baseline.slug}), "
                "and their answers would get one file; rename one of the two"
            )
    if faults:
        raise ConfigError(
            "a baseline cannot be used"
            if len(faults) == 1
            else f"{len(faults)} baselines cannot be used",
            where="--baseline",
            details=faults,
            expected=FORMS,
        )
    return tuple(found)


def read_prompt(baseline: Baseline) -> str:
    """The text of a `prompt:FILE`, without outer white space; ConfigError where there is none."""
    where = f"--baseline {baseline.name}"
    path = Path(baseline.source).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=where, remedy="check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(
            "the file is not text in UTF-8", where=where, remedy="save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=where) from None
    if not text:
        raise ConfigError(
            "the file is empty, so this would be the base itself",
            where=where,
            remedy="write the instruction for the model into it",
        )
    return text


def _one(name: str) -> Baseline:
    kind, colon, rest = name.partition(":")
    rest = rest.strip()
    if kind == "few-shot":
        if not colon:
            return Baseline(name, "few-shot", "few-shot", examples=FEW_SHOT)
        number = int(rest) if rest.isascii() and rest.isdigit() else 0
        if not 1 <= number <= _MOST_EXAMPLES:
            raise ValueError(f"the number of examples goes from 1 to {_MOST_EXAMPLES}")
        slug = "few-shot" if number == FEW_SHOT else f"few-shot-{number}"
        return Baseline(name, "few-shot", slug, examples=number)
    if kind == "prompt" and colon:
        if not rest:
            raise ValueError("no file is named after prompt:")
        return Baseline(name, "prompt", f"prompt-{_plain(Path(rest).stem)}", rest)
    if not name:
        raise ValueError("is empty")
    last = name if _HUB_LIKE.fullmatch(name) else Path(name).name or name
    return Baseline(name, "model", f"model-{_plain(last)}", name)


def _plain(text: str) -> str:
    """Part of a file name: letters, digits, dot, dash; what had to be changed gets a short hash."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:60]
    if plain == text.replace("/", "-").replace("@", "-").replace("_", "-"):
        return plain
    short = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{plain}-{short}" if plain else short
