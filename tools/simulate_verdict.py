"""Does the verdict keep its promises? Draws many data sets whose truth is known, and counts.

Each data set goes through the functions that the verdict goes through (`gemma_lora.verdict`,
`gemma_lora.statistics`). `python tools/simulate_verdict.py` writes docs/statistics.json and makes
docs/statistics.md and docs/statistics-*.svg from it; `--quick` only prints, with fewer draws;
`--page` makes the page anew from the saved figures. Settings in words: `DISTRIBUTIONS`, `DESIGNS`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gemma_lora.statistics import (
    Estimate,
    Scores,
    bootstrap_mean,
    clustered_mean,
    crossed_mean,
    length_adjusted,
    power_of_t,
    sign_flip,
    sign_test,
    signed_rank,
)
from gemma_lora.verdict import MARGIN, decide, missing_judgements

DOCS = Path(__file__).resolve().parent.parent / "docs"

Numbers = NDArray[np.float64]
Rng = np.random.Generator

QUESTIONS = (20, 60, 200)
LIKE = 0.7
"""Correlation of what near-duplicate questions have in common, on the scale before rounding."""

INNER = 199
"""Draws of a bootstrap or sign-flip test inside the simulation."""

DISTRIBUTIONS = {
    "ordinal": "whole scores 1 to 10, both arms spread over the scale, about one tie in five",
    "ties": "whole scores, two pairs of three tied, the others one or two points apart",
    "ceiling": "whole scores, most answers at 9 or 10 in both arms",
    "disasters": "scores rise by half a point on most questions, and one in fifty falls by five",
    "ruined": "the same, but the rise of most questions just makes up for what one in fifty loses",
}
RARE = ("disasters", "ruined")
"""What a small sample may hold none of."""
FALL = float(special.ndtr(-2.0537))
"""One in fifty."""
DESIGNS = {
    "alone": "every question is a cluster of its own",
    "threes": "clusters of three",
    "unequal": "clusters of 1, 2, 3, 4, 5, 1, 2, ... questions",
    "lopsided": "one cluster holds a fifth of all questions, the others are alone",
}


def sizes(design: str, n: int) -> list[int]:
    """Cluster sizes that sum to n."""
    found: list[int] = []
    pattern = {"alone": [1], "threes": [3], "unequal": [1, 2, 3, 4, 5]}
    if design == "lopsided":
        return [n // 5, *[1] * (n - n // 5)]
    while (left := n - sum(found)) > 0:
        steps = pattern[design]
        found.append(min(left, steps[len(found) % len(steps)]))
    return found


@dataclass(frozen=True)
class Sample:
    """Scores of both arms, shape (draws, n), and the cluster of each question."""

    base: Numbers
    tuned: Numbers
    clusters: list[int]


def draw(distribution: str, design: str, n: int, draws: int, effect: float, rng: Rng) -> Sample:
    """`draws` data sets of n questions; `effect` moves the tuned arm before rounding."""
    sized = sizes(design, n)
    index = np.repeat(np.arange(len(sized)), sized)

    def latent() -> Numbers:
        shared = rng.normal(size=(draws, len(sized)))[:, index]
        return np.sqrt(LIKE) * shared + np.sqrt(1 - LIKE) * rng.normal(size=(draws, n))

    question, one, other = latent(), latent(), latent()
    if distribution == "ordinal":
        base, tuned = 5.5 + 1.6 * question + one, 5.5 + effect + 1.6 * question + other
    elif distribution == "ties":
        base = np.round(5.5 + 1.6 * question)
        step = np.where(np.abs(other) > 1, 2.0, 1.0)
        tuned = base + step * ((one > 1 - effect).astype(float) - (one < -1))
    elif distribution == "ceiling":
        base, tuned = 9.4 + 0.6 * question + one, 9.4 + effect + 0.6 * question + other
    else:
        rise = 0.5 if distribution == "disasters" else 5 * FALL / (1 - FALL)
        moved = np.where(one < -2.0537, -5.0, rise) + np.clip(0.3 * other, -1, 1)
        base = 8 + 0.5 * np.clip(question, -1, 1)  # so that a fall by five stays on the scale
        return Sample(base, base + moved, index.tolist())
    return Sample(_scores(base), _scores(tuned), index.tolist())


def _scores(values: Numbers) -> Numbers:
    return np.clip(np.round(values), 1, 10)


@cache
def truth(distribution: str, effect: float) -> float:
    """The true mean difference: 0 by design without an effect, else the mean of a million draws."""
    if effect == 0 and distribution != "disasters":
        return 0.0
    sample = draw(distribution, "alone", 200, 20_000, effect, np.random.default_rng(99))
    return float((sample.tuned - sample.base).mean())


Setting = dict[str, Any]
Row = dict[str, Any]


def interval_settings() -> list[Setting]:
    """Every distribution, with and without an effect, by design, size and share that is lost."""
    return [
        {"distribution": name, "effect": effect, "design": design, "n": n, "lost": lost}
        for name in DISTRIBUTIONS
        for effect in ((0.0, 0.6) if name not in RARE else (0.0,))
        for design in DESIGNS
        for n in QUESTIONS
        for lost in ((0.0, 0.15) if effect == 0 else (0.0,))
    ]


def intervals(setting: Setting, draws: int, rng: Rng) -> Row:
    """Coverage of the primary interval and, where the truth is 0, how often it leaves 0 out.

    Each arm loses `lost` of its judgements at random, and the pairs that are left are compared, by
    the function that `paired_difference` takes its interval from.
    """
    true = truth(setting["distribution"], setting["effect"])
    sample = draw(setting["distribution"], setting["design"], setting["n"], draws, setting["effect"], rng)  # fmt: skip
    differences, clusters = sample.tuned - sample.base, np.array(sample.clusters)
    keep = (rng.random((2, *differences.shape)) >= setting["lost"]).all(axis=0)
    held = claimed = better = without = plain = 0
    for values, kept in zip(differences, keep, strict=True):
        found = clustered_mean(values[kept], clusters[kept].tolist(), low=-9, high=9)
        if found.ci95 is None:
            without += 1
            continue
        held += found.ci95[0] <= true <= found.ci95[1]
        better += found.ci95[0] > 0
        claimed += not found.ci95[0] <= 0 <= found.ci95[1]
        low, high = _cr1(values[kept], clusters[kept]) if found.standard_error else found.ci95
        plain += low <= true <= high
    counted = draws - without
    return {
        "truth": true,
        "without_interval": without,
        "coverage": held / counted,
        "cr1": plain / counted,
        "false": claimed / counted if true == 0 else None,
        "false_better": better / counted if true == 0 else None,
    }


def _cr1(values: Numbers, clusters: NDArray[np.int_]) -> tuple[float, float]:
    """The interval that was given up: CR1, t with clusters - 1 degrees of freedom."""
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=values - values.mean())
    count = len(sums)
    error = np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values)
    reach = float(special.stdtrit(count - 1, 0.975) * error)
    return float(values.mean()) - reach, float(values.mean()) + reach


def check_settings() -> list[Setting]:
    return [
        {"distribution": name, "design": design, "n": n}
        for name in ("ordinal", "ties")
        for design in ("alone", "unequal")
        for n in QUESTIONS
    ]


def checks(setting: Setting, draws: int, rng: Rng) -> Row:
    """How often each of the others claims a difference where there is none; nothing is missing."""
    sample = draw(setting["distribution"], setting["design"], setting["n"], draws, 0.0, rng)
    hits = dict.fromkeys(("bootstrap", "sign_flip", "wilcoxon", "sign_test", "length"), 0)
    for base, tuned in zip(sample.base, sample.tuned, strict=True):
        for name, hit in _claims(tuned - base, sample.clusters, rng).items():
            hits[name] += hit
    return {name: count / draws for name, count in hits.items()}


def _claims(differences: Numbers, clusters: list[int], rng: Rng) -> dict[str, bool]:
    """Which of them claim a difference; lengths are drawn without any bearing on the scores."""
    seed = int(rng.integers(2**31))
    short, long = rng.integers(50, 500, (2, len(differences))).tolist()
    ci95 = bootstrap_mean(differences, clusters, seed=seed, resamples=INNER).ci95
    length = length_adjusted(differences, short, long, clusters, seed=seed, resamples=INNER).ci95
    tests = (
        sign_flip(differences, clusters, seed=seed, resamples=INNER).p_value,
        signed_rank(differences, clusters).p_value,
        sign_test(differences, clusters).p_value,
    )
    flip, rank, sign = (p is not None and p < 0.05 for p in tests)
    return {
        "bootstrap": ci95 is not None and not ci95[0] <= 0 <= ci95[1],
        "sign_flip": flip,
        "wilcoxon": rank,
        "sign_test": sign,
        "length": length is not None and not length[0] <= 0 <= length[1],
    }


def missing_settings() -> list[Setting]:
    return [{"n": n, "share": share} for n in QUESTIONS for share in (0.0, 0.03, 0.1, 0.2, 0.3)]


def missing(setting: Setting, draws: int, rng: Rng) -> Row:
    """The tuned model's worst answers make the judge fail; in truth both models are equally good.

    `naive`: how often `better` would be called on the pairs that are left; `guarded`: by the rule with
    its bounds. `held`: how often the interval at the bounds holds the truth.
    """
    n, share = setting["n"], setting["share"]
    sample = draw("ordinal", "alone", n, draws, 0.0, rng)
    worst = np.argsort(sample.tuned + rng.random(sample.tuned.shape), axis=1)
    naive = guarded = held = called = 0
    for base, tuned, order in zip(sample.base, sample.tuned, worst, strict=True):
        gone = set(order[: round(share * n)].tolist())
        kept = [i for i in range(n) if i not in gone]
        word = _word(clustered_mean((tuned - base)[kept], low=-9, high=9))
        scores = [None if i in gone else float(v) for i, v in enumerate(tuned)]
        found = missing_judgements(Scores.of(base.tolist()), Scores.of(scores))
        naive += word == "better"
        guarded += found.guard(word) == "better"
        called += found.decisive
        ends = found.bounds.ci95
        held += ends is not None and ends[0] <= 0 <= ends[1]
    counts = {"naive": naive, "guarded": guarded, "must_agree": called, "held": held}
    return {name: count / draws for name, count in counts.items()}


def repeats_settings() -> list[Setting]:
    return [{"n": n, "repeats": count} for n in QUESTIONS for count in (1, 3, 5)]


def repeats(setting: Setting, draws: int, rng: Rng) -> Row:
    """Repeats of which those that would say 3 or less of a tuned answer fail; in truth both are equally good.

    Most questions keep a repeat, and with it a score, which is too good. Columns as of `missing`.
    """
    n, count = setting["n"], setting["repeats"]
    naive = guarded = called = lost = 0
    for _ in range(draws):
        level = 5.5 + 1.6 * rng.normal(size=n)
        arms = [level + rng.normal(size=n) for _ in range(2)]
        base, tuned = (_scores(arm[:, None] + rng.normal(size=(n, count))) for arm in arms)
        failed = tuned <= 3
        there = np.maximum(1, (~failed).sum(axis=1))
        means = np.where(failed.all(axis=1), np.nan, np.where(failed, 0, tuned).sum(axis=1) / there)
        found = missing_judgements(
            Scores(base.mean(axis=1), np.zeros(n)), Scores(means, failed.mean(axis=1))
        )
        kept = ~np.isnan(means)
        word = _word(clustered_mean((means - base.mean(axis=1))[kept], low=-9, high=9))
        naive += word == "better"
        guarded += found.guard(word) == "better"
        called += found.decisive
        lost += found.lost
    shares = {"naive": naive, "guarded": guarded, "must_agree": called, "lost": lost / n}
    return {name: value / draws for name, value in shares.items()}


EQUIVALENT = {
    "plain": "normal differences with a standard deviation of 1.5",
    "ties": "six of seven tied, one in eight lower by four, one in a hundred higher by one",
    "falls": "a slight rise with a little noise, and one in ten falls by six",
}


def equivalence_settings() -> list[Setting]:
    sizes = (6, 12, 20, 30, 60, 200)
    return [{"differences": name, "n": n} for name in EQUIVALENT for n in sizes]


def equivalence(setting: Setting, draws: int, rng: Rng) -> Row:
    """How often `equivalent` is said where the tuned model is worse by just the margin, 0.5.

    `interval`: of the interval alone; `rule`: with the number of questions that it takes.
    """
    shape = (draws, setting["n"])
    if setting["differences"] == "plain":
        differences = 1.5 * rng.normal(size=shape) - 0.5
    elif setting["differences"] == "ties":
        differences = rng.choice([0.0, -4.0, 1.0], size=shape, p=[0.8625, 0.1275, 0.01])
    else:
        rare = rng.random(shape) < 0.1
        differences = np.where(rare, -6.0, 1 / 9) + 0.2 * rng.normal(size=shape)
    found = [clustered_mean(row, low=-9, high=9) for row in differences]
    inside = sum(f.ci95 is not None and -MARGIN < f.ci95[0] <= f.ci95[1] < MARGIN for f in found)
    words = [_word(f) for f in found]
    return {"interval": inside / draws, "rule": words.count("equivalent") / draws}


def power_settings() -> list[Setting]:
    effects = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6)
    return [{"n": n, "effect": effect} for n in QUESTIONS for effect in effects]


def _word(difference: Estimate) -> str:
    return decide(difference.ci95, difference.clusters)


def power(setting: Setting, draws: int, rng: Rng) -> Row:
    """How often a true difference is called `better`, beside what the formula foretells."""
    n = setting["n"]
    sample = draw("ordinal", "alone", n, draws, setting["effect"], rng)
    differences = sample.tuned - sample.base
    words = [_word(clustered_mean(row, low=-9, high=9)) for row in differences]
    true, deviation = float(differences.mean()), float(differences.std())
    return {
        "difference": true,
        "deviation": deviation,
        "better": words.count("better") / draws,
        "formula": power_of_t(true, deviation / n**0.5, n - 1),
    }


def seeds_settings() -> list[Setting]:
    return [
        {"design": design, "n": n, "seeds": seeds, "deviation": deviation}
        for design in ("alone", "unequal")
        for n in QUESTIONS
        for seeds in (3, 5)
        for deviation in (0.0, 0.1, 0.3, 0.6)
    ]


def seeds(setting: Setting, draws: int, rng: Rng) -> Row:
    """Whole scores of one base model and of several training seeds', which differ by `deviation`; truth 0.

    `alone`: coverage of the interval that knows of questions only. `min_f`: that of Satterthwaite's degrees
    of freedom for the sum of both variances. `wider`: how many times wider than `alone` (median).
    """
    n, count = setting["n"], setting["seeds"]
    sized = sizes(setting["design"], n)
    index = np.repeat(np.arange(len(sized)), sized)

    def latent(columns: int) -> Numbers:
        shared = rng.normal(size=(len(sized), columns))[index]
        return np.sqrt(LIKE) * shared + np.sqrt(1 - LIKE) * rng.normal(size=(n, columns))

    hits = dict.fromkeys(("coverage", "alone", "min_f"), 0)
    wider: list[float] = []
    for _ in range(draws):
        question = 5.5 + 1.6 * latent(1)
        effect = setting["deviation"] * rng.normal(size=count)
        tuned = _scores(question + effect + latent(count))
        found = crossed_mean(tuned - _scores(question + latent(1)), index.tolist(), low=-9, high=9)
        ends, own = found.estimate.ci95, found.fixed.ci95
        parts = [(found.fixed.standard_error, found.fixed.df)]
        parts.append((found.seed_error.standard_error, found.seed_error.df))
        total = sum(error**2 for error, _ in parts)
        df = total**2 / sum(error**4 / df for error, df in parts)
        hits["coverage"] += ends[0] <= 0 <= ends[1]
        hits["alone"] += own[0] <= 0 <= own[1]
        hits["min_f"] += abs(found.estimate.mean) <= special.stdtrit(df, 0.975) * total**0.5
        wider.append((ends[1] - ends[0]) / (own[1] - own[0]))
    shares = {name: count / draws for name, count in hits.items()}
    return {**shares, "wider": float(np.median(wider))}


PARTS: dict[str, tuple[Callable[[], list[Setting]], Callable[[Setting, int, Rng], Row]]] = {
    "intervals": (interval_settings, intervals),
    "checks": (check_settings, checks),
    "missing": (missing_settings, missing),
    "power": (power_settings, power),
    "seeds": (seeds_settings, seeds),
    "repeats": (repeats_settings, repeats),
    "equivalence": (equivalence_settings, equivalence),
}
FULL = {"intervals": 6_000, "missing": 1_000, "power": 2_000, "checks": 200, "seeds": 2_000}
FULL |= {"repeats": 1_000, "equivalence": 4_000}
QUICK = {"intervals": 200, "missing": 100, "power": 200, "checks": 20, "seeds": 50}
QUICK |= {"repeats": 50, "equivalence": 200}
"""Data sets drawn for each setting of a part."""


def one(part: str, number: int, draws: int, seed: int) -> Row:
    """The row of setting `number`; its random numbers depend on nothing but these arguments."""
    settings, work = PARTS[part]
    setting = settings()[number]
    rng = np.random.default_rng([seed, list(PARTS).index(part), number])
    return {**setting, "draws": draws, **work(setting, draws, rng)}


def study(
    effort: dict[str, int],
    seed: int,
    jobs: int = 1,
    keep: Callable[[dict[str, Any]], object] = bool,
) -> dict[str, Any]:
    """All parts of `effort`, handed to `keep` one by one.

    The same effort and seed give the same figures, whatever the number of processes.
    """
    found: dict[str, Any] = {"seed": seed}
    with ProcessPoolExecutor(jobs) as pool:
        for part, draws in effort.items():
            start = time.monotonic()
            count = len(PARTS[part][0]())
            rows = pool.map(one, repeat(part), range(count), repeat(draws), repeat(seed))
            found[part] = list(rows)
            keep(found)
            spent = time.monotonic() - start
            print(f"{part}: {count} settings of {draws} draws, {spent:.0f} s", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few draws; prints, writes nothing")
    parser.add_argument("--page", action="store_true", help="the page from the saved figures")
    parser.add_argument(
        "--part", choices=PARTS, help="only this; the others stay as they are saved"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, default=20261125)
    options = parser.parse_args()
    store = DOCS / "statistics.json"
    saved = json.loads(store.read_text()) if options.page or options.part else {}

    def keep(found: dict[str, Any]) -> None:
        if not options.quick:
            rows = json.dumps(saved | found).replace("}, {", "},\n{")  # a line a setting
            store.write_text(rows + "\n")

    found = saved
    if not options.page:
        effort = QUICK if options.quick else FULL
        if options.part:
            effort = {options.part: effort[options.part]}
        found = saved | study(effort, options.seed, options.jobs, keep)
    from statistics_page import charts, render  # beside this file

    if options.quick:
        print(render(found))
        return 0
    (DOCS / "statistics.md").write_text(render(found))
    for name, text in charts(found).items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
