"""The mean of values in clusters, with its cluster-robust 95 % interval.

Questions that are near-duplicates of each other share a cluster and are not counted as independent
evidence. Where the data carry no interval (one question, one cluster) there is none: nothing is made up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["CONFIDENCE", "METHOD", "Clusters", "Estimate", "clustered_mean"]

CONFIDENCE = 0.95

METHOD = (
    "mean paired difference, cluster-robust standard error (CR2), t with Satterthwaite degrees of "
    "freedom (clusters - 1 where all clusters are of one size)"
)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; `ci95` and `p_value` are None where the data carry none."""

    mean: float
    standard_error: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    """Two-sided, against a mean of zero."""
    n: int
    clusters: int
    method: str
    note: str | None = None
    """Plain words, where the usual method did not apply."""
    df: float | None = None
    """Degrees of freedom of t."""


class Clusters:
    """Which cluster each of n values belongs to, coded 0 to G - 1; None: every value is alone.

    Raises ValueError where names and values do not pair.
    """

    def __init__(self, labels: Sequence[Hashable] | None, n: int) -> None:
        if labels is not None and len(labels) != n:
            raise ValueError(f"{n} values and {len(labels)} cluster names do not pair")
        codes: dict[Hashable, int] = {}
        names = range(n) if labels is None else labels
        self.index = np.array([codes.setdefault(name, len(codes)) for name in names], dtype=int)
        self.count = len(codes)
        self.sizes: Numbers = np.bincount(self.index, minlength=self.count).astype(float)

    def sums(self, values: Numbers) -> Numbers:
        """The sum of `values` within each cluster, shape (G,)."""
        summed = np.bincount(self.index, weights=values, minlength=self.count)
        return np.asarray(summed, dtype=float)

    def means(self, values: Numbers) -> Numbers:
        """The mean of `values` within each cluster, shape (G,); rounding noise around 0 is 0."""
        means = self.sums(values) / self.sizes
        means[np.abs(means) < 1e-9] = 0.0
        return means


def clustered_mean(
    values: Sequence[float] | Numbers,
    clusters: Sequence[Hashable] | None = None,
    *,
    low: float,
    high: float,
) -> Estimate:
    """Mean of `values` with a cluster-robust 95 % interval; `low` and `high` bound a single value.

    With residuals r = value - mean, summed within each of G clusters to s_g, and h_g the share of
    the values that cluster g holds,

        SE^2 = sum_g s_g^2 / (1 - h_g) / n^2,      interval: mean -+ t(0.975, df) * SE,

    the CR2 sandwich (Bell & McCaffrey 2002) for a mean, with the degrees of freedom of Satterthwaite
    under the working model of Imbens & Kolesar (2016): within a cluster the values correlate by rho,
    which is estimated. Where all clusters are of one size this is the CR1 sandwich with G - 1 degrees
    of freedom, which Miller (2024, arXiv 2411.00640) recommends for evaluations, and where each has
    one question the ordinary paired t-test. With clusters of unequal size CR1 claims too much
    (docs/statistics.md).

    Values that are all equal have no spread, so t knows nothing and would claim certainty. Then the
    interval comes from the rule of three (Hanley & Lippman-Hand 1983): with none of G clusters
    deviating, at most p = 1 - 0.05^(1/G) of all do, each by no more than `low` and `high` allow.
    One value or one cluster: no interval. Raises ValueError for no values or values that are not finite.
    """
    x: Numbers = np.asarray(values, dtype=float)
    n = int(x.size)
    if n == 0:
        raise ValueError("no values")
    if not np.isfinite(x).all():
        raise ValueError("a score is not a finite number")
    groups = Clusters(clusters, n)
    g = groups.count
    mean = float(x.mean())

    def without(note: str) -> Estimate:
        return Estimate(mean, None, None, None, n, g, METHOD, note)

    if n < 2:
        return without("one question carries no interval")
    if g < 2:
        return without(
            f"all {n} questions are near-duplicates of each other (one cluster): no interval"
        )
    if float(np.ptp(x)) <= 1e-9:
        share = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / g)
        interval = (mean - share * (mean - low), mean + share * (high - mean))
        note = (
            f"all {n} values are equal, so there is no spread to estimate from; the interval is a bound: "
            f"at most {share:.1%} of such questions would deviate (rule of three)"
        )
        return Estimate(mean, None, interval, None, n, g, "rule of three (no spread)", note)
    residuals = x - mean
    sums = groups.sums(residuals)
    weights = 1.0 / (1.0 - groups.sizes / n)
    variance = float((weights * sums**2).sum()) / n**2
    if variance <= 1e-18 * float(np.ptp(x)) ** 2:
        return without("differences cancel inside every cluster: no interval can be estimated")
    error = float(np.sqrt(variance))
    df = _satterthwaite(groups.sizes, _correlation(residuals, sums, groups))
    # of t's distribution; scipy.stats.t gives the same, a hundred times slower
    reach = float(special.stdtrit(df, 0.5 + CONFIDENCE / 2)) * error
    p_value = float(2 * special.stdtr(df, -abs(mean) / error))
    return Estimate(mean, error, (mean - reach, mean + reach), p_value, n, g, METHOD, None, df)


def _correlation(residuals: Numbers, sums: Numbers, groups: Clusters) -> float:
    """rho: the mean product of two residuals of a cluster over their variance, kept within 0 to 1."""
    pairs = float((groups.sizes * (groups.sizes - 1)).sum())
    if pairs == 0:
        return 0.0
    squares = float((residuals**2).sum())
    cross = (float((sums**2).sum()) - squares) / pairs
    return min(1.0, max(0.0, cross / (squares / (residuals.size - 1))))


def _satterthwaite(sizes: Numbers, rho: float) -> float:
    """Degrees of freedom of the CR2 variance of a mean: 2 E^2 / Var under the working model.

    The variance is T'QT with cluster totals T of variance S_g = n_g (1 + (n_g - 1) rho), and
    Q = C'WC, C = I - h1', W = diag(1 / (1 - h)); so df = tr(WB)^2 / tr(WBWB) with B = CSC'.
    B has entries [g = k] S_g - h_g S_k - S_g h_k + h_g h_k sum(S): of rank two off its diagonal, so
    the traces are sums over clusters, and no G x G matrix is made.
    """
    h = sizes / sizes.sum()
    w = 1.0 / (1.0 - h)
    s = sizes * (1.0 + (sizes - 1.0) * rho)
    total = float(s.sum())
    off = -2 * h * s + total * h**2  # what the formula without [g = k] gives on the diagonal
    diagonal = s + off
    hh, hs, ss = (float((w * a * b).sum()) for a, b in ((h, h), (h, s), (s, s)))
    everywhere = 2 * hh * ss + 2 * hs**2 + total**2 * hh**2 - 4 * total * hh * hs
    spread = everywhere + float((w**2 * (diagonal**2 - off**2)).sum())
    return float((w * diagonal).sum()) ** 2 / spread
