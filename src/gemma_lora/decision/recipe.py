"""What stands beside the verdict of several training seeds: its judge, canaries, power, other judges.

Of every run below seeds/ it reads judge.json (through the run's verdict) and judgements/<judge>/, canaries
included, and of the folder above them judgements/*/verdict.json; `renewed_seeds` writes such a verdict.json.
Nothing here decides. The base answers and the canaries are the same in every run, and the judge's replies to
them come from its cache, so what they tell is counted once: three copies of a reply are no more evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from gemma_lora.console import Console
from gemma_lora.decision.pairing import PairedQuestion, pair_up
from gemma_lora.decision.robustness import number
from gemma_lora.decision.worth import Both, both_scored, canaries_of, other_judges
from gemma_lora.judge.canaries import FOLDER, merged, not_measured
from gemma_lora.records import ARMS, Answer, Example, Judgement
from gemma_lora.rundir import RunDir, iter_jsonl, read_jsonl, read_saved, write_json
from gemma_lora.statistics import Crossed
from gemma_lora.statistics.power import ALPHA, POWER
from gemma_lora.verdict import MARGIN

__all__ = [
    "canaries_together",
    "judge_together",
    "others_on_recipe",
    "power_together",
    "renewed_seeds",
]

_OF_ONE_RUN = frozenset(
    (
        *("judged", "scored", "unscored", "unscored_reasons", "flags"),
        *("repeat_spread", "certainty"),
    )
)
"""Of judge.json, what is not told of several runs together: counts of judgements are in `arms`, in which the
base answers stand once for each run; spreads and means are of each run's own judgements."""

_SUMS = ("requests", "requests_lost", "requests_uncounted", "cached", "to_ask_again")


def judge_together(judges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The judge of all runs: who it is from the first, snapshots of all, and what all took together.

    `cost` and `cost_at_most` are null where a run asked something and no prices were known.
    """
    tokens = [cast(dict[str, int], t) for j in judges if isinstance(t := j.get("tokens"), dict)]
    found: dict[str, Any] = {k: v for k, v in judges[0].items() if k not in _OF_ONE_RUN}
    found["snapshot"] = ", ".join(_distinct(judges)) or None
    known = [key for key in _SUMS if any(key in j for j in judges)]
    found |= {key: sum(j.get(key) or 0 for j in judges) for key in known}
    if tokens:
        found["tokens"] = {key: sum(t.get(key, 0) for t in tokens) for key in ("input", "output")}
    found |= {key: _dollars(judges, key) for key in ("cost", "cost_at_most")}
    if any("rungs" in j for j in judges):
        rungs: Counter[str] = Counter()
        for judge in judges:
            rungs.update(judge.get("rungs") or {})
        found["rungs"] = dict(rungs.most_common())
        found["rung"] = next(iter(found["rungs"]), None)
        found["system_fingerprints"] = sorted(
            {name for j in judges for name in j.get("system_fingerprints") or ()}
        )
    return found


def _distinct(judges: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for j in judges if j["snapshot"] for name in str(j["snapshot"]).split(", ")]
    return list(dict.fromkeys(names))


def _dollars(judges: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [float(j[key]) for j in judges if j.get(key) is not None]
    unknown = any(j.get(key) is None and (j.get("requests") or 0) > 0 for j in judges)
    return None if unknown or not known else math.fsum(known)


def canaries_together(runs: Sequence[RunDir], slug: str) -> dict[str, Any]:
    """The canaries of all runs, each attack once: it succeeded where it did in any run."""
    each = [canaries_of(run, slug) for run in runs]
    if not any(found["asked"] for found in each):
        return each[0]
    rows = [
        read_jsonl(run.judgements(slug) / FOLDER / "judgements.jsonl", Judgement)
        for run, found in zip(runs, each, strict=True)
        if found["asked"]
    ]
    return merged(rows) if any(rows) else not_measured("the runs' canaries are no longer there")


def power_together(found: Crossed) -> dict[str, Any]:
    """What these questions and seeds could notice; more questions alone may never reach the margin."""
    estimate, seeds = found.estimate, len(found.seed_means)
    return {
        "basis": "observed, over questions and training seeds",
        "n": estimate.n,
        "clusters": estimate.clusters,
        "seeds": seeds,
        "alpha": ALPHA,
        "power": POWER,
        "deviation": None,
        "minimum_detectable": number(found.minimum_detectable),
        "margin": MARGIN,
        "questions_for_margin": None,
        "note": estimate.note,
    }


def others_on_recipe(
    parent: RunDir,
    slug: str,
    runs: Sequence[tuple[RunDir, Sequence[PairedQuestion]]],
    console: Console,
) -> list[dict[str, Any]]:
    """Verdict, difference and agreement of each other judge of the recipe, by name.

    Agreement is over the answers that both scored: the base's once (the first run's), the tuned ones of
    every run that both have judged; clusters of questions stay together over the runs. A verdict whose
    runs have lost theirs since (they were made anew) is left out, with a notice.
    """

    def scored(other: str) -> Iterator[Both]:
        for place, (run, questions) in enumerate(runs):
            arms = ARMS if place == 0 else ("tuned",)
            rows = iter_jsonl(run.judgements(other) / "judgements.jsonl", Judgement)
            yield from both_scored(questions, rows, arms)

    found: list[dict[str, Any]] = []
    for other in other_judges(parent, slug, scored):
        gone = [
            run.root
            for run, _ in runs[: other.get("seeds")]
            if not (run.judgements(other["slug"]) / "verdict.json").exists()
        ]
        if gone:
            console.note(
                f"{other['name']}: its verdict on the recipe is left out, since that on {gone[0]} is gone; "
                f"gemma-lora judge {parent.root} with this judge makes both anew"
            )
        else:
            found.append(other)
    return found


def renewed_seeds(parent: RunDir, console: Console, slug: str) -> dict[str, Any]:
    """The recipe's saved verdict by judge `slug` with what the others say by now; nothing else changes."""
    file = parent.judgements(slug) / "verdict.json"
    verdict = read_saved(file)
    runs: list[tuple[RunDir, Sequence[PairedQuestion]]] = []
    for part in cast(list[dict[str, Any]], verdict["seeds"]["runs"]):
        run = parent.child(int(part["seed"]))
        questions, _ = pair_up(
            read_jsonl(run.test_rows, Example),
            {arm: read_jsonl(run.answers(arm), Answer) for arm in ARMS},
            iter_jsonl(run.judgements(slug) / "judgements.jsonl", Judgement),
            (),
        )
        runs.append((run, questions))
    verdict["other_judges"] = others_on_recipe(parent, slug, runs, console)
    write_json(file, verdict)
    return verdict
