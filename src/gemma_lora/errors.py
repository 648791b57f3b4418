"""Expected faults, each with the exit code that the command line returns for it.

A `GemmaLoraError` is raised for everything that a user can cause or cure: it carries *where* the
fault is, *what was found*, *what was expected* and *what to do*, and is printed as one short block
without a traceback. Anything else that escapes is a bug and ends with exit code 5.
Reads and writes nothing; imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ConfigError",
    "DataError",
    "EnvironmentFault",
    "GateNotMet",
    "GemmaLoraError",
    "JudgeError",
    "ModelError",
]


class GemmaLoraError(Exception):
    """An expected fault: `where`, `found`, `expected`, `remedy`; several places go in `details`."""

    exit_code = 5
    title = "error"

    def __init__(
        self,
        found: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(found)
        self.found = found
        self.where = where
        self.expected = expected
        self.remedy = remedy
        self.details = tuple(details)

    def __str__(self) -> str:
        """The block that the command line prints: one fact a line, absent ones left out."""
        lines = [
            f"{self.title}: {self.where}: {self.found}"
            if self.where
            else f"{self.title}: {self.found}"
        ]
        lines += [f"  - {detail}" for detail in self.details]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.remedy:
            lines.append(f"  what to do: {self.remedy}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The same facts for `--json`."""
        return {
            "error": self.title,
            "exit_code": self.exit_code,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
            "details": list(self.details),
        }


class ConfigError(GemmaLoraError):
    """Bad usage: an unknown key or flag, a value out of range, two settings that exclude each other."""

    exit_code = 2
    title = "configuration error"


class DataError(GemmaLoraError):
    """The data cannot be read or would spoil training."""

    exit_code = 2
    title = "data error"


class ModelError(GemmaLoraError):
    """The model, tokenizer or adapter cannot be had or does not fit."""

    exit_code = 3
    title = "model error"


class EnvironmentFault(GemmaLoraError):
    """The machine stands in the way: disk full, folder locked or read-only, library missing."""

    exit_code = 3
    title = "environment error"


class JudgeError(GemmaLoraError):
    """The judge cannot be reached, refuses, or leaves too little to decide on."""

    exit_code = 4
    title = "judge error"


class GateNotMet(GemmaLoraError):
    """Everything is done, but the verdict asked for with `--require` was not reached."""

    exit_code = 10
    title = "gate not met"
