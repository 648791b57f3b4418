"""Each estimator against a published worked example, or an independent implementation written here."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gemma_lora.statistics import (
    Scores,
    bootstrap_mean,
    clustered_mean,
    differential_failure,
    effective_questions,
    holm,
    length_adjusted,
    minimum_detectable,
    non_inferiority,
    power_of_t,
    questions_needed,
    sign_flip,
    sign_test,
    signed_rank,
    worst_case,
)

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Darwin's maize: crossed minus self-fertilised, eighths of an inch (Fisher, Design of Experiments, 1935)."""


def estimate(values, clusters=None):
    return clustered_mean(values, clusters, low=-100, high=100)


def by_matrices(values, clusters):
    """CR2 and its degrees of freedom as Imbens & Kolesar (2016) write them, with n x n matrices."""
    y = np.asarray(values, dtype=float)
    n = len(y)
    x = np.ones((n, 1))
    bread = np.linalg.inv(x.T @ x)
    residual = y - x @ (bread @ x.T @ y)
    members = [np.array([i for i, c in enumerate(clusters) if c == name]) for name in set(clusters)]
    hat = x @ bread @ x.T
    meat = np.zeros((1, 1))
    columns = []
    for rows in members:
        values_, vectors = np.linalg.eigh(np.eye(len(rows)) - hat[np.ix_(rows, rows)])
        root = vectors @ np.diag(values_**-0.5) @ vectors.T
        score = x[rows].T @ root @ residual[rows]
        meat += np.outer(score, score)
        columns.append((np.eye(n) - hat)[rows].T @ root @ x[rows] @ bread)
    pairs = [(residual[i], residual[j]) for rows in members for i in rows for j in rows if i != j]
    variance = float((residual**2).sum()) / (n - 1)
    rho = np.clip(np.mean([a * b for a, b in pairs]) / variance, 0, 1) if pairs else 0.0
    omega = np.eye(n) * (1 - rho)
    for rows in members:
        omega[np.ix_(rows, rows)] += rho
    g = np.hstack(columns)
    inner = g.T @ omega @ g
    df = np.trace(inner) ** 2 / np.trace(inner @ inner)
    return math.sqrt((bread @ meat @ bread).item()), float(df)


class TestClusteredMean:
    @given(
        st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 6)), min_size=3, max_size=40).filter(
            lambda rows: len({c for _, c in rows}) > 1 and len({v for v, _ in rows}) > 1
        )
    )
    def test_is_the_sandwich_by_matrices(self, rows):
        values, clusters = zip(*rows, strict=True)
        error, df = by_matrices(values, clusters)
        found = estimate(values, clusters)
        if found.standard_error is None:
            assert error == pytest.approx(0, abs=1e-6)
            return
        assert found.standard_error == pytest.approx(error, rel=1e-7)
        assert found.df == pytest.approx(df, rel=1e-7)
        reach = stats.t.ppf(0.975, df) * error
        assert found.ci95[1] - found.mean == pytest.approx(reach, rel=1e-6)

    @given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 10_000))
    def test_with_clusters_of_one_size_is_cr1_with_clusters_minus_one(self, groups, size, seed):
        values = np.random.default_rng(seed).normal(size=groups * size)
        found = estimate(values, np.repeat(np.arange(groups), size).tolist())
        sums = (values - values.mean()).reshape(groups, size).sum(axis=1)
        cr1 = math.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(values)
        assert found.standard_error == pytest.approx(cr1)
        assert found.df == pytest.approx(groups - 1)

    def test_darwins_maize(self):
        found = estimate(DARWIN)
        assert found.mean == pytest.approx(20.933, abs=1e-3)
        assert found.mean / found.standard_error == pytest.approx(2.148, abs=1e-3)
        assert found.p_value == pytest.approx(0.0497, abs=1e-4)

    def test_worked_by_hand(self):
        # mean 1, residuals -1 0 | 1 2 | -2, sums -1 3 -2; weights 1/(1 - 2/5), twice, and 1/(1 - 1/5)
        found = estimate([0, 1, 2, 3, -1], ["a", "a", "b", "b", "c"])
        assert found.standard_error == pytest.approx(math.sqrt(((1 + 9) / 0.6 + 4 / 0.8) / 25))

    def test_one_large_cluster_leaves_few_degrees_of_freedom(self):
        rng = np.random.default_rng(4)
        shared = np.repeat(rng.normal(size=31), [30] + [1] * 30)
        found = estimate(shared, np.repeat(np.arange(31), [30] + [1] * 30).tolist())
        assert found.df < 4


class TestBootstrap:
    def by_hand(self, values, clusters, seed=9, draws=20_000):
        """BCa by its definition (Efron & Tibshirani 1993, 14.3), drawing whole clusters."""
        groups = [[v for v, c in zip(values, clusters, strict=True) if c == k] for k in dict.fromkeys(clusters)]  # fmt: skip
        rng = np.random.default_rng(seed)
        sums, sizes = np.array([sum(g) for g in groups]), np.array([len(g) for g in groups])
        picks = rng.integers(0, len(groups), (draws, len(groups)))
        means = np.sort(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
        whole = sums.sum() / sizes.sum()
        below = ((means < whole).mean() + (means <= whole).mean()) / 2
        z0 = stats.norm.ppf(below)
        left = np.array([(sums.sum() - s) / (sizes.sum() - k) for s, k in zip(sums, sizes, strict=True)])  # fmt: skip
        u = left.mean() - left
        a = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
        ends = []
        for z in (-1.959964, 1.959964):
            ends.append(np.quantile(means, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
        return ends

    def test_agrees_with_its_definition(self):
        rng = np.random.default_rng(5)
        clusters = np.repeat(np.arange(25), rng.integers(1, 5, 25))
        values = rng.exponential(2, 25)[clusters] + rng.normal(0, 0.5, len(clusters))
        found = bootstrap_mean(values, clusters.tolist(), seed=1).ci95
        assert found == pytest.approx(self.by_hand(values, clusters), abs=0.06)
        naive = bootstrap_mean(values, seed=1).ci95
        assert found[1] - found[0] > 1.2 * (naive[1] - naive[0])

    def test_is_near_the_t_interval_where_both_hold(self):
        values = np.random.default_rng(6).normal(1, 2, 400)
        low, high = estimate(values).ci95
        assert bootstrap_mean(values, seed=3).ci95 == pytest.approx((low, high), abs=0.03)

    def test_the_seed_decides(self):
        values = np.random.default_rng(7).integers(-3, 5, 30)
        assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
        assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)

    @pytest.mark.parametrize(("values", "clusters"), [([1, 2], None), ([1.0] * 9, None), ([1, 2, 3, 4], [0, 0, 1, 1])])  # fmt: skip
    def test_says_why_there_is_none(self, values, clusters):
        found = bootstrap_mean(values, clusters, seed=0)
        assert found.ci95 is None
        assert found.note


class TestSignFlip:
    def test_fishers_own_example(self):
        # of the 32,768 ways 863 give a total as large as Darwin's, so 1,726 on both sides (Fisher 1935)
        found = sign_flip(DARWIN, seed=0, resamples=2**15)
        assert found.exact
        assert found.p_value == pytest.approx(1726 / 32768, abs=1e-12)

    def test_drawn_flips_come_near(self):
        found = sign_flip(DARWIN, seed=0)
        assert not found.exact
        assert found.p_value == pytest.approx(1726 / 32768, abs=0.01)

    def test_clusters_are_flipped_whole(self):
        values, clusters = [1, 2, 3, -1, 2, 2, 0], list("aabbccd")
        sums = [3, 2, 4, 0]
        ways = [sum(s * f for s, f in zip(sums, flips, strict=True)) for flips in itertools.product((1, -1), repeat=4)]  # fmt: skip
        known = sum(abs(w) >= 9 for w in ways) / 16
        assert sign_flip(values, clusters, seed=0).p_value == pytest.approx(known)

    def test_no_difference_at_all(self):
        assert sign_flip([0.0] * 9, seed=0).p_value == 1.0

    def test_one_cluster_alone_shows_nothing(self):
        assert sign_flip([0, 0, 3], seed=0).p_value == 1.0
        assert sign_flip([4], seed=0).p_value == 1.0
        assert signed_rank([4]).p_value == 1.0


class TestRanks:
    def test_darwins_maize(self):
        # T = 24, n = 15: p = 0.0413 by the exact distribution
        assert signed_rank(DARWIN).p_value == pytest.approx(0.04126, abs=1e-5)

    @pytest.mark.parametrize(
        "values", [[0, 0, 1, 2, -1, 3, 3, 4], [0, 1, -1, 2, 5, 5, 6, 0, -2, 4]]
    )
    def test_pratts_zeros_by_all_flips(self, values):
        ranks = stats.rankdata(np.abs(values)) * (np.array(values) != 0)
        seen = abs((ranks * np.sign(values)).sum())
        live = ranks[ranks > 0]
        ways = [abs((live * f).sum()) for f in itertools.product((1, -1), repeat=len(live))]
        known = np.mean([w >= seen - 1e-9 for w in ways])
        found = signed_rank(values)
        assert found.p_value == pytest.approx(known)
        by_scipy = stats.wilcoxon(values, zero_method="pratt", method=stats.PermutationMethod())
        assert found.p_value == pytest.approx(by_scipy.pvalue)
        assert (found.exact, found.zeros) == (True, values.count(0))

    def test_pratts_zeros_of_a_larger_sample(self):
        # normal, the variance of the signed rank sum being the sum of squared ranks that are left
        values = np.random.default_rng(12).integers(-2, 4, 60)
        ranks = (stats.rankdata(np.abs(values)) * np.sign(values))[values != 0]
        z = ranks.sum() / math.sqrt((ranks**2).sum())
        found = signed_rank(values)
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)))
        assert not found.exact

    def test_a_cluster_counts_once(self):
        assert signed_rank([1, 3, 5, 2, 2], list("aabcc")).n == 3
        assert sign_test([1, 3, -5, 2, -2, 2, 2], list("aabccde")).win == 3
        assert sign_test([1, 3, -5, 2, -2, 2, 2], list("aabccde")).tie == 1

    def test_sign_test_on_darwins_maize(self):
        found = sign_test(DARWIN)
        assert (found.win, found.loss) == (13, 2)
        assert found.p_value == pytest.approx(2 * (1 + 15 + 105) / 2**15)

    @pytest.mark.parametrize(
        ("win", "n", "interval"),
        [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (1, 29, (0.0061, 0.1718))],
    )
    def test_wilson_intervals_of_newcombe_1998(self, win, n, interval):
        found = sign_test([1] * win + [-1] * (n - win) + [0] * 7)
        assert found.ci95 == pytest.approx(interval, abs=1e-4)
        assert found.tie == 7

    def test_nothing_decided(self):
        assert sign_test([0, 0]).p_value is None
        assert signed_rank([0, 0]).p_value is None


class TestFamilies:
    def test_holm_as_r_has_it(self):
        # p.adjust(c(.03, .01, .05, .04, .02), "holm")
        found = holm({"a": 0.03, "b": 0.01, "c": 0.05, "d": 0.04, "e": 0.02})
        assert list(found.values()) == pytest.approx([0.09, 0.05, 0.09, 0.09, 0.08])

    def test_holm_leaves_out_what_was_not_tested(self):
        assert holm({"a": 0.03, "b": None}) == {"a": 0.03, "b": None}
        assert holm({"a": 0.6, "b": 0.7})["a"] == 1.0

    def test_non_inferiority_is_a_shifted_t_test(self):
        values = np.random.default_rng(8).normal(-0.1, 1, 50)
        found = non_inferiority(estimate(values), 0.5)
        assert found.p_value == pytest.approx(
            stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
        )
        assert found.holds is (found.p_value < 0.025)
        assert non_inferiority(estimate([1.0]), 0.5).holds is None

    def test_non_inferiority_at_the_edge(self):
        for shift in np.linspace(-1, 0.5, 40):
            found = non_inferiority(estimate(np.array([-1.0, 0, 1, 0.5, -0.5]) + shift), 0.5)
            assert found.holds is (found.p_value < 0.025)


class TestLength:
    def made(self, effect: float, per_doubling: float, n: int = 150, seed: int = 3):
        rng = np.random.default_rng(seed)
        base = rng.integers(20, 400, n)
        tuned = (base * rng.uniform(0.8, 5, n)).astype(int)
        gap = np.log1p(tuned) - np.log1p(base)
        return effect + per_doubling / math.log(2) * gap + rng.normal(0, 1, n), base, tuned, gap

    def test_is_the_least_squares_fit(self):
        y, base, tuned, gap = self.made(0.4, 0.7)
        found = length_adjusted(y, base, tuned, seed=0)
        slope, intercept = np.polyfit(gap, y, 1)
        assert found.difference == pytest.approx(intercept)
        assert found.per_doubling == pytest.approx(slope * math.log(2))

    def test_a_difference_that_is_length_alone_is_seen_through(self):
        y, base, tuned, _ = self.made(0.0, 1.0)
        assert estimate(y).ci95[0] > 0.5
        found = length_adjusted(y, base, tuned, seed=0)
        assert found.ci95[0] < 0 < found.ci95[1]
        assert found.per_doubling_ci95[0] > 0.5

    def test_the_interval_holds_the_uncertainty_of_the_slope(self):
        y, base, tuned, gap = self.made(0.4, 0.7)
        found = length_adjusted(y, base, tuned, seed=0)
        x = np.column_stack([np.ones_like(gap), gap])
        rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        error = math.sqrt(rest @ rest / (len(y) - 2) * np.linalg.inv(x.T @ x)[0, 0])
        assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * 1.96 * error, rel=0.15)

    def test_what_cannot_be_fitted_says_so(self):
        assert length_adjusted([1, 2, 3, 4], [9] * 4, [20] * 4, seed=0).difference is None
        assert length_adjusted([1, 2], [9, 9], [20, 30], seed=0).note == "too few questions"
        y, base, _, _ = self.made(0.4, 0.7)
        longer = base + np.arange(1, len(base) + 1)
        assert "outside what was seen" in length_adjusted(y, base, longer, seed=0).note
        with pytest.raises(ValueError, match="do not pair"):
            length_adjusted([1, 2], [9], [20, 30], seed=0)


def differences_mean(differences):
    return clustered_mean(differences, low=-9, high=9)


def bounds(base, tuned):
    return worst_case(Scores.of(base), Scores.of(tuned), differences_mean, low=1, high=10)


class TestMissing:
    def test_exact_mcnemar(self):
        base = [True] * 6 + [True] * 20 + [False] * 74
        tuned = [False] * 6 + [True] * 20 + [False] * 74
        found = differential_failure(base, tuned)
        assert (found.both, found.base_only, found.tuned_only) == (20, 6, 0)
        assert found.p_value == pytest.approx(2 / 2**6)
        # Fisher's test takes the arms for independent, and does not see it
        assert stats.fisher_exact([[26, 74], [20, 80]]).pvalue > 0.3

    def test_no_failure_is_no_difference(self):
        assert differential_failure([False] * 5, [False] * 5).p_value == 1.0

    def test_bounds_by_hand(self):
        # differences 2, 1; tuned missing beside 4: -3 to 6; base missing beside 7: -3 to 6; both: -9 to 9
        found = bounds([3, 5, 4, None, None], [5, 6, None, 7, None])
        assert found.lower == pytest.approx((2 + 1 - 3 - 3 - 9) / 5)
        assert found.upper == pytest.approx((2 + 1 + 6 + 6 + 9) / 5)
        assert found.ci95[0] < found.lower < found.upper < found.ci95[1]

    def test_with_nothing_missing_the_bounds_are_the_interval(self):
        base, tuned = [3, 5, 4, 6, 2], [5, 6, 4, 8, 3]
        found = bounds(base, tuned)
        assert found.lower == found.upper == pytest.approx(1.2)
        assert found.ci95 == pytest.approx(
            clustered_mean(np.subtract(tuned, base), low=-9, high=9).ci95
        )

    def test_of_an_answer_with_failed_repeats_these_alone_are_filled_in(self):
        # tuned: 8 of one repeat of two, so 4.5 to 9; base whole: differences -0.5 to 4, and 1
        base, tuned = Scores.of([5, 5]), Scores.of([8, 6], [0.5, 0.0])
        found = worst_case(base, tuned, differences_mean, low=1, high=10)
        assert (found.lower, found.upper) == pytest.approx(((-0.5 + 1) / 2, (4 + 1) / 2))

    @given(
        st.lists(
            st.tuples(st.integers(1, 10), st.integers(1, 10), st.booleans(), st.booleans()),
            min_size=2,
            max_size=30,
        )
    )
    def test_the_truth_is_always_within(self, rows):
        base = [None if lost else b for b, _, lost, _ in rows]
        tuned = [None if lost else t for _, t, _, lost in rows]
        found = bounds(base, tuned)
        truth = np.mean([t - b for b, t, _, _ in rows])
        assert found.lower - 1e-9 <= truth <= found.upper + 1e-9


class TestPower:
    @pytest.mark.parametrize(("d", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
    def test_questions_needed_are_those_of_the_textbook(self, d, n):
        # matched pairs, two-sided 5 %, power 80 %: the table of G*Power's manual
        assert questions_needed(d, 1.0) == n
        assert questions_needed(2 * d, 2.0) == n

    @pytest.mark.parametrize(("n", "known"), [(80, 0.63), (350, 0.30)])
    def test_about_2_8_standard_errors(self, n, known):
        found = minimum_detectable(2 / math.sqrt(n), n - 1)
        assert found == pytest.approx(known, abs=0.011)
        assert questions_needed(found, 2.0) in (n, n + 1)

    def test_power_is_what_happens(self):
        rng = np.random.default_rng(11)
        draws = rng.normal(0.7, 2, (4000, 62))
        noticed = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
        assert power_of_t(0.7, 2 / math.sqrt(62), 61) == pytest.approx(noticed, abs=0.02)

    def test_no_difference_is_noticed_as_often_as_alpha(self):
        assert power_of_t(0.0, 1.0, 30) == pytest.approx(0.05)
        assert power_of_t(1e9, 1.0, 30) == 1.0

    @pytest.mark.parametrize("df", [1.0, 1.4, 3.7, 20, 300, 5000, 60_000])
    def test_the_smallest_difference_is_noticed_four_times_in_five(self, df):
        found = minimum_detectable(0.37, df)
        assert power_of_t(found, 0.37, df) == pytest.approx(0.8)
        assert power_of_t(-found, 0.37, df) == pytest.approx(0.8)

    @pytest.mark.parametrize("bad", [(0, 1), (1, 0), (-1, 1)])
    def test_nonsense_is_refused(self, bad):
        with pytest.raises(ValueError, match="above zero"):
            questions_needed(*bad)

    def test_near_duplicates_are_worth_less(self):
        assert effective_questions([1] * 40) == 40
        assert effective_questions([3] * 20) == 20
        assert effective_questions([30] + [1] * 30) == pytest.approx(3600 / 930)
