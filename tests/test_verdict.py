"""The paired comparison, the rule, and what missing judgements do to it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gemma_lora.statistics import Scores, clustered_mean, sign_flip
from gemma_lora.verdict import (
    FEWEST,
    FEWEST_EQUIVALENT,
    MARGIN,
    decide,
    missing_judgements,
    paired_difference,
)


def estimate(values, clusters=None):
    return clustered_mean(values, clusters, low=-9, high=9)


class TestPairedDifference:
    def test_single_questions_give_the_paired_t_test(self):
        rng = np.random.default_rng(1)
        base, tuned = rng.integers(1, 11, 40), rng.integers(1, 11, 40)
        found = paired_difference(base, tuned).difference
        known = stats.ttest_rel(tuned, base)
        low, high = known.confidence_interval(0.95)
        assert found.p_value == pytest.approx(known.pvalue, rel=1e-10)
        assert found.ci95 == pytest.approx((low, high), rel=1e-10)
        assert (found.n, found.clusters) == (40, 40)

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
        assert decide(found.ci95, found.clusters) == "inconclusive"

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
        assert decide(many.ci95, many.clusters) == "equivalent"
        assert decide(estimate([2.0] * 60).ci95, 60) == "better"

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
        assert decide(ci95, 60) == word

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_handful_of_questions_decides_nothing_however_narrow_its_interval(self, sign):
        """Three differences of nearly 3: t is sure of itself; five alike can be chance (2 / 2^5 > 5 %)."""
        for values in ([3.0, 3.1, 3.0], [3.0, 3.1, 3.0, 3.0, 3.1]):
            found = estimate([sign * value for value in values])
            assert found.p_value < 0.001
            assert decide(found.ci95, found.clusters) == "inconclusive"
        nearly_equal = estimate([0.0, 0.0, 0.0, 0.1])
        assert -MARGIN < nearly_equal.ci95[0] < nearly_equal.ci95[1] < MARGIN
        assert decide(nearly_equal.ci95, nearly_equal.clusters) == "inconclusive"

    def test_the_least_that_may_decide_is_what_the_exact_test_can_confirm(self):
        values = [3.0, 3.1, 3.0, 3.0, 3.1, 3.0]
        assert sign_flip(values, seed=0).p_value < 0.05 <= sign_flip(values[:5], seed=0).p_value
        assert len(values) == FEWEST
        assert decide(estimate(values).ci95, FEWEST) == "better"
        groups = [1, 1, 2, 3, 4, 5]  # six questions, but two of them near-duplicates
        found = estimate(values, groups)
        assert decide(found.ci95, found.clusters) == "inconclusive"

    def test_equivalent_takes_more(self):
        """Seven ties and one question a point better: what an eighth of unseen questions does is unknown."""
        few = estimate([0.0] * 7 + [1.0])
        assert -MARGIN < few.ci95[0] < few.ci95[1] < MARGIN
        assert decide(few.ci95, few.clusters) == "inconclusive"
        assert decide((-0.1, 0.1), FEWEST_EQUIVALENT - 1) == "inconclusive"
        assert decide((-0.1, 0.1), FEWEST_EQUIVALENT) == "equivalent"
        assert decide((0.1, 0.2), FEWEST) == "better"

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


class TestMissingJudgements:
    """40 questions, tuned about one point better; then some judgements fail."""

    base = [4, 5, 6, 5] * 10
    tuned = [5, 6, 6, 7] * 10

    def lose(self, base: int = 0, tuned: int = 0):
        return missing_judgements(
            Scores.of([None if i < base else v for i, v in enumerate(self.base)]),
            Scores.of([None if i < tuned else v for i, v in enumerate(self.tuned)]),
        )

    def test_nothing_missing_changes_nothing(self):
        found = self.lose()
        assert (found.lost, found.decisive, found.word) == (0, False, "better")
        assert found.guard("better") == "better"

    def test_up_to_five_percent_alike_are_only_reported(self):
        found = self.lose(base=2, tuned=2)
        assert (found.share, found.decisive) == (0.05, False)
        assert found.bounds.lower < found.bounds.upper
        assert found.guard("better") == "better"

    def test_more_must_survive_the_worst_case(self):
        found = self.lose(base=6, tuned=6)
        assert found.decisive
        assert found.bounds.ci95[0] < 0
        assert found.guard("better") == "inconclusive"

    def test_a_large_difference_survives_it(self):
        found = missing_judgements(
            Scores.of([2] * 36 + [3, 2, 2, 2]), Scores.of([8] * 36 + [9, None, None, None])
        )
        assert found.decisive
        assert found.guard("better") == "better"

    def test_unequal_failure_alone_is_enough(self):
        base, tuned = [5.0, 6, 4, 5] * 60, [5.1, 6, 4.2, 5] * 60
        lost = missing_judgements(Scores.of(base), Scores.of([None] * 7 + tuned[7:]))
        assert lost.share < 0.05
        assert lost.failures.p_value == pytest.approx(2 / 2**7)
        assert lost.decisive
        assert lost.word == "equivalent"  # half a point at the most, either way
        assert lost.guard("better") == "inconclusive"
        equal = missing_judgements(
            Scores.of([None] * 4 + base[4:]), Scores.of(base[:4] + [None] * 3 + tuned[7:])
        )
        assert not equal.decisive

    def test_repeats_do_not_hide_failures(self):
        """Each tuned answer keeps two judgements of three: no question is lost, and all are in doubt."""
        whole = Scores.of(self.tuned)
        found = missing_judgements(Scores.of(self.base), Scores.of(self.tuned, [1 / 3] * 40))
        assert (found.lost, found.touched, found.share) == (0, 40, 1.0)
        assert found.failures.tuned_only == 40
        assert found.decisive
        assert found.guard("better") == "inconclusive"
        # one repeat of one question: too little to matter, and only reported
        one = missing_judgements(Scores.of(self.base), Scores.of(self.tuned, [1 / 3] + [0] * 39))
        assert not one.decisive
        assert one.bounds.lower < np.mean(whole.values) - np.mean(self.base) < one.bounds.upper

    def test_every_word_needs_the_bounds(self):
        found = self.lose(tuned=20)
        assert {found.guard(w) for w in ("better", "worse", "equivalent")} == {"inconclusive"}
