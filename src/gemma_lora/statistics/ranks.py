"""Tests that use only the order or the sign of the differences, one difference for each cluster."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from gemma_lora.statistics.clustered import Clusters, Numbers
from gemma_lora.statistics.resampling import sign_flip
from gemma_lora.statistics.shares import wilson

__all__ = ["SignTest", "SignedRank", "sign_test", "signed_rank"]

_ALL_FLIPS = 13
"""Up to so many clusters all flips of signs are looked at, as scipy does it."""


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test on `n` clusters, `zeros` of which do not differ."""

    p_value: float | None
    n: int
    zeros: int
    exact: bool
    direction: int
    """1 where the ranks of the tuned arm's gains weigh more, -1 where its losses do."""
    note: str | None = None


@dataclass(frozen=True)
class SignTest:
    """Clusters that the tuned arm wins, ties and loses; `share` = wins among those decided."""

    win: int
    tie: int
    loss: int
    p_value: float | None
    share: float | None
    ci95: tuple[float, float] | None
    """Wilson's interval of `share`."""


def signed_rank(
    values: Sequence[float] | Numbers, clusters: Sequence[Hashable] | None = None
) -> SignedRank:
    """Wilcoxon's signed-rank test of the cluster means, zeros ranked and then dropped (Pratt 1959).

    Exact up to 13 clusters (all sign flips), and up to 50 where no ties or zeros occur; else normal,
    corrected for ties and zeros (Cureton 1967).
    """
    x: Numbers = np.asarray(values, dtype=float)
    means = np.round(Clusters(clusters, int(x.size)).means(x), 9)  # ties up to rounding are ties
    n, zeros = int(means.size), int((means == 0).sum())
    if zeros == n:
        return SignedRank(None, n, zeros, True, 0, "no cluster differs")
    ranks = np.sign(means) * stats.rankdata(np.abs(means))
    direction = int(np.sign(ranks.sum()))
    if n <= _ALL_FLIPS:  # stats.wilcoxon does the same, a thousand times slower
        flips = sign_flip(ranks, seed=0, resamples=2**_ALL_FLIPS)
        return SignedRank(flips.p_value, n, zeros, flips.exact, direction)
    plain = zeros == 0 and np.unique(np.abs(means)).size == n
    found: Any = stats.wilcoxon(means, zero_method="pratt", method="auto")
    return SignedRank(float(found.pvalue), n, zeros, plain and n <= 50, direction)


def sign_test(
    values: Sequence[float] | Numbers, clusters: Sequence[Hashable] | None = None
) -> SignTest:
    """Exact binomial test of wins against losses by cluster, ties left out, with Wilson's interval (1927)."""
    x: Numbers = np.asarray(values, dtype=float)
    means = Clusters(clusters, int(x.size)).means(x)
    win, loss = int((means > 0).sum()), int((means < 0).sum())
    tie = int(means.size) - win - loss
    if win + loss == 0:
        return SignTest(win, tie, loss, None, None, None)
    test = stats.binomtest(win, win + loss)
    share = win / (win + loss)
    return SignTest(win, tie, loss, float(test.pvalue), share, wilson(win, win + loss))
