"""A made folder of several training seeds' runs: what `run --seeds` leaves behind, without training.

`make_seeds(folder)` writes made runs (support.made_run) that share questions and base judgements; the
tuned scores of each are those of the first, moved by an effect of its seed and by noise of its own.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.decision import decide, decide_seeds
from gemma_lora.loading import dump
from gemma_lora.records import Judgement
from gemma_lora.report import write_report, write_seeds_report
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json, write_jsonl, write_text
from support.made_run import SLUG, make_config, make_run

QUIET = Console(quiet=True, stream=io.StringIO())


def make_seeds(
    folder: Path,
    *,
    effects: Sequence[float] = (0.3, -0.4, 0.1),
    noise: float = 0.8,
    gain: float = 2.0,
    questions: int = 80,
    unscored: bool = False,
    repeats: int = 1,
    reports: bool = True,
) -> tuple[RunDir, Config]:
    """The runs with their own verdicts and reports; `conclude` makes those of the recipe."""
    config = make_config().model_copy(update={"seeds": len(effects)})
    parent = RunDir(folder)
    for number, (seed, effect) in enumerate(zip(config.training_seeds, effects, strict=True)):
        train = config.train.model_copy(update={"train_seed": seed})
        own = config.model_copy(update={"train": train, "seeds": 1})
        run, _ = make_run(
            folder / "seeds" / str(seed),
            config=own,
            questions=questions,
            gain=gain,
            unscored=unscored and number == 0,
        )
        _move(run, effect, noise, random.Random(1000 + seed), repeats)
        verdict = decide(own, run, QUIET, judge_slug=SLUG)
        if reports:
            write_report(run, verdict)
    write_text(parent.config, dump(config))
    write_json(parent.provenance, read_json(parent.child(config.training_seed).provenance))
    write_json(parent.stamp_path("seeds"), {"asked": [config.seeds]})
    return parent, config


def conclude(parent: RunDir, config: Config) -> dict[str, Any]:
    verdict = decide_seeds(config, parent, QUIET, judge_slug=SLUG)
    return {**verdict, **write_seeds_report(parent, verdict)}


def _move(run: RunDir, effect: float, noise: float, rng: random.Random, repeats: int) -> None:
    path = run.judgements(SLUG) / "judgements.jsonl"
    rows: list[Judgement] = []
    for row in read_jsonl(path, Judgement):
        drift = effect + rng.gauss(0, noise) if row.arm == "tuned" else 0.0

        def moved(value: float | None, by: float) -> float | None:
            return None if value is None else min(10.0, max(1.0, value + by))

        for repeat in range(repeats):
            by = drift + (rng.gauss(0, 0.5) if repeats > 1 and row.arm == "tuned" else 0.0)
            scores = {name: moved(value, by) for name, value in row.scores.items()}
            change = {"scores": scores, "overall": moved(row.overall, by), "repeat": repeat}
            rows.append(row.model_copy(update=change))
    write_jsonl(path, rows)
