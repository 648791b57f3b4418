"""Run folders as `Entry` objects: settings, verdict, cost, and the tuned model's score of each question.

Reads config.yaml, verdict.json, training.json, provenance.json, adapter/ and the judgements; writes
nothing. Refuses with one ConfigError that names every fault: what is no run folder, is unfinished,
damaged, named twice or a part of another named folder, and fewer than two runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gemma_lora.config import Config
from gemma_lora.continuing import deciding
from gemma_lora.decision.pairing import judged, pair_up
from gemma_lora.errors import ConfigError, GemmaLoraError
from gemma_lora.loading import leaves, load_config
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.rundir import SEEDS, RunDir, iter_jsonl, read_json, read_jsonl, read_saved
from gemma_lora.statistics import Scores

__all__ = ["Entry", "read_all"]

_WORDS = ("better", "worse", "equivalent", "inconclusive")


@dataclass(frozen=True)
class Entry:
    """One run, or several of one recipe (`run --seeds`)."""

    label: str
    """A letter, in the order in which the folders were named."""
    run: RunDir
    config: Config
    verdict: dict[str, Any]
    data_sha256: str | None
    scores: Scores
    """The tuned model's overall, shape (questions, training seeds)."""
    clusters: dict[str, str]
    """Question id to cluster, in the order of the scores."""
    trainings: tuple[dict[str, Any], ...]
    adapter_bytes: int | None

    @property
    def name(self) -> str:
        return self.run.root.resolve().name

    @property
    def seeds(self) -> int:
        return self.scores.values.shape[1]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result, by place in the config; the data file by its name."""
        sections = dict.fromkeys(leaf.section for leaf in leaves() if leaf.section)
        found = {
            f"{section}.{name}": value
            for section in sections
            for name, value in deciding(self.config, section).items()
        }
        for place in ("data.path", "data.test"):
            if isinstance(found[place], str):
                found[place] = Path(found[place]).name
        return {**found, "seed": self.config.seed, "seeds": self.config.seeds}

    def total(self, key: str) -> float | None:
        """The sum over the seeds' trainings of a figure of training.json; None where one lacks it."""
        values = [_number(training.get(key)) for training in self.trainings]
        return None if not values or None in values else math.fsum(cast(list[float], values))

    @property
    def tokens_trained(self) -> int | None:
        """Tokens that went through the model in training, all epochs and seeds."""
        counts: list[float] = []
        for training in self.trainings:
            decisions: Any = training.get("decisions")
            facts = cast(dict[str, Any], decisions) if isinstance(decisions, dict) else {}
            per_epoch, steps = _number(training.get("tokens")), _number(training.get("steps_done"))
            epoch = _number(facts.get("steps_per_epoch"))
            if per_epoch is None or steps is None or not epoch:
                return None
            counts.append(per_epoch * steps / epoch)
        return round(math.fsum(counts)) if counts else None

    @property
    def peak_mib(self) -> float | None:
        """The highest memory of a training: the GPU's where there was one, else the process's."""
        found = [
            value
            for training in self.trainings
            if (value := _number(training.get("peak_gpu_mib") or training.get("peak_rss_mib")))
        ]
        return max(found) if found else None


def _number(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


def read_all(folders: Sequence[Path]) -> list[Entry]:
    """Every folder read, or one ConfigError with all that is wrong."""
    faults: list[str] = []
    if len(folders) < 2:
        faults.append(f"{len(folders)} run is named; comparing takes two or more")
    seen: dict[Path, Path] = {}
    entries: list[Entry] = []
    for folder in folders:
        real = folder.resolve()
        if real in seen:
            faults.append(f"{folder}: is the same run as {seen[real]}")
            continue
        whole = next((other for other in seen.values() if _is_part(real, other)), None)
        whole = whole or next((other for at, other in seen.items() if _is_part(at, folder)), None)
        if whole is not None:
            faults.append(f"{folder}: is a part of {whole}, or the other way round")
        seen[real] = folder
        try:
            entries.append(_read(folder, _label(len(seen) - 1)))
        except GemmaLoraError as error:
            place = f" ({error.where})" if error.where and error.where != str(folder) else ""
            faults.append(f"{folder}: {error.found}{place}")
    if faults:
        raise ConfigError(
            f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, so nothing is compared",
            where="compare",
            details=faults,
            expected="two or more different folders that `gemma-lora run` has finished",
            remedy="name such folders; `gemma-lora run` with the same settings finishes an unfinished run "
            "or mends a damaged one",
        )
    return entries


def _is_part(real: Path, other: Path) -> bool:
    return real.is_relative_to(other.resolve() / SEEDS)


def _label(place: int) -> str:
    letter = chr(ord("A") + place % 26)
    return letter if place < 26 else f"{letter}{place // 26}"


def _read(folder: Path, label: str) -> Entry:
    run = RunDir(folder)
    if not folder.is_dir():
        raise ConfigError("is a file, not a run folder" if folder.exists() else "does not exist")
    if not run.config.is_file():
        raise ConfigError("is not a run folder (it has no config.yaml)")
    config = load_config(run.config)
    if not run.verdict.is_file():
        raise ConfigError("is unfinished: it has no verdict.json")
    verdict = _verdict(run)
    parts = [run]
    if verdict.get("seeds"):
        parts = [run.child(int(part["seed"])) for part in verdict["seeds"]["runs"]]
    slug = str(verdict["judge"]["slug"])
    scored = [_scores(part, slug) for part in parts]
    if any(clusters != scored[0][1] for _, clusters in scored):
        raise ConfigError("its runs were asked different questions")
    origin = read_saved(run.provenance) if run.provenance.exists() else {}
    data: Any = origin.get("data")
    sha = cast(dict[str, Any], data).get("sha256") if isinstance(data, dict) else None
    weights = parts[0].adapter / "adapter_model.safetensors"
    return Entry(
        label=label,
        run=run,
        config=config,
        verdict=verdict,
        data_sha256=str(sha) if sha else None,
        scores=Scores(
            np.stack([scores.values for scores, _ in scored], 1),
            np.stack([scores.failed for scores, _ in scored], 1),
        ),
        clusters=scored[0][1],
        trainings=tuple(read_saved(p.training) if p.training.exists() else {} for p in parts),
        adapter_bytes=weights.stat().st_size if weights.exists() else None,
    )


def _verdict(run: RunDir) -> dict[str, Any]:
    """verdict.json, with what is used of it checked: it may have been cut, edited or be of another version."""
    try:
        found: Any = read_json(run.verdict)
        version = found["schema_version"]
        primary, judge, counts = found["primary"], found["judge"], found["win_tie_loss"]
        fine = (
            version == 1
            and found["verdict"] in _WORDS
            and all(_number(primary[k]) is not None for k in ("base_mean", "tuned_mean"))
            and _number(primary["difference"]) is not None
            and all(_interval(primary[key]) for key in ("ci95", "base_ci95", "tuned_ci95"))
            and isinstance(primary["n"], int)
            and all(isinstance(judge[key], str) for key in ("name", "kind", "slug"))
            and all(isinstance(counts[key], int) for key in ("win", "tie", "loss"))
            and (not found.get("seeds") or all("seed" in r for r in found["seeds"]["runs"]))
        )
    except GemmaLoraError as error:
        raise ConfigError(f"verdict.json is damaged: {error.found}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"verdict.json is damaged: it lacks {error}") from None
    if not fine:
        raise ConfigError("verdict.json is damaged, or of another version of gemma-lora")
    return cast(dict[str, Any], found)


def _interval(value: Any) -> bool:
    if value is None:
        return True
    ends = cast(list[Any], value) if isinstance(value, list) else []
    return len(ends) == 2 and all(_number(end) is not None for end in ends)


def _scores(run: RunDir, slug: str) -> tuple[Scores, dict[str, str]]:
    """The tuned model's overall and the cluster of each question."""
    test = read_jsonl(run.test_rows, Example)
    file = run.judgements(slug) / "judgements.jsonl"
    if not test or not file.exists():
        raise ConfigError(f"is damaged: {(run.test_rows if not test else file).name} is missing")
    answers: Mapping[str, list[Answer]] = {
        arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS
    }
    questions, _ = pair_up(test, answers, iter_jsonl(file, Judgement))
    return judged(questions, "tuned"), {q.id: q.cluster for q in questions}
