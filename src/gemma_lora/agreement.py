"""How well two raters agree: a judge with people, people with each other. Pure numbers, no files.

    cohen_kappa(judge, human)                        # categories
    quadratic_kappa(judge, human)                    # grades: a small miss counts less than a large one
    kendall_tau(judge, human)                        # the order alone
    krippendorff_alpha(ratings, "ordinal")           # any number of raters, ratings may be missing
    accuracy, signed_bias, roc_auc, preference       # against a verdict that counts as the truth

Each returns a `Figure`: the estimate and a 95 % interval, or None with the reason. The interval is the
BCa bootstrap (Efron 1987; scipy.stats.bootstrap) over whole clusters of items, seeded. BCa and not the
plain percentile, because coefficients near 1 are skewed and biased in small samples, and percentile
intervals then lie too high; where BCa cannot be computed nothing takes its place. There is no interval
with fewer than 10 clusters, with resamples in which the coefficient is undefined (0/0: one category
alone), or without any spread: a bootstrap knows nothing of what it never saw.

Raises ValueError for ratings that do not pair, are not numbers where numbers are needed, or are absent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

__all__ = [
    "Bootstrap",
    "Figure",
    "Level",
    "accuracy",
    "best_threshold",
    "cohen_kappa",
    "kendall_tau",
    "krippendorff_alpha",
    "preference",
    "quadratic_kappa",
    "roc_auc",
    "signed_bias",
]

Level = Literal["nominal", "ordinal", "interval"]
Numbers = Sequence[float] | np.ndarray
Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
FEWEST_CLUSTERS = 10
METHOD = "BCa bootstrap over clusters of items, 95 %"


@dataclass(frozen=True)
class Figure:
    """One coefficient. `reason` says why `value` or `ci95` is None; without it both are numbers."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    """Items that entered: pairs of ratings, or units with two ratings and more."""
    clusters: int
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. `clusters[i]` names the group of item i (its question); None: each alone."""

    clusters: Sequence[Hashable] | None = None
    resamples: int = 2000
    seed: int = 1


# ---------------------------------------------------------------------- two raters


def cohen_kappa(
    first: Sequence[Hashable] | Array,
    second: Sequence[Hashable] | Array,
    *,
    disagreement: Mapping[tuple[Hashable, Hashable], float] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> Figure:
    """Cohen's kappa (1960), or weighted kappa (1968) with the `disagreement` of each pair of categories.

    1 - sum(w * observed) / sum(w * expected), expected from the product of both raters' shares.
    Undefined where one category is all that both ever used. Weights not named are 0 on the diagonal; any
    other pair has to be named.
    """
    one, two = list(first), list(second)
    _require_pairs(len(one), len(two))
    codes: dict[Hashable, int] = {}
    a = np.array([codes.setdefault(value, len(codes)) for value in one])
    b = np.array([codes.setdefault(value, len(codes)) for value in two])
    size = len(codes)
    weights = 1.0 - np.eye(size)
    if disagreement is not None:
        absent = [(x, y) for x in codes for y in codes if x != y and (x, y) not in disagreement]
        if absent:
            raise ValueError(f"no disagreement is given for {absent[0]}")
        weights = np.array([[float(disagreement.get((x, y), 0.0)) for y in codes] for x in codes])
    cells = a * size + b

    def statistic(rows: Array) -> float:
        table = np.bincount(cells[rows], minlength=size * size).reshape(size, size) / len(rows)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0))
        return _one_minus((weights * table).sum(), (weights * expected).sum())

    return _figure(statistic, len(one), bootstrap, "both raters used one category only")


def quadratic_kappa(
    first: Numbers, second: Numbers, *, bootstrap: Bootstrap = Bootstrap()
) -> Figure:
    """Kappa with squared differences as weights (Fleiss & Cohen 1973), on the values themselves.

    1 - mean((a_i - b_i)^2) / mean over all i, j of (a_i - b_j)^2
      = 2 cov(a, b) / (var(a) + var(b) + (mean(a) - mean(b))^2),

    which is Lin's concordance (1989) too, so means of repeated ratings need no rounding. Distances are
    those of the grades, not of their ranks among the grades in use: a grade that nobody gave still
    counts. A constant offset and a different spread lower it, unlike a correlation.
    """
    a, b = _numbers(first), _numbers(second)
    _require_pairs(len(a), len(b))

    def statistic(rows: Array) -> float:
        x, y = a[rows], b[rows]
        expected = x.var() + y.var() + (x.mean() - y.mean()) ** 2
        return _one_minus(((x - y) ** 2).mean(), expected)

    return _figure(statistic, len(a), bootstrap, "all ratings of both are equal")


def kendall_tau(first: Numbers, second: Numbers, *, bootstrap: Bootstrap = Bootstrap()) -> Figure:
    """Kendall's tau-b (1945), which corrects for ties; scipy.stats.kendalltau."""
    a, b = _numbers(first), _numbers(second)
    _require_pairs(len(a), len(b))

    def statistic(rows: Array) -> float:
        found: Any = stats.kendalltau(a[rows], b[rows])
        return float(found.statistic)

    return _figure(statistic, len(a), bootstrap, "one of the raters gave one rating only")


def accuracy(
    judge: Sequence[Hashable] | Array,
    truth: Sequence[Hashable] | Array,
    *,
    bootstrap: Bootstrap = Bootstrap(),
) -> Figure:
    """The share of items on which both say the same."""
    one, two = list(judge), list(truth)
    _require_pairs(len(one), len(two))
    same = np.array([x == y for x, y in zip(one, two, strict=True)], dtype=float)
    return _figure(lambda rows: float(same[rows].mean()), len(same), bootstrap, "")


def signed_bias(judge: Numbers, truth: Numbers, *, bootstrap: Bootstrap = Bootstrap()) -> Figure:
    """The mean of judge minus truth: above 0 the judge is lenient, on the scale of the ratings.

    With verdicts of 0 and 1 it is the share that the judge calls right less the share that is.
    """
    a, b = _numbers(judge), _numbers(truth)
    _require_pairs(len(a), len(b))
    gap = a - b
    return _figure(lambda rows: float(gap[rows].mean()), len(gap), bootstrap, "")


# ---------------------------------------------------------------------- scores against a verdict


def roc_auc(
    scores: Numbers, positive: Sequence[bool] | Array, *, bootstrap: Bootstrap = Bootstrap()
) -> Figure:
    """The chance that a random positive item scores above a random negative one, ties half.

    The Mann-Whitney statistic by ranks (Hanley & McNeil 1982); 0.5 is guessing.
    """
    x, yes = _numbers(scores), np.asarray(positive, dtype=bool)
    _require_pairs(len(x), len(yes))

    def statistic(rows: Array) -> float:
        chosen = yes[rows]
        above = int(chosen.sum())
        below = len(rows) - above
        if not above or not below:
            return float("nan")
        total = float(stats.rankdata(x[rows])[chosen].sum())
        return (total - above * (above + 1) / 2) / (above * below)

    return _figure(statistic, len(x), bootstrap, "all items have the same verdict")


def preference(
    scores: Numbers,
    positive: Sequence[bool] | Array,
    groups: Sequence[Hashable],
    *,
    bootstrap: Bootstrap = Bootstrap(),
) -> Figure:
    """The same chance among items of one group: two answers to one question, of which one is right.

    All such pairs of all groups weigh alike; `n` counts them. Comparing two models on the same questions
    needs exactly this. `bootstrap.clusters` is not used: groups are drawn whole.
    """
    x, yes = _numbers(scores), np.asarray(positive, dtype=bool)
    _require_pairs(len(x), len(yes))
    _require_pairs(len(x), len(groups))
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    won: list[float] = []
    pairs: list[int] = []
    for rows in members.values():
        right, wrong = x[rows][yes[rows]], x[rows][~yes[rows]]
        if right.size and wrong.size:
            gap = right[:, None] - wrong[None, :]
            won.append(float((gap > 0).sum() + 0.5 * (gap == 0).sum()))
            pairs.append(gap.size)
    if not pairs:
        return Figure(None, None, 0, 0, "no group has both verdicts")
    wins, counts = np.array(won), np.array(pairs, dtype=float)
    alone = Bootstrap(None, bootstrap.resamples, bootstrap.seed)
    found = _figure(lambda rows: float(wins[rows].sum() / counts[rows].sum()), len(wins), alone, "")
    return Figure(found.value, found.ci95, int(counts.sum()), found.clusters, found.reason)


def best_threshold(scores: Numbers, positive: Sequence[bool] | Array) -> float:
    """The score from which on `positive` is predicted most accurately (the lowest of equals).

    Choose it on other items than those it is reported on. It is one of the scores, or infinity where
    predicting no item at all is best.
    """
    x, yes = _numbers(scores), np.asarray(positive, dtype=bool)
    _require_pairs(len(x), len(yes))
    order = np.argsort(x, kind="stable")
    values, first = np.unique(x[order], return_index=True)
    missed = np.concatenate([[0], np.cumsum(yes[order])])  # right ones below the cut
    kept = np.concatenate([[0], np.cumsum(~yes[order])])  # wrong ones below the cut
    cuts = np.append(first, len(x))
    right = kept[cuts] + (missed[-1] - missed[cuts])
    best = int(np.argmax(right))
    return float(values[best]) if best < len(values) else float("inf")


# ---------------------------------------------------------------------- any number of raters


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | None]] | Array,
    level: Level,
    *,
    bootstrap: Bootstrap = Bootstrap(),
) -> Figure:
    """Krippendorff's alpha (2011): 1 - observed / expected disagreement; a row for each item.

    Shape (items, raters); None or NaN is a missing rating, and items with fewer than two ratings say
    nothing. Disagreement is unequal or not (`nominal`), the squared difference of the values
    (`interval`), or that of their mid-ranks (`ordinal`: the sum of the counts between two values less
    half of their own, which Krippendorff squares, is the difference of their mid-ranks).
    """
    table = np.array(
        [[np.nan if value is None else float(value) for value in row] for row in ratings]
    )
    if table.ndim != 2 or not table.size:
        raise ValueError("ratings are rows of equal length, one for each item")
    if np.isinf(table).any():
        raise ValueError("a rating is not a finite number")
    usable = (~np.isnan(table)).sum(axis=1) >= 2
    clusters = bootstrap.clusters
    if clusters is not None:
        _require_pairs(len(table), len(clusters))
        clusters = [name for name, kept in zip(clusters, usable, strict=True) if kept]
    table = table[usable]
    if not len(table):
        return Figure(None, None, 0, 0, "no item has two ratings")

    def statistic(rows: Array) -> float:
        return _alpha(table[rows], level)

    return _figure(
        statistic,
        len(table),
        Bootstrap(clusters, bootstrap.resamples, bootstrap.seed),
        "all ratings are equal",
    )


def _alpha(table: Array, level: Level) -> float:
    """Alpha of items that have two ratings each at least; NaN where all ratings are equal."""
    there = ~np.isnan(table)
    counts = there.sum(axis=1)
    values = table[there]
    total = len(values)
    if level == "nominal":
        _, codes = np.unique(values, return_inverse=True)
        unit = np.repeat(np.arange(len(table)), counts)
        size = int(codes.max()) + 1
        by_unit = np.bincount(unit * size + codes, minlength=len(table) * size)
        same = (by_unit.reshape(len(table), size) ** 2).sum(axis=1)
        observed = ((counts**2 - same) / (counts - 1)).sum() / total
        expected = (total**2 - (np.bincount(codes) ** 2).sum()) / (total * (total - 1))
        return _one_minus(observed, expected)
    if level == "ordinal":
        table = table.copy()
        table[there] = values = stats.rankdata(values)
    centred = np.where(there, table - values.mean(), 0.0)
    # all ordered pairs of m values: the sum of squared differences is 2 (m sum x^2 - (sum x)^2)
    within = 2 * (counts * (centred**2).sum(axis=1) - centred.sum(axis=1) ** 2)
    observed = (within / (counts - 1)).sum() / total
    expected = 2 * ((values - values.mean()) ** 2).sum() / (total - 1)
    return _one_minus(observed, expected)


# ---------------------------------------------------------------------- the interval


def _figure(
    statistic: Callable[[Array], float], n: int, bootstrap: Bootstrap, undefined: str
) -> Figure:
    """`statistic` of all rows, and its interval; `undefined` says when it is 0/0."""
    members = _members(n, bootstrap.clusters)
    groups = len(members)
    value = statistic(np.arange(n))
    if np.isnan(value):
        return Figure(None, None, n, groups, undefined)

    def without(reason: str) -> Figure:
        return Figure(float(value), None, n, groups, f"no interval: {reason}")

    if groups < FEWEST_CLUSTERS:
        return without(
            f"{groups} clusters, and a bootstrap of fewer than {FEWEST_CLUSTERS} misleads"
        )

    sizes = np.array([len(rows) for rows in members])
    starts, flat = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(members)

    def of_clusters(drawn: Array) -> float:
        if len(flat) == groups:
            return statistic(flat[drawn])
        lengths = sizes[drawn]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        return statistic(flat[np.repeat(starts[drawn], lengths) + within])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what scipy warns of is found below, and told
        result = stats.bootstrap(
            (np.arange(groups),),
            of_clusters,
            n_resamples=bootstrap.resamples,
            vectorized=False,
            batch=100,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(bootstrap.seed),
        )
    drawn = np.asarray(result.bootstrap_distribution, dtype=float)
    lost = int(np.isnan(drawn).sum())
    if lost:
        return without(f"in {lost} of {drawn.size} resamples {undefined}")
    if float(np.ptp(drawn)) <= 1e-12:
        return without("every resample gives the same value")
    low, high = (float(bound) for bound in result.confidence_interval)
    if np.isnan(low) or np.isnan(high):
        return without("too few items carry the value (one alone makes or breaks it)")
    return Figure(float(value), (low, high), n, groups)


def _members(n: int, clusters: Sequence[Hashable] | None) -> list[Array]:
    """The rows of each cluster, in the order of their first rows."""
    if clusters is None:
        return [np.array([row]) for row in range(n)]
    _require_pairs(n, len(clusters))
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(clusters):
        rows.setdefault(name, []).append(row)
    return [np.array(found) for found in rows.values()]


def _one_minus(observed: float, expected: float) -> float:
    # differences of rounding only are none
    return float(1.0 - observed / expected) if expected > 1e-15 else float("nan")


def _numbers(values: Numbers) -> Array:
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError("a rating is not a finite number")
    return found


def _require_pairs(first: int, second: int) -> None:
    if first != second:
        raise ValueError(f"{first} and {second} ratings do not pair")
    if not first:
        raise ValueError("no ratings")
