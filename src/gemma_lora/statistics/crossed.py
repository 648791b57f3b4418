"""The mean of values in a table of questions by training seeds, with an interval for both.

Questions and seeds are crossed: every question is asked of every seed's model, so the error of the mean
has a part from which questions were asked and a part from which seeds were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import optimize, special

from gemma_lora.statistics.clustered import CONFIDENCE, Clusters, Estimate, Numbers, clustered_mean
from gemma_lora.statistics.power import minimum_detectable

__all__ = ["CROSSED_METHOD", "Components", "Crossed", "SeedError", "crossed_mean", "with_seeds"]

CROSSED_METHOD = (
    "mean over questions and training seeds; the intervals over questions (cluster-robust, CR2) and "
    "over seeds (t, seeds - 1 degrees of freedom), squared and added (MOVER)"
)


@dataclass(frozen=True)
class SeedError:
    """The part of a mean's error that comes from which training seeds were drawn."""

    standard_error: float
    df: int


@dataclass(frozen=True)
class Components:
    """Variances of a single value, by what makes it differ; negative estimates are 0."""

    question: float
    seed: float
    residual: float
    """Question x seed: what a seed does to one question, and whatever else is not told apart."""

    @property
    def total(self) -> float:
        return self.question + self.seed + self.residual


@dataclass(frozen=True)
class Crossed:
    """`estimate` is for the recipe; `fixed` is that of these very seeds, so its interval is the narrower."""

    estimate: Estimate
    fixed: Estimate
    seed_error: SeedError
    seed_means: tuple[float, ...]
    components: Components

    @property
    def seed_share(self) -> float | None:
        """Share of the seeds in the squared standard error of the mean; None without an error."""
        error = self.estimate.standard_error
        return None if not error else min(1.0, (self.seed_error.standard_error / error) ** 2)

    @property
    def minimum_detectable(self) -> float | None:
        """The recipe's true difference that the interval tells from 0 four times in five; None without an error.

        As the interval is put together: the differences that the questions alone and the seeds alone would
        notice, squared and added. It errs on the careful side (tests/test_statistics_crossed.py).
        """
        own, df = self.fixed.standard_error, self.fixed.df
        if own is None or df is None:
            return None
        parts = [minimum_detectable(own, df)]
        if self.seed_error.standard_error > 0:
            parts.append(minimum_detectable(self.seed_error.standard_error, self.seed_error.df))
        return math.hypot(*parts)


def crossed_mean(
    table: Sequence[Sequence[float]] | Numbers,
    clusters: Sequence[Hashable] | None = None,
    *,
    low: float,
    high: float,
) -> Crossed:
    """Mean of a table of shape (questions, seeds), every cell filled, with a 95 % interval for the recipe.

    Over questions: `clustered_mean` of the rows' means. Over seeds: the columns' means m_s share the
    questions, so their variance over S holds nothing of these, and V_s = var(m_s) / S has S - 1 degrees of
    freedom whatever the clusters. Both errors hold the interaction once, so it is counted twice, as in
    Clark's min F' (1973); the interval is put together by `with_seeds`.

    Components: the method of moments for two crossed random factors (Searle, Casella & McCulloch 1992,
    ch. 4), the seed's with residuals summed by cluster, because near-duplicates answer a seed alike.

    Raises ValueError for fewer than two seeds, no questions, or values that are not finite.
    """
    x: Numbers = np.asarray(table, dtype=float)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError("a table of questions by at least two seeds is needed")
    n, s = x.shape
    fixed = clustered_mean(x.mean(axis=1), clusters, low=low, high=high)
    means: Numbers = x.mean(axis=0)
    spread = float(means.var(ddof=1))
    error = SeedError(float(np.sqrt(spread / s)) if spread > 1e-18 else 0.0, s - 1)
    return Crossed(
        estimate=with_seeds(fixed, [error]),
        fixed=fixed,
        seed_error=error,
        seed_means=tuple(float(value) for value in means),
        components=_components(x, Clusters(clusters, n), spread),
    )


def with_seeds(fixed: Estimate, errors: Sequence[SeedError]) -> Estimate:
    """`fixed`, whose interval is over questions, with the interval widened by the seeds' errors.

    MOVER (Zou & Donner 2008, after Howe 1974): the distances from the mean to the ends of independent
    intervals are squared and added,

        lower = mean - sqrt((mean - l)^2 + sum_i (t(0.975, df_i) SE_i)^2),      upper likewise.

    Satterthwaite's degrees of freedom for the sum of the variances are the usual choice; with three
    seeds they fell to 92 % coverage, this errs on the careful side (docs/statistics.md). The p-value is
    the level at which the interval ends at 0. Where `fixed` has no interval there is none.
    """
    errors = [error for error in errors if error.standard_error > 0]
    ends, mean = fixed.ci95, fixed.mean
    if not errors or ends is None:
        return fixed if not errors else _without_interval(fixed)
    level = 0.5 + CONFIDENCE / 2
    reach = sum(_reach(error.df, level, error.standard_error) ** 2 for error in errors)
    lower = mean - float(np.sqrt((mean - ends[0]) ** 2 + reach))
    upper = mean + float(np.sqrt((ends[1] - mean) ** 2 + reach))
    own, df = fixed.standard_error, fixed.df
    if own is None or df is None:  # the rule of three knows no error, and has no p-value
        total, p_value = None, None
    else:
        total = float(np.sqrt(own**2 + sum(error.standard_error**2 for error in errors)))
        parts = [(float(df), own), *((error.df, error.standard_error) for error in errors)]
        p_value = _p_value(abs(mean), parts)
    return Estimate(
        mean, total, (lower, upper), p_value, fixed.n, fixed.clusters, CROSSED_METHOD, fixed.note
    )


def _without_interval(fixed: Estimate) -> Estimate:
    return Estimate(
        fixed.mean, None, None, None, fixed.n, fixed.clusters, CROSSED_METHOD, fixed.note
    )


def _reach(df: float, level: float, error: float) -> float:
    return float(special.stdtrit(df, level)) * error


def _p_value(distance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Two-sided: the level at which the interval around the mean ends `distance` away from it."""

    def beyond(log_tail: float) -> float:
        reach = [_reach(df, math.exp(log_tail), error) for df, error in parts]
        return math.hypot(*reach) - distance  # squares of one degree's quantiles would overflow

    if distance == 0:
        return 1.0
    smallest, largest = math.log(1e-300), math.log(0.5)
    if beyond(smallest) <= 0:
        return 0.0
    return 2 * math.exp(cast(float, optimize.brentq(beyond, smallest, largest)))


def _components(x: Numbers, groups: Clusters, spread: float) -> Components:
    n, s = x.shape
    mean = float(x.mean())
    rows: Numbers = x.mean(axis=1)
    residuals: Numbers = x - rows[:, None] - x.mean(axis=0)[None, :] + mean
    if n < 2:
        return Components(0.0, spread, 0.0)
    residual = float((residuals**2).sum()) / ((n - 1) * (s - 1))
    question = (s * float(((rows - mean) ** 2).sum()) / (n - 1) - residual) / s
    noise = 0.0  # what the interaction alone would make of the variance of the seeds' means
    if groups.count > 1:
        weights = 1.0 / (1.0 - groups.sizes / n)
        for column in residuals.T:
            noise += float((weights * groups.sums(column) ** 2).sum()) / n**2 / (s - 1)
    return Components(max(0.0, question), max(0.0, spread - noise), residual)
