"""What one contestant is to do, as the parent writes it and the child reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RANK, ALPHA, DROPOUT = 16, 32, 0.05
LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Job:
    """One run of one contestant in a process of its own. Folders are paths as text."""

    contestant: str
    """A name of `contestant.RUNNERS`."""
    shape: str
    model: str
    rows: str
    work: str
    """A folder that may be emptied."""
    steps: int
    warmup: int
    """The first steps, which do not count for the speed."""
    batch: int
    accumulation: int
    """batch x accumulation sequences make an optimiser step."""
    dropout: float = DROPOUT
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    longest: int = 1024
    seconds: float = 0.5
    """Of a block of multiplications."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the contestant's own, such as TRL's switches."""

    @property
    def sequences(self) -> int:
        return self.batch * self.accumulation

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Job:
        return Job(**json.loads(path.read_text()))
