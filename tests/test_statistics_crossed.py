"""The mean over questions and training seeds: equal to what the textbooks compute, and it keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gemma_lora.statistics import (
    SeedError,
    clustered_mean,
    crossed_mean,
    minimum_detectable,
    with_seeds,
)

SPAN = {"low": -9.0, "high": 9.0}


def draw(rng, questions, seeds, *, question=1.2, seed=0.3, rest=1.0, mean=0.0, size=1):
    """A table with these standard deviations; near-duplicates in clusters of `size` share 70 %."""

    def shared(shape):
        each = rng.standard_normal((questions // size, *shape[1:])).repeat(size, axis=0)
        return np.sqrt(0.7) * each + np.sqrt(0.3) * rng.standard_normal(shape)

    part = shared if size > 1 else rng.standard_normal
    return (
        mean
        + question * part((questions, 1))
        + seed * rng.standard_normal(seeds)
        + rest * part((questions, seeds))
    )


def test_components_are_those_of_the_analysis_of_variance():
    """Searle, Casella & McCulloch (1992), ch. 4: mean squares of rows, columns and interaction."""
    table = draw(np.random.default_rng(3), 40, 4)
    n, s = table.shape
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    ms_rows = s * ((rows - mean) ** 2).sum() / (n - 1)
    ms_columns = n * ((columns - mean) ** 2).sum() / (s - 1)
    ms_rest = ((table - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (s - 1))
    found = crossed_mean(table, **SPAN).components
    assert found.residual == pytest.approx(ms_rest)
    assert found.question == pytest.approx((ms_rows - ms_rest) / s)
    assert found.seed == pytest.approx((ms_columns - ms_rest) / n)


def test_the_two_errors_are_those_of_two_one_sample_t_tests():
    """F1 over the questions' means, F2 over the seeds' means: the parts of Clark's min F'."""
    table = draw(np.random.default_rng(4), 30, 5, mean=0.5)
    found = crossed_mean(table, **SPAN)
    f1 = stats.ttest_1samp(table.mean(axis=1), 0).statistic ** 2
    f2 = stats.ttest_1samp(table.mean(axis=0), 0).statistic ** 2
    assert found.estimate.standard_error is not None
    total = found.estimate.standard_error**2
    assert found.estimate.mean**2 / total == pytest.approx(f1 * f2 / (f1 + f2))
    assert found.seed_share == pytest.approx(1 / f2 / (1 / f1 + 1 / f2))


def test_the_interval_adds_the_squares_of_two_intervals():
    table = draw(np.random.default_rng(5), 30, 3)
    found = crossed_mean(table, **SPAN)
    own = stats.ttest_1samp(table.mean(axis=1), 0).confidence_interval(0.95)
    seeds = stats.ttest_1samp(table.mean(axis=0), 0).confidence_interval(0.95)
    reach = np.hypot((own.high - own.low) / 2, (seeds.high - seeds.low) / 2)
    assert found.estimate.ci95 == pytest.approx((table.mean() - reach, table.mean() + reach))
    assert found.fixed.ci95 == pytest.approx((own.low, own.high))


@pytest.mark.parametrize("mean", [0.3, 0.9, -2.0])
def test_p_is_the_level_at_which_the_interval_ends_at_zero(mean):
    table = draw(np.random.default_rng(6), 40, 4, mean=mean)
    found = crossed_mean(table, **SPAN)
    p, distance = found.estimate.p_value, abs(found.estimate.mean)
    assert p is not None
    assert found.fixed.standard_error is not None
    reach = np.hypot(
        stats.t.ppf(1 - p / 2, 39) * found.fixed.standard_error,
        stats.t.ppf(1 - p / 2, 3) * found.seed_error.standard_error,
    )
    assert reach == pytest.approx(distance)
    assert found.estimate.ci95 is not None
    assert (p < 0.05) == (found.estimate.ci95[0] > 0 or found.estimate.ci95[1] < 0)


def test_clusters_are_respected_for_questions_and_for_seeds():
    """Each question three times says no more than once: the same interval, the same components of the seed."""
    table = draw(np.random.default_rng(7), 20, 3)
    once = crossed_mean(table, **SPAN)
    names = [number for number in range(20) for _ in range(3)]
    thrice = crossed_mean(table.repeat(3, axis=0), names, **SPAN)
    assert thrice.estimate.ci95 == pytest.approx(once.estimate.ci95)
    assert thrice.components.seed == pytest.approx(once.components.seed)
    assert thrice.estimate.clusters == 20


def test_seeds_that_do_not_differ_leave_the_interval_of_the_questions():
    rows = np.random.default_rng(8).standard_normal(30)
    found = crossed_mean(np.stack([rows, rows, rows], axis=1), **SPAN)
    assert found.estimate == clustered_mean(rows, **SPAN)
    assert found.components.seed == 0
    assert found.components.residual == pytest.approx(0)


def test_without_an_interval_over_questions_there_is_none_over_both():
    one_cluster = crossed_mean([[1.0, 2.0], [2.0, 1.5]], ["a", "a"], **SPAN)
    assert one_cluster.estimate.ci95 is None
    assert one_cluster.estimate.p_value is None
    no_spread = crossed_mean([[1.0, 2.0], [1.0, 2.0]], **SPAN)
    own = no_spread.fixed.ci95
    assert own is not None
    assert no_spread.estimate.ci95 is not None
    assert no_spread.estimate.ci95[0] < own[0] < own[1] < no_spread.estimate.ci95[1]
    assert no_spread.estimate.p_value is None
    with pytest.raises(ValueError, match="two seeds"):
        crossed_mean([[1.0], [2.0]], **SPAN)


def test_two_recipes_bring_two_errors():
    fixed = clustered_mean(np.random.default_rng(9).standard_normal(50), **SPAN)
    assert fixed.ci95 is not None
    both = with_seeds(fixed, [SeedError(0.1, 2), SeedError(0.2, 4)]).ci95
    assert both is not None
    reach = stats.t.ppf(0.975, [2, 4]) * (0.1, 0.2)
    expected = np.sqrt((fixed.mean - fixed.ci95[0]) ** 2 + (reach**2).sum())
    assert fixed.mean - both[0] == pytest.approx(expected)


@pytest.mark.full
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("deviation", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("size", [1, 3])
def test_it_holds_the_recipe_at_least_as_often_as_promised(seeds, deviation, size):
    """2,000 tables each: two standard errors are 1 %. The interval of the checkpoints alone falls short."""
    rng = np.random.default_rng([seeds, int(100 * deviation), size])
    names = [number // size for number in range(60)]
    held = alone = 0
    for _ in range(2_000):
        found = crossed_mean(draw(rng, 60, seeds, seed=deviation, size=size), names, **SPAN)
        ends, own = found.estimate.ci95, found.fixed.ci95
        assert ends is not None
        assert own is not None
        held += ends[0] <= 0 <= ends[1]
        alone += own[0] <= 0 <= own[1]
    assert held / 2_000 >= 0.94
    if deviation >= 0.3 and size == 1:
        assert alone / 2_000 < 0.93


def test_what_is_noticed_four_times_in_five():
    """Where the seeds do not differ at all it is the t-test's; else a true difference of that size is noticed at
    least so often, whatever of both is larger."""
    same = np.repeat(np.random.default_rng(6).standard_normal((40, 1)), 3, axis=1)
    found = crossed_mean(same, **SPAN)
    own, df = found.fixed.standard_error, found.fixed.df
    assert own is not None
    assert df is not None
    assert found.minimum_detectable == pytest.approx(minimum_detectable(own, df))
    rng = np.random.default_rng(7)
    for seed, questions in ((0.05, 60), (0.3, 60), (0.3, 200)):
        # what such a sample notices, from the true errors
        errors = [np.sqrt((1.2**2 + 1 / 3) / questions), np.sqrt((seed**2 + 1 / questions) / 3)]
        size = np.hypot(*map(minimum_detectable, errors, (questions - 1, 2)))
        intervals = (
            crossed_mean(draw(rng, questions, 3, seed=seed, mean=size), **SPAN).estimate.ci95
            for _ in range(400)
        )
        seen = np.mean([ci95 is not None and ci95[0] > 0 for ci95 in intervals])
        assert 0.76 <= seen <= 0.95, (seed, questions, seen)
