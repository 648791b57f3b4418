"""Coefficients of agreement: published examples, independent implementations, honest intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemma_lora.agreement import (
    Bootstrap,
    Figure,
    accuracy,
    best_threshold,
    cohen_kappa,
    kendall_tau,
    krippendorff_alpha,
    preference,
    quadratic_kappa,
    roc_auc,
    signed_bias,
)

FAST = Bootstrap(resamples=200)
N = None
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section D: 4 observers, 12 units
KRIPPENDORFF = list(
    zip(
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
        strict=True,
    )
)
# Cohen (1968), table 1: shares of 200 patients by two judges, and the disagreement of each pair
COHEN = [[44, 7, 9], [5, 20, 5], [1, 3, 6]]
COHEN_WEIGHTS = [[0, 1, 3], [1, 0, 6], [3, 6, 0]]


def from_table(table: list[list[int]], times: int = 1) -> tuple[list[int], list[int]]:
    pairs = [
        (i, j)
        for i, row in enumerate(table)
        for j, count in enumerate(row)
        for _ in range(times * count)
    ]
    return [i for i, _ in pairs], [j for _, j in pairs]


class TestPublishedExamples:
    @pytest.mark.parametrize(
        ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
    )
    def test_krippendorff_2011(self, level, expected) -> None:
        found = krippendorff_alpha(KRIPPENDORFF, level, bootstrap=FAST)
        assert found.value == pytest.approx(expected, abs=5e-4)
        assert found.n == 11, "the unit with one rating says nothing"

    def test_krippendorff_2011_binary_without_gaps(self) -> None:
        meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
        owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
        pairs = list(zip(meg, owen, strict=True))
        assert krippendorff_alpha(pairs, "nominal", bootstrap=FAST).value == pytest.approx(
            0.095, abs=5e-4
        )

    def test_cohen_1968(self) -> None:
        first, second = from_table(COHEN, times=2)
        plain = cohen_kappa(first, second, bootstrap=FAST)
        weights = {(i, j): COHEN_WEIGHTS[i][j] for i in range(3) for j in range(3)}
        weighted = cohen_kappa(first, second, disagreement=weights, bootstrap=FAST)
        assert plain.value == pytest.approx(0.492, abs=5e-4)
        assert weighted.value == pytest.approx(0.348, abs=5e-4)

    def test_kappa_of_a_two_by_two_table(self) -> None:
        # the usual textbook table: 20 yes-yes, 15 no-no, 5 and 10 apart: (0.7 - 0.5) / (1 - 0.5)
        first, second = from_table([[20, 5], [10, 15]])
        assert cohen_kappa(first, second, bootstrap=FAST).value == pytest.approx(0.4)


# ---------------------------------------------------------------------- independent implementations

GRADES = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=2, max_size=30)


def value(figure: Figure) -> float:
    return math.nan if figure.value is None else figure.value


def same(found: Figure, expected: float) -> None:
    assert value(found) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def weighted_by_counting(pairs, weight) -> float:
    n = len(pairs)
    observed = sum(weight(a, b) for a, b in pairs) / n
    expected = sum(weight(a, b) for a, _ in pairs for _, b in pairs) / n**2
    return 1 - observed / expected if expected else math.nan


def alpha_by_coincidences(ratings, metric) -> float:
    """The coincidence matrix of Krippendorff's paper, cell by cell."""
    values = sorted({v for row in ratings for v in row if v is not None})
    matrix = dict.fromkeys(itertools.product(values, repeat=2), 0.0)
    for row in ratings:
        given = [v for v in row if v is not None]
        for x, y in itertools.permutations(range(len(given)), 2):
            matrix[given[x], given[y]] += 1 / (len(given) - 1)
    totals = {v: sum(matrix[v, w] for w in values) for v in values}
    n = sum(totals.values())

    def distance(c, k) -> float:
        if metric == "nominal":
            return float(c != k)
        if metric == "interval":
            return float(c - k) ** 2
        between = [g for g in values if min(c, k) <= g <= max(c, k)]
        return (sum(totals[g] for g in between) - (totals[c] + totals[k]) / 2) ** 2

    observed = sum(matrix[c, k] * distance(c, k) for c, k in matrix)
    expected = sum(totals[c] * totals[k] * distance(c, k) for c, k in matrix)
    return 1 - (n - 1) * observed / expected if expected else math.nan


class TestAgainstCounting:
    @settings(max_examples=60, deadline=None)
    @given(GRADES)
    def test_kappas(self, pairs) -> None:
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        same(
            cohen_kappa(first, second, bootstrap=Bootstrap(resamples=10)),
            weighted_by_counting(pairs, lambda a, b: float(a != b)),
        )
        squared = weighted_by_counting(pairs, lambda a, b: float(a - b) ** 2)
        same(quadratic_kappa(first, second, bootstrap=Bootstrap(resamples=10)), squared)
        table = {(a, b): float(a - b) ** 2 for a in range(1, 11) for b in range(1, 11)}
        found = cohen_kappa(first, second, disagreement=table, bootstrap=Bootstrap(resamples=10))
        same(found, squared)

    @settings(max_examples=60, deadline=None)
    @given(GRADES)
    def test_kendall(self, pairs) -> None:
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        sign = [
            (np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(pairs, 2)
        ]
        x, y = sum(s != 0 for s, _ in sign), sum(t != 0 for _, t in sign)
        expected = sum(s * t for s, t in sign) / math.sqrt(x * y) if x and y else math.nan
        same(kendall_tau(first, second, bootstrap=Bootstrap(resamples=10)), expected)

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(
            st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=3, max_size=3),
            min_size=1,
            max_size=15,
        ),
        st.sampled_from(["nominal", "ordinal", "interval"]),
    )
    def test_alpha(self, ratings, level) -> None:
        kept = [row for row in ratings if sum(v is not None for v in row) >= 2]
        expected = alpha_by_coincidences(kept, level) if kept else math.nan
        same(krippendorff_alpha(ratings, level, bootstrap=Bootstrap(resamples=10)), expected)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2)), min_size=1))
    def test_scores_against_a_verdict(self, rows) -> None:
        scores, right, groups = ([row[k] for row in rows] for k in range(3))
        few = Bootstrap(resamples=10)

        def won(pairs) -> float:
            pairs = list(pairs)
            found = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
            return sum(found) / len(found) if found else math.nan

        both = list(itertools.product(rows, repeat=2))
        same(
            roc_auc(scores, right, bootstrap=few),
            won((a[0], b[0]) for a, b in both if a[1] and not b[1]),
        )
        inside = ((a[0], b[0]) for a, b in both if a[1] and not b[1] and a[2] == b[2])
        same(preference(scores, right, groups, bootstrap=few), won(inside))

        def hits(cut: float) -> int:
            return sum((s >= cut) == r for s, r in zip(scores, right, strict=True))

        cut = best_threshold(scores, right)
        assert hits(cut) == max(map(hits, [*scores, math.inf]))
        found = accuracy([s >= cut for s in scores], right, bootstrap=few)
        same(found, hits(cut) / len(rows))
        same(signed_bias(scores, right, bootstrap=few), sum(s - r for s, r, _ in rows) / len(rows))
        assert groups == [row[2] for row in rows]


# ---------------------------------------------------------------------- intervals


def noisy(n: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(6, 2, n)
    return tuple(np.clip(np.round(truth + rng.normal(0, noise, n)), 1, 10) for _ in range(2))  # type: ignore[return-value]


def test_an_interval_holds_the_estimate_is_seeded_and_shrinks_with_more_items() -> None:
    small, large = (quadratic_kappa(*noisy(n), bootstrap=FAST) for n in (40, 640))
    for found in (small, large):
        assert found.ci95 is not None
        assert found.value is not None
        assert found.ci95[0] < found.value < found.ci95[1]
        assert found.reason is None
    width = [f.ci95[1] - f.ci95[0] for f in (small, large) if f.ci95]
    assert 2.5 < width[0] / width[1] < 6.5, "about the square root of 16"
    assert quadratic_kappa(*noisy(40), bootstrap=FAST) == small
    other = quadratic_kappa(*noisy(40), bootstrap=Bootstrap(resamples=200, seed=2))
    assert other.ci95 != small.ci95
    assert other.value == small.value


def test_repeated_items_are_no_further_evidence() -> None:
    first, second = noisy(50)
    alone = quadratic_kappa(first, second, bootstrap=Bootstrap())
    copies = [np.repeat(x, 5) for x in (first, second)]
    by_item = quadratic_kappa(
        *copies, bootstrap=Bootstrap(clusters=np.repeat(range(50), 5).tolist())
    )
    naive = quadratic_kappa(*copies, bootstrap=Bootstrap())
    assert by_item.ci95 == pytest.approx(alone.ci95), "the same draws of whole clusters"
    assert by_item.clusters == 50
    assert by_item.n == 250
    assert naive.ci95 is not None
    assert alone.ci95 is not None
    assert naive.ci95[1] - naive.ci95[0] < 0.6 * (alone.ci95[1] - alone.ci95[0])


def test_clusters_of_unequal_size_stay_whole() -> None:
    """Each cluster holds its own constant gap, so a resampled mean is made of whole clusters only."""
    sizes = [1, 4, 2, 7, 3, 1, 5, 2, 6, 1, 3, 4]
    names = [i for i, size in enumerate(sizes) for _ in range(size)]
    gap = [float(i) for i in names]
    found = signed_bias(gap, [0.0] * len(gap), bootstrap=Bootstrap(names, 500))
    shuffled = np.random.default_rng(3).permutation(len(gap))
    again = signed_bias(
        np.array(gap)[shuffled],
        [0.0] * len(gap),
        bootstrap=Bootstrap([names[i] for i in shuffled], 500),
    )
    assert found.clusters == again.clusters == 12
    assert found.value == pytest.approx(again.value)
    assert found.ci95 is not None
    assert again.ci95 is not None
    # the order of clusters changes the draws, not what is drawn
    assert found.ci95 == pytest.approx(again.ci95, abs=1.0)
    assert found.ci95[1] - found.ci95[0] > 2.5, "12 clusters, not 39 items"


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(5).normal(0.3, 1.0, 400)
    found = signed_bias(values, np.zeros(400), bootstrap=Bootstrap(resamples=4000))
    reach = 1.96 * values.std(ddof=1) / 20
    assert found.ci95 == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.012)


def test_the_interval_of_a_skewed_sample_is_bca_and_not_the_percentiles() -> None:
    """Efron & Tibshirani (1993), 14.3, step by step with other draws."""
    values = np.random.default_rng(8).exponential(1.0, 25) ** 1.5
    found = signed_bias(values, np.zeros(25), bootstrap=Bootstrap(resamples=20_000)).ci95
    draws = np.random.default_rng(9).choice(values, (20_000, 25)).mean(axis=1)
    bias = stats.norm.ppf((draws < values.mean()).mean())
    gaps = -np.array([np.delete(values, i).mean() - values.mean() for i in range(25)])
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    corrected = np.quantile(draws, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    percentile = np.quantile(draws, [0.025, 0.975])
    assert found == pytest.approx(corrected, abs=0.03)
    assert abs(corrected - percentile).max() > 0.1


@pytest.mark.parametrize(
    ("figure", "has_value", "why"),
    [
        (cohen_kappa(["a"] * 20, ["a"] * 20), False, "one category only"),
        (quadratic_kappa([5] * 20, [5] * 20), False, "are equal"),
        (kendall_tau([5] * 20, list(range(20))), False, "one rating only"),
        (roc_auc(list(range(20)), [True] * 20), False, "same verdict"),
        (preference([1, 2], [True, True], ["a", "a"]), False, "no group has both"),
        (krippendorff_alpha([[3, 3]] * 20, "ordinal"), False, "are equal"),
        (krippendorff_alpha([[3, None]] * 20, "nominal"), False, "no item has two ratings"),
        (accuracy([1] * 20, [1] * 20), True, "every resample gives the same"),
        (cohen_kappa(["a", "b"] * 40, ["a", "b"] * 40), True, "every resample gives the same"),
        (quadratic_kappa([1, 5, 9], [2, 5, 8]), True, "3 clusters"),
        (signed_bias(list(range(40)), [0] * 40, bootstrap=Bootstrap(["q"] * 40)), True, "1 clusters"),
        (cohen_kappa(["a"] * 20 + ["b"], ["a"] * 19 + ["b", "b"]), True, "resamples both raters used"),
    ],
)  # fmt: skip
def test_where_there_is_no_number_there_is_a_reason(
    figure: Figure, has_value: bool, why: str
) -> None:
    assert (figure.value is not None) == has_value
    assert figure.ci95 is None
    assert why in (figure.reason or "")


@pytest.mark.parametrize(
    "call",
    [
        lambda: cohen_kappa([1, 2], [1]),
        lambda: cohen_kappa([], []),
        lambda: quadratic_kappa([1, float("nan")], [1, 2]),
        lambda: signed_bias([1, 2], [1, float("inf")]),
        lambda: accuracy([1, 2], [1, 2], bootstrap=Bootstrap(["a"])),
        lambda: cohen_kappa([1, 2], [2, 1], disagreement={(1, 2): 1.0}),
        lambda: krippendorff_alpha([[1, float("inf")]], "interval"),
        lambda: krippendorff_alpha([], "interval"),
        lambda: krippendorff_alpha([[1, 1]] * 2, "interval", bootstrap=Bootstrap(["a"])),
    ],
)
def test_what_is_no_rating_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r"pair|no ratings|finite|disagreement|rows"):
        call()


@pytest.mark.full
@pytest.mark.parametrize("questions", [30, 100])
def test_intervals_cover_what_they_promise(questions: int) -> None:
    """Five graded answers a question that share the question's difficulty; nominal 95 %."""
    rng = np.random.default_rng(17)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hard = np.repeat(rng.normal(0, 1, count), 5)
        truth = hard + rng.normal(0, 1, 5 * count)
        first, second = (
            np.clip(np.round(6 + 1.3 * (truth + rng.normal(0, 0.7, 5 * count))), 1, 10)
            for _ in range(2)
        )
        return first, second, np.repeat(np.arange(count), 5)

    first, second, _ = draw(200_000)
    expected = quadratic_kappa(first, second, bootstrap=Bootstrap([0] * len(first))).value
    assert expected is not None
    inside, rounds = 0, 400
    for seed in range(rounds):
        a, b, names = draw(questions)
        found = quadratic_kappa(a, b, bootstrap=Bootstrap(names.tolist(), 400, seed))
        assert found.ci95 is not None
        inside += found.ci95[0] <= expected <= found.ci95[1]
    # the simulation's own error is 1.1 points; small samples of clusters are a little short
    assert 0.90 <= inside / rounds <= 0.975
