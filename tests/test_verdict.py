"""The statistics against hand-worked cases, independent implementations and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gemma_lora.verdict import MARGIN, clustered_mean, decide, paired_difference


def estimate(values, clusters=None):
    return clustered_mean(values, clusters, low=-9, high=9)


def sandwich(values, clusters):
    """CR1 by the textbook: OLS on a constant, bread-meat-bread with matrices, Stata's correction."""
    y = np.asarray(values, dtype=float)
    x = np.ones((len(y), 1))
    beta = np.linalg.solve(x.T @ x, x.T @ y)
    residual = y - x @ beta
    meat = np.zeros((1, 1))
    names = sorted(set(clusters))
    for name in names:
        rows = [i for i, c in enumerate(clusters) if c == name]
        score = x[rows].T @ residual[rows]
        meat += np.outer(score, score)
    bread = np.linalg.inv(x.T @ x)
    g, n, k = len(names), len(y), 1
    return math.sqrt((g / (g - 1) * (n - 1) / (n - k) * bread @ meat @ bread).item())


class TestAgainstIndependentImplementations:
    def test_single_questions_give_the_paired_t_test(self):
        rng = np.random.default_rng(1)
        base, tuned = rng.integers(1, 11, 40), rng.integers(1, 11, 40)
        found = paired_difference(base, tuned).difference
        known = stats.ttest_rel(tuned, base)
        low, high = known.confidence_interval(0.95)
        assert found.p_value == pytest.approx(known.pvalue, rel=1e-10)
        assert found.ci95 == pytest.approx((low, high), rel=1e-10)
        assert (found.n, found.clusters) == (40, 40)

    @given(
        st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 6)), min_size=3, max_size=40).filter(
            lambda rows: len({c for _, c in rows}) > 1 and len({v for v, _ in rows}) > 1
        )
    )
    def test_clusters_give_the_sandwich(self, rows):
        values, clusters = zip(*rows, strict=True)
        known = sandwich(values, clusters)
        found = estimate(values, clusters)
        if found.standard_error is None:
            assert known == pytest.approx(0, abs=1e-7)
            return
        assert found.standard_error == pytest.approx(known, rel=1e-9, abs=1e-8)
        reach = stats.t.ppf(0.975, len(set(clusters)) - 1) * known
        assert found.ci95[1] - found.mean == pytest.approx(reach, rel=1e-7, abs=1e-7)

    def test_worked_by_hand(self):
        # mean 1; residuals -1, 0 | 1, 2 | -2 -> sums -1, 3, -2 -> 14; 3/2 * 14 / 25 = 0.84
        found = estimate([0, 1, 2, 3, -1], ["a", "a", "b", "b", "c"])
        assert found.mean == 1
        assert found.standard_error == pytest.approx(math.sqrt(0.84))
        assert found.ci95[0] == pytest.approx(1 - 4.302652729911275 * math.sqrt(0.84))

    def test_duplicates_add_no_evidence(self):
        once = estimate([1, 2, 4, 5, 0])
        thrice = estimate([1, 2, 4, 5, 0] * 3, list("abcde") * 3)
        assert thrice.ci95 == pytest.approx(once.ci95)
        naive = estimate([1, 2, 4, 5, 0] * 3)
        assert naive.standard_error < thrice.standard_error

    def test_order_of_questions_and_names_of_clusters_do_not_matter(self):
        values, clusters = [3, 1, 4, 1, 5, 9], [1, 1, 2, 2, 3, 3]
        turned = estimate(values[::-1], [f"x{c}" for c in clusters[::-1]])
        assert turned.ci95 == pytest.approx(estimate(values, clusters).ci95)


class TestDegenerate:
    def test_one_question_has_no_interval(self):
        found = paired_difference([2], [9]).difference
        assert (found.ci95, found.p_value, found.standard_error) == (None, None, None)
        assert found.note
        assert decide(found.ci95) == "inconclusive"

    def test_one_cluster_has_no_interval(self):
        found = estimate([1, 2, 3, 4], ["same"] * 4)
        assert found.ci95 is None
        assert "one cluster" in found.note

    def test_no_spread_gives_a_bound_and_no_certainty(self):
        few = estimate([1.0, 1.0])
        assert few.ci95[0] < 0 < few.ci95[1]
        many = estimate([0.0] * 80)
        assert -MARGIN < many.ci95[0] < 0 < many.ci95[1] < MARGIN
        assert (many.standard_error, many.p_value) == (None, None)
        assert decide(many.ci95) == "equivalent"
        assert decide(estimate([2.0] * 60).ci95) == "better"

    def test_rule_of_three_by_brute_force(self):
        # with a deviating share just above the bound, 40 draws without any deviation are rarer than 5 %
        share = 1 - 0.05 ** (1 / 40)
        assert (1 - share - 0.001) ** 40 < 0.05 < (1 - share + 0.001) ** 40
        found = estimate([0.0] * 40)
        assert found.ci95 == pytest.approx((-9 * share, 9 * share))

    def test_differences_that_cancel_inside_clusters(self):
        found = estimate([1, -1, 2, -2], ["a", "a", "b", "b"])
        assert found.ci95 is None
        assert "cancel" in found.note

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_scores_that_are_not_numbers_are_refused(self, bad):
        with pytest.raises(ValueError, match="finite"):
            paired_difference([1, bad], [2, 3])

    def test_arms_of_unequal_length_are_refused(self):
        with pytest.raises(ValueError, match="do not pair"):
            paired_difference([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="do not pair"):
            paired_difference([1, 2], [1, 2], ["a"])
        with pytest.raises(ValueError, match="no values"):
            paired_difference([], [])


class TestRule:
    @pytest.mark.parametrize(
        ("ci95", "word"),
        [
            ((0.01, 3.0), "better"),
            ((-3.0, -0.01), "worse"),
            ((-0.49, 0.49), "equivalent"),
            ((-0.5, 0.2), "inconclusive"),
            ((-0.2, 0.5), "inconclusive"),
            ((-1.0, 2.0), "inconclusive"),
            ((0.1, 0.3), "better"),  # both above 0 and inside the margin: direction first
            ((-0.3, -0.1), "worse"),
            ((0.0, 0.4), "equivalent"),
            ((0.0, 0.9), "inconclusive"),
            (None, "inconclusive"),
        ],
    )
    def test_words(self, ci95, word):
        assert decide(ci95) == word

    def test_swapping_the_arms_mirrors_everything(self):
        rng = np.random.default_rng(3)
        base, tuned = rng.uniform(1, 10, 30), rng.uniform(1, 10, 30)
        there, back = paired_difference(base, tuned), paired_difference(tuned, base)
        assert there.difference.mean == pytest.approx(-back.difference.mean)
        assert there.difference.p_value == pytest.approx(back.difference.p_value)
        assert (there.win, there.tie, there.loss) == (back.loss, back.tie, back.win)

    def test_win_tie_loss_ignores_rounding_of_averages(self):
        third = (0.1 + 0.2) * 10
        assert (paired_difference([3.0, 1, 5], [third, 2, 4]).tie) == 1


@pytest.mark.parametrize("clustered", [False, True])
def test_interval_covers_the_truth(clustered):
    """Ordinal scores with ties: about 95 % of the intervals hold the true difference."""
    rng = np.random.default_rng(20)
    tries, groups, size = 1500, 60, 3 if clustered else 1
    draws = rng.normal(0.8, 1.5, (tries, groups, 1)) + rng.normal(0, 0.8, (tries, groups, size))
    values = np.clip(np.round(draws), -9, 9)
    reference = np.random.default_rng(21)
    many = reference.normal(0.8, 1.5, 400_000) + reference.normal(0, 0.8, 400_000)
    truth = np.clip(np.round(many), -9, 9).mean()
    names = np.repeat(np.arange(groups), size)
    held = naive = 0
    for row in values.reshape(tries, -1):
        low, high = estimate(row, names.tolist()).ci95
        held += low <= truth <= high
        low, high = estimate(row).ci95
        naive += low <= truth <= high
    assert 0.93 <= held / tries <= 0.97
    if clustered:  # counting near-duplicates as independent would claim too much
        assert naive / tries < 0.87
