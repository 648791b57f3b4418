"""What answers are judged by: dimensions, their anchors and weights, and the words around them.

Reads a YAML file (the safe loader; nothing in it is executed or rendered as a template): the built-in
`default-rubric.yaml` beside this module, or the user's own (`--rubric FILE`), in the same form:

    name: tone
    dimensions:
      politeness: {question: "is it polite?", anchors: {2: rude, 6: neutral, 10: warm}, weight: 2}

`overall`, `instructions`, `with_reference` and `without_reference` are optional. Refuses, all faults at
once: unknown keys, keys given twice, no dimension or more than twelve, names that are reserved or no plain
words, fewer than two anchors or anchors outside 1 to 10, weights that are not positive, texts that are
empty or too long, and files over 64 KiB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from gemma_lora.errors import ConfigError
from gemma_lora.loading import parse_yaml
from gemma_lora.rundir import digest

__all__ = [
    "GAP",
    "MOST_DIMENSIONS",
    "OVERALL",
    "Criterion",
    "Dimension",
    "Rubric",
    "departs",
    "load_rubric",
    "local_overall",
]

OVERALL = "overall"
GAP = 1.5
"""Points between the judge's overall and the mean of its dimensions from which they disagree: half a point
is what rounding to an integer does, and one more is a step on the scale that no rounding explains."""
MOST_DIMENSIONS = 12
_MOST_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TITLE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
# fields of a judgement's line and of a reply, between which a replay could not tell
_RESERVED = frozenset(
    f"{OVERALL} reasoning scores id arm repeat flags unscored_reason certainty".split()
)
_SCALE = range(1, 11)
_FULL_ANCHORS = (2, 4, 6, 8, 10)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    if not line:
        raise ValueError("is empty")
    return line


def _anchors(value: dict[int, str]) -> dict[int, str]:
    outside = sorted(number for number in value if number not in _SCALE)
    if outside:
        raise ValueError(f"anchors go from 1 to 10, found {', '.join(map(str, outside))}")
    if len(value) < 2:
        raise ValueError("at least two anchors are needed")
    return dict(sorted(value.items()))


_Line = Annotated[str, Field(max_length=500), AfterValidator(_one_line)]
_Words = Annotated[str, Field(max_length=4000), AfterValidator(_one_line)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Criterion(_Part):
    """What is asked, and what some of the scores from 1 to 10 mean."""

    question: _Line
    anchors: Annotated[dict[int, _Line], AfterValidator(_anchors)]


class Dimension(Criterion):
    """A criterion that is scored by itself."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0


class Rubric(_Part):
    """Everything of a prompt that is not defence or form. `text` is the file as it was read."""

    name: str
    dimensions: dict[str, Dimension]
    overall: Criterion
    instructions: _Words | None = None
    with_reference: _Words
    without_reference: _Words
    _text: str = PrivateAttr(default="")

    @field_validator("name")
    @classmethod
    def _plain_title(cls, value: str) -> str:
        if not _TITLE.fullmatch(value):
            raise ValueError("must be 1 to 40 letters, digits, `.`, `_` or `-`")
        return value

    @field_validator("dimensions")
    @classmethod
    def _plain_names(cls, value: dict[str, Dimension]) -> dict[str, Dimension]:
        faults: list[str] = []
        if not 1 <= len(value) <= MOST_DIMENSIONS:
            faults.append(f"1 to {MOST_DIMENSIONS} dimensions are needed, found {len(value)}")
        for name in value:
            if name in _RESERVED:
                faults.append(f"the name `{name}` is reserved")
            elif not _NAME.fullmatch(name):
                faults.append(
                    f"the name `{name[:60]}` is not made of up to 40 of a-z, 0-9 and _, a letter first"
                )
        if faults:
            raise ValueError("; ".join(faults))
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The dimensions, in their order."""
        return tuple(self.dimensions)

    @property
    def scores(self) -> tuple[str, ...]:
        """What a reply scores: the dimensions and `overall`."""
        return (*self.dimensions, OVERALL)

    @property
    def weights(self) -> dict[str, float]:
        return {name: dimension.weight for name, dimension in self.dimensions.items()}

    @property
    def every_second(self) -> bool:
        """All anchors are at 2, 4, 6, 8 and 10."""
        criteria = [*self.dimensions.values(), self.overall]
        return all(tuple(criterion.anchors) == _FULL_ANCHORS for criterion in criteria)

    @property
    def text(self) -> str:
        return self._text

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content: the same for files that differ in comments or line breaks only."""
        ordered = list(self.dimensions)  # their order is the order of asking
        return digest(self.model_dump(mode="json"), ordered)

    @cached_property
    def asked(self) -> str:
        """SHA-256 of what a judge is told: the same for rubrics that differ in name or weights only."""
        told = self.model_dump(mode="json", exclude={"name"})
        for dimension in told["dimensions"].values():
            del dimension["weight"]
        return digest(told, list(self.dimensions))

    @property
    def is_default(self) -> bool:
        return self.hash == load_rubric(None).hash


def load_rubric(path: str | None) -> Rubric:
    """The rubric of a file, or the built-in one; ConfigError (exit 2) with every fault of the file."""
    if path is None:
        return _default()
    try:
        raw = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the rubric cannot be read: {error.strerror}",
            where=path,
            remedy="check --rubric; each judged run keeps a copy as judgements/<judge>/rubric.yaml",
        ) from None
    if len(raw) > _MOST_BYTES:
        raise ConfigError(
            f"the rubric has {len(raw):,} bytes", where=path, expected="at most 65,536"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the rubric is not UTF-8: {error}", where=path) from None
    return _parse(text, path)


def local_overall(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Mean of the scored dimensions by `weights` (1 where none is named); None where none is scored."""
    known = {name: value for name, value in scores.items() if value is not None and name != OVERALL}
    if not known:
        return None
    share = {name: weights.get(name, 1.0) for name in known}
    return math.fsum(share[name] * known[name] for name in known) / math.fsum(share.values())


def departs(
    scores: Mapping[str, float | None], overall: float | None, weights: Mapping[str, float]
) -> bool:
    """Whether the judge's own overall is more than `GAP` from the mean of its dimensions."""
    local = local_overall(scores, weights)
    return overall is not None and local is not None and abs(overall - local) > GAP + 1e-9


@cache
def _default() -> Rubric:
    text = (resources.files("gemma_lora") / "default-rubric.yaml").read_text(encoding="utf-8")
    return _parse(text, "default-rubric.yaml", built_in=True)


_OWN_WITHOUT = (
    "There is no reference answer for this question: judge by what you know, and say so in the "
    "reasoning."
)


def _parse(text: str, place: str, *, built_in: bool = False) -> Rubric:
    tree = parse_yaml(text, place)
    if not isinstance(tree, dict):
        raise ConfigError(
            f"the rubric holds {'nothing' if tree is None else f'a {type(tree).__name__}'}",
            where=place,
            expected="`name:` and `dimensions:`",
        )
    values: dict[str, Any] = {str(key): value for key, value in tree.items()}
    if not built_in:
        default = _default()
        values = {
            "overall": default.overall,
            "with_reference": default.with_reference,
            "without_reference": _OWN_WITHOUT,
        } | values
    try:
        rubric = Rubric.model_validate(values)
    except ValidationError as error:
        details = [_describe(entry) for entry in error.errors()]
        raise ConfigError(
            f"the rubric has {len(details)} fault{'s' if len(details) > 1 else ''}",
            where=place,
            details=details,
            expected="the form of examples/rubric_customer_service.yaml (docs/judging.md)",
        ) from None
    rubric._text = text  # pyright: ignore[reportPrivateUsage]
    return rubric


def _describe(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"] if part != "[key]")
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        return f"{place}: there is no such key"
    if entry["type"] == "missing":
        return f"{place}: is missing"
    found = entry.get("input")
    shown = f", found {found!r}" if isinstance(found, str | int | float) else ""
    return f"{place}: {message}{shown[:120]}"
