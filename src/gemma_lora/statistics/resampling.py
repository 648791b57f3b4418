"""Intervals and tests by drawing again: BCa bootstrap of whole clusters, sign flips of whole clusters.

Seeded, so the same judgements give the same figures. Both are scipy's; clusters enter as their sums,
so that a cluster is drawn, or flipped, as one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gemma_lora.statistics.clustered import CONFIDENCE, Clusters, Numbers

__all__ = [
    "Bootstrap",
    "SignFlip",
    "bootstrap_clusters",
    "bootstrap_mean",
    "sign_flip",
]

RESAMPLES = 9_999
FEWER_RESAMPLES = 1_999
MANY_CLUSTERS = 2_000
"""From here on fewer are drawn: each draw takes long, and the t interval hardly needs a check."""

_CELLS = 2_000_000
"""Numbers held at once while resampling."""


@dataclass(frozen=True)
class Bootstrap:
    """A 95 % interval by the bootstrap; None with a note where it cannot be formed."""

    ci95: tuple[float, float] | None
    resamples: int
    note: str | None = None


@dataclass(frozen=True)
class SignFlip:
    """Two-sided p-value of the sign-flip test; `exact`: all 2^G flips were looked at."""

    p_value: float | None
    resamples: int
    exact: bool
    note: str | None = None


def bootstrap_mean(
    values: Sequence[float] | Numbers,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int | None = None,
) -> Bootstrap:
    """BCa interval (Efron 1987) of the mean over all values; whole clusters are drawn."""
    x: Numbers = np.asarray(values, dtype=float)
    groups = Clusters(clusters, int(x.size))

    def mean(sums: Numbers, sizes: Numbers, axis: int = -1) -> Numbers:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    return bootstrap_clusters((groups.sums(x), groups.sizes), mean, seed=seed, resamples=resamples)


def bootstrap_clusters(
    parts: tuple[Numbers, ...],
    statistic: Callable[..., Numbers],
    *,
    seed: int,
    resamples: int | None = None,
) -> Bootstrap:
    """BCa interval of `statistic`, a function of per-cluster sums `parts`, each of shape (G,)."""
    count = int(parts[0].size)
    resamples = resamples or _enough(count)
    if count < 3:
        return Bootstrap(None, resamples, "fewer than three clusters cannot be drawn from")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            parts,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _CELLS // count),
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Bootstrap(None, resamples, "too little spread to draw from")
    return Bootstrap((low, high), resamples)


def sign_flip(
    values: Sequence[float] | Numbers,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int | None = None,
) -> SignFlip:
    """The permutation test of a paired difference (Fisher 1935): the arms of a whole cluster are swapped.

    All 2^G swaps where they are no more than `resamples` + 1, else that many at random, with
    p = (hits + 1) / (draws + 1) (Phipson & Smyth 2010). Exact under "no difference of any kind".
    """
    x: Numbers = np.asarray(values, dtype=float)
    sums = Clusters(clusters, int(x.size)).sums(x)
    sums[np.abs(sums) < 1e-9] = 0.0
    moved = sums[sums != 0]  # flipping a zero changes nothing
    if moved.size < 2:  # every flip gives the same total, but for its sign
        few = "no cluster differs" if moved.size == 0 else "only one cluster differs"
        return SignFlip(1.0, 2**moved.size, True, few)
    resamples = resamples or _enough(int(moved.size))
    exact = 2**moved.size <= resamples + 1
    found = stats.permutation_test(
        (moved,),
        _total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**moved.size if exact else resamples,
        batch=max(1, _CELLS // int(moved.size)),
        rng=np.random.default_rng(seed),
    )
    return SignFlip(float(found.pvalue), 2**moved.size if exact else resamples, exact)


def _enough(clusters: int) -> int:
    return RESAMPLES if clusters <= MANY_CLUSTERS else FEWER_RESAMPLES


def _total(values: Numbers, axis: int = -1) -> Numbers:
    return values.sum(axis=axis)
