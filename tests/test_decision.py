"""From a run folder's judgements to verdict.json: pairing, counting, caveats."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from statistics import fmean

import pytest
from support.made_run import SLUG, make_config, make_run

from gemma_lora.console import Console
from gemma_lora.decision import decide, foresee
from gemma_lora.decision.caveats import too_few
from gemma_lora.errors import DataError, JudgeError
from gemma_lora.records import DIMENSIONS, Answer, Example, Judgement, Message
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json, write_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())


def row(number: int, cluster: str | None = None) -> Example:
    return Example(
        id=f"q{number}",
        messages=(
            Message(role="user", content=f"question {number}"),
            Message(role="assistant", content=f"reference {number}"),
        ),
        cluster=cluster or f"c{number}",
        line=number + 2,
    )


def answer(
    example: Example, text: str = "an answer of usual length", stopped: str = "end"
) -> Answer:
    return Answer(
        id=example.id,
        messages=example.prompt,
        reference=example.reference,
        answer=text,
        tokens=5,
        stopped_by=stopped,
        cluster=example.cluster,
    )


def word(
    name: str, arm: str, overall: float | None, repeat: int = 0, reason: str | None = None
) -> Judgement:
    scores = {**dict.fromkeys(DIMENSIONS, overall), "fluency": None}
    return Judgement(
        id=name, arm=arm, repeat=repeat, scores=scores, overall=overall, reasoning="", unscored_reason=reason
    )  # fmt: skip


class Made:
    """A run folder of plain rows, all parts of which a test may set."""

    def __init__(self, folder: Path, count: int = 40) -> None:
        self.run = RunDir(folder)
        self.rows = [row(i) for i in range(count)]
        self.answers = {arm: [answer(r) for r in self.rows] for arm in ("base", "tuned")}
        self.words = [
            word(r.id, arm, level + (i % 3))
            for i, r in enumerate(self.rows)
            for arm, level in (("base", 3.0), ("tuned", 5.0 + i % 2))
        ]
        self.config = make_config()

    def decide(self) -> dict:
        write_jsonl(self.run.test_rows, self.rows)
        for arm, rows in self.answers.items():
            write_jsonl(self.run.answers(arm), rows)
        write_jsonl(self.run.judgements("j") / "judgements.jsonl", self.words)
        return decide(self.config, self.run, QUIET, judge_slug="j")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_fields_are_those_of_the_contract(tmp_path):
    run, config = make_run(tmp_path)
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    assert verdict == read_json(run.judgements(SLUG) / "verdict.json")
    contract = "schema_version verdict primary dimensions arms win_tie_loss unscored judge forgetting warnings"
    assert set(contract.split()) <= set(verdict)
    fields = "dimension base_mean tuned_mean difference ci95 p_value n unit clusters method margin"
    assert set(fields.split()) <= set(verdict["primary"])
    assert verdict["primary"]["dimension"] == "overall"
    assert set(verdict["dimensions"]) == set(DIMENSIONS)
    assert {"name", "kind", "is_llm", "snapshot"} <= set(verdict["judge"])
    assert verdict["forgetting"]["verdict"] == "unclear"
    assert verdict["overfitting"]["kept_step"] == 45
    assert verdict["verdict"] == "better"
    assert not run.verdict.exists()  # the copy at the top is the report's
    json.dumps(verdict, allow_nan=False)


def test_means_are_those_of_the_paired_questions(tmp_path):
    run, config = make_run(tmp_path)
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    words = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    by_arm = {
        arm: {w.id: w.overall for w in words if w.arm == arm and w.overall is not None}
        for arm in ("base", "tuned")
    }
    both = by_arm["base"].keys() & by_arm["tuned"].keys()
    assert verdict["primary"]["n"] == len(both) == 77
    assert verdict["pairs_lost"] == 3
    assert verdict["primary"]["tuned_mean"] == pytest.approx(
        fmean(by_arm["tuned"][i] for i in both), abs=1e-6
    )
    assert verdict["primary"]["difference"] == pytest.approx(
        fmean(by_arm["tuned"][i] - by_arm["base"][i] for i in both), abs=1e-6
    )
    assert verdict["unscored"] == {"base": 1, "tuned": 2}
    assert sum(verdict["win_tie_loss"].values()) == 77


def test_a_failed_judgement_is_missing_and_not_a_low_score(made: Made):
    before = made.decide()["primary"]
    made.words = [
        w if (w.id, w.arm) != ("q0", "tuned") else word("q0", "tuned", None, reason="time-out")
        for w in made.words
    ]
    verdict = made.decide()
    assert verdict["unscored"] == {"base": 0, "tuned": 1}
    assert verdict["arms"]["tuned"]["unscored_reasons"] == {"time-out": 1}
    assert verdict["primary"]["n"] == before["n"] - 1
    assert verdict["primary"]["difference"] == pytest.approx(before["difference"], abs=0.05)
    assert any("unequally" in text for text in verdict["warnings"])


def test_a_score_beside_a_reason_does_not_count(made: Made):
    made.words[0] = word("q0", "base", 9.0, reason="out of range")
    verdict = made.decide()
    assert verdict["unscored"]["base"] == 1


def test_repeats_are_averaged_inside_the_question(made: Made):
    once = made.decide()["primary"]
    made.words = [
        word(w.id, w.arm, w.overall + shift, repeat)
        for w in made.words
        for repeat, shift in enumerate((-0.5, 0.0, 0.5))
    ]
    thrice = made.decide()["primary"]
    assert thrice["n"] == once["n"]
    assert thrice["ci95"] == pytest.approx(once["ci95"], abs=1e-6)


def test_a_question_with_one_good_repeat_is_scored(made: Made):
    made.words.append(word("q0", "base", None, repeat=1, reason="garbage"))
    verdict = made.decide()
    assert verdict["unscored"]["base"] == 0
    assert verdict["arms"]["base"]["repeats_unscored"] == 1


def test_the_later_judgement_of_the_same_request_counts(made: Made):
    made.words.insert(0, word("q0", "base", None, reason="time-out"))
    assert made.decide()["unscored"]["base"] == 0


def test_near_duplicates_widen_the_interval(made: Made):
    alone = made.decide()["primary"]
    made.rows = [row(i, cluster=f"c{i % 8}") for i in range(40)]
    together = made.decide()["primary"]
    assert together["clusters"] == 8
    assert together["n"] == alone["n"]
    assert together["ci95"] != alone["ci95"]
    assert any("8 groups of near-duplicates" in text for text in made.decide()["warnings"])


def test_what_was_not_judged_or_not_answered_is_counted(made: Made):
    made.answers["tuned"] = made.answers["tuned"][:-2]
    made.words = [w for w in made.words if w.id not in ("q0", "q38", "q39")]
    verdict = made.decide()
    assert verdict["arms"]["tuned"]["unscored_reasons"] == {"not judged": 1, "not answered": 2}
    assert verdict["arms"]["base"]["unscored_reasons"] == {"not judged": 3}
    assert verdict["pairs_lost"] == 3


def test_judgements_of_unknown_answers_are_left_out_and_told(made: Made):
    made.words.append(word("stranger", "base", 10.0))
    verdict = made.decide()
    assert verdict["primary"]["n"] == 40
    assert any("belong to no answer" in text for text in verdict["warnings"])


def test_a_dimension_that_nobody_measured_is_null(made: Made):
    verdict = made.decide()
    assert verdict["dimensions"]["fluency"] is None
    assert verdict["dimensions"]["accuracy"]["n"] == 40


def test_nothing_scored_is_an_error_with_the_reasons_and_writes_nothing(made: Made):
    made.words = [word(w.id, w.arm, None, reason="HTTP 401") for w in made.words]
    with pytest.raises(JudgeError, match="nothing to decide") as caught:
        made.decide()
    assert caught.value.exit_code == 4
    assert "base: 40 x HTTP 401" in caught.value.details
    assert not (made.run.judgements("j") / "verdict.json").exists()


def test_partial_folder_without_split_still_decides(made: Made):
    made.decide()
    made.run.test_rows.unlink()
    verdict = decide(made.config, made.run, QUIET, judge_slug="j")
    assert verdict["primary"]["n"] == 40


def test_an_empty_folder_is_the_same_error(tmp_path):
    with pytest.raises(JudgeError):
        decide(make_config(), RunDir(tmp_path), QUIET, judge_slug="j")


@pytest.mark.parametrize("content", ['{"warnings": ["a', "[1]"])
@pytest.mark.parametrize(
    "name", ["judgements/j/judge.json", "answers/test/answer.json", "training.json", "audit.json"]
)
def test_a_damaged_file_is_named_with_the_remedy(made: Made, name: str, content: str):
    made.decide()
    path = made.run.root / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        made.decide()
    assert caught.value.where == str(path)
    assert caught.value.remedy == "delete the file and run the same command again"


class TestCaveats:
    def test_a_sound_run_has_only_the_seed(self, made: Made):
        assert [text[:16] for text in made.decide()["warnings"]] == ["One training run"]

    def test_demonstration_model_and_lexical_judge_say_how_to_do_better(self, made: Made):
        made.config = make_config(judge="lexical", model="starter")
        verdict = made.decide()
        assert verdict["starter_model"] is True
        first, second, *_ = verdict["warnings"]
        assert "--model google/gemma-2b-it" in first
        assert "licence" in first
        assert "hf auth login" in first
        assert "not a language model" in second

    def test_base_that_never_stops(self, made: Made):
        made.answers["base"] = [answer(r, stopped="limit") for r in made.rows]
        verdict = made.decide()
        assert verdict["base_runs_to_limit"] is True
        assert any("makes `better` easy" in text for text in verdict["warnings"])
        made.answers["base"] = [answer(r, stopped="limit" if i % 2 else "end") for i, r in enumerate(made.rows)]  # fmt: skip
        assert made.decide()["base_runs_to_limit"] is False  # half of them are not most

    def test_length_gap(self, made: Made):
        made.answers["tuned"] = [answer(r, "long words " * 20) for r in made.rows]
        text = " ".join(made.decide()["warnings"])
        assert "tuned answers are much longer" in text

    def test_test_questions_that_were_trained_on(self, made: Made):
        write_jsonl(made.run.train_rows, [row(3), row(900, cluster="c4"), row(901)])
        verdict = made.decide()
        assert verdict["also_in_training"] == 2
        assert any("by heart" in text for text in verdict["warnings"])

    def test_what_makes_it_another_comparison_comes_first(self, made: Made):
        made.config = make_config(judge="lexical", model="starter")
        write_json(made.run.audit, {"split": {"test": 60}})
        write_jsonl(made.run.train_rows, made.rows[:12])
        made.words = [
            w if w.id != "q0" else word(w.id, w.arm, None, reason="cut off") for w in made.words
        ]
        verdict = made.decide()
        assert verdict["test_rows"] == {"read": 40, "in_audit": 60}
        first, second, third, *_ = verdict["warnings"]
        assert "holds 40 rows, but the data stage wrote 60" in first
        assert second.startswith("12 of 40 test questions are also among the training rows")
        assert third.startswith("Demonstration model")
        assert (verdict["also_in_training"], verdict["compared_also_in_training"]) == (12, 11)

    def test_a_whole_test_file_is_no_caveat(self, made: Made):
        write_json(made.run.audit, {"split": {"test": 40}})
        assert not any("data stage wrote" in text for text in made.decide()["warnings"])

    def test_few_questions(self, tmp_path):
        made = Made(tmp_path, count=12)
        assert any(text.startswith("Only 12 questions") for text in made.decide()["warnings"])

    def test_many_unscored(self, made: Made):
        made.words = [
            w if w.id not in ("q1", "q2", "q3") else word(w.id, w.arm, None, reason="cut off")
            for w in made.words
        ]
        assert any("more than 5 %" in text for text in made.decide()["warnings"])

    def test_small_but_real(self, made: Made):
        made.words = [
            word(r.id, arm, 5 + (0.3 + 0.02 * (i % 2)) * (arm == "tuned"))
            for i, r in enumerate(made.rows)
            for arm in ("base", "tuned")
        ]
        verdict = made.decide()
        assert verdict["verdict"] == "better"
        assert any("real but small" in text for text in verdict["warnings"])

    def test_warnings_of_earlier_stages_are_kept_once(self, made: Made):
        write_json(made.run.audit, {"warnings": ["odd cell"]})
        write_json(made.run.training, {"warnings": ["odd cell", "loss rose"]})
        warnings = made.decide()["warnings"]
        assert warnings.count("odd cell") == 1
        assert "loss rose" in warnings


class TestRobustness:
    def test_shape_is_that_of_the_documentation(self, made: Made):
        verdict = made.decide()
        found = verdict["robustness"]
        assert list(found) == [
            "seed", "bootstrap", "sign_flip", "wilcoxon", "win_tie_loss", "length_adjusted",
            "dimensions", "disagree",
        ]  # fmt: skip
        assert found["disagree"] == []
        assert found["dimensions"]["fluency"] is None
        assert set(found["dimensions"]) == set(DIMENSIONS)
        low, high = found["bootstrap"]["ci95"]
        assert low < verdict["primary"]["difference"] < high
        assert found["win_tie_loss"] | verdict["win_tie_loss"] == found["win_tie_loss"]

    def test_the_same_folder_gives_the_same_figures(self, made: Made):
        assert made.decide()["robustness"] == made.decide()["robustness"]

    def test_five_equal_dimensions_cost_a_factor_of_the_number_measured(self, made: Made):
        verdict = made.decide()
        p = verdict["dimensions"]["accuracy"]["p_value"]  # four are measured, all alike
        assert verdict["robustness"]["dimensions"]["accuracy"]["p_holm"] == pytest.approx(4 * p)

    def test_a_dimension_that_falls_is_not_called_not_worse(self, made: Made):
        made.words = [
            w.model_copy(update={"scores": {**w.scores, "relevance": 6.0 - 2 * (w.arm == "tuned") + i % 2}})
            for i, w in enumerate(made.words)
        ]  # fmt: skip
        found = made.decide()["robustness"]["dimensions"]
        assert found["relevance"]["not_worse"] is False
        assert found["accuracy"]["not_worse"] is True

    def test_repeats_are_averaged_first(self, made: Made):
        once = made.decide()["robustness"]
        made.words = [
            word(w.id, w.arm, w.overall + shift, repeat)
            for w in made.words
            for repeat, shift in enumerate((-0.5, 0.5))
        ]
        assert made.decide()["robustness"] == once

    def test_a_check_that_disagrees_is_a_caveat_and_decides_nothing(self, made: Made):
        # thirty small wins and ten losses that weigh as much: order says yes, the mean says no
        gains = [1.0 if i < 30 else -2.8 for i in range(40)]
        made.words = [
            word(r.id, arm, 5 + gains[i] * (arm == "tuned") + 0.1 * (i % 3) * (arm == "base"))
            for i, r in enumerate(made.rows)
            for arm in ("base", "tuned")
        ]
        verdict = made.decide()
        assert verdict["verdict"] == "inconclusive"
        assert "win_tie_loss" in verdict["robustness"]["disagree"]
        assert any("Not all checks agree" in text for text in verdict["warnings"])

    def test_a_difference_that_is_length_alone_is_told(self, made: Made):
        for arm, grow in (("base", 0), ("tuned", 1)):
            made.answers[arm] = [
                answer(r, "word " * (20 + grow * (10 + 3 * i))) for i, r in enumerate(made.rows)
            ]
        long = {row.id: len(row.answer) for row in made.answers["tuned"]}
        made.words = [
            word(
                r.id, arm, 5 + (arm == "tuned") * math.log2((1 + long[r.id]) / 101) + 0.1 * (i % 5)
            )
            for arm in ("base", "tuned")
            for i, r in enumerate(made.rows)
        ]
        verdict = made.decide()
        assert verdict["verdict"] == "better"
        found = verdict["robustness"]["length_adjusted"]
        assert found["points_per_doubling"] == pytest.approx(1, abs=0.02)
        assert found["difference"] == pytest.approx(0, abs=0.02)
        assert any("at equal length it would be" in text for text in verdict["warnings"])


class TestMissing:
    def lose(self, made: Made, base: int, tuned: int) -> dict:
        gone = {(f"q{i}", "base") for i in range(base)} | {(f"q{i}", "tuned") for i in range(20, 20 + tuned)}  # fmt: skip
        made.words = [
            word(w.id, w.arm, None, reason="cut off") if (w.id, w.arm) in gone else w
            for w in made.words
        ]
        return made.decide()

    def test_none_missing(self, made: Made):
        found = made.decide()["missing"]
        assert found["share"] == 0
        assert found["must_agree"] is False
        assert found["bounds"] == [made.decide()["primary"]["difference"]] * 2

    def test_few_are_reported_only(self, made: Made):
        verdict = self.lose(made, 1, 1)
        assert verdict["verdict"] == "better"
        assert verdict["missing"]["must_agree"] is False
        assert verdict["missing"]["pairs_lost"] == verdict["pairs_lost"] == 2
        low, high = verdict["missing"]["bounds"]
        assert low < verdict["primary"]["difference"] < high

    def test_many_make_it_inconclusive_and_it_says_so_first(self, made: Made):
        verdict = self.lose(made, 6, 7)
        assert verdict["missing"]["verdict_without"] == "better"
        assert verdict["verdict"] == "inconclusive"
        first = verdict["warnings"][0]
        assert first.startswith(
            "The verdict would be `better`, but 13 of 40 questions lack a score:"
        )

    def test_unequal_failure_is_named(self, made: Made):
        made.words = [
            word(r.id, arm, 5.0 + i % 2 + (0.6 + 0.2 * (i % 3)) * (arm == "tuned"))
            for i, r in enumerate(made.rows)
            for arm in ("base", "tuned")
        ]
        verdict = self.lose(made, 0, 9)
        assert verdict["missing"]["p_value"] == pytest.approx(2 / 2**9)
        assert (
            "fail unequally (0 of the base model's alone, 9 of the tuned" in verdict["warnings"][0]
        )

    def test_a_large_difference_stays_better(self, made: Made):
        made.words = [
            word(r.id, arm, 2.0 + i % 2 + 6 * (arm == "tuned"))
            for i, r in enumerate(made.rows)
            for arm in ("base", "tuned")
        ]
        verdict = self.lose(made, 0, 4)
        assert verdict["missing"]["must_agree"] is True
        assert verdict["verdict"] == verdict["missing"]["verdict_at_bounds"] == "better"


class TestPower:
    def test_from_the_observed_spread(self, made: Made):
        verdict = made.decide()
        found, primary = verdict["power"], verdict["primary"]
        assert found["basis"] == "observed"
        assert found["minimum_detectable"] == pytest.approx(
            2.88 * primary["standard_error"], rel=0.01
        )
        assert found["deviation"] == pytest.approx(primary["standard_error"] * 40**0.5, rel=1e-4)

    def test_before_judging_from_an_assumption(self, made: Made):
        made.decide()
        (made.run.judgements("j") / "verdict.json").unlink()
        found = foresee(made.run, "j")
        assert (found.n, found.deviation, found.pilot) == (40, 2.0, None)
        assert found.minimum_detectable == pytest.approx(0.91, abs=0.01)
        assert "with 40 questions, differences under 0.9 points go unnoticed" in found.sentence
        assert "an assumed standard deviation of 2.0" in found.sentence
        assert "to notice 0.5 takes 128" in found.sentence

    def test_near_duplicates_count_once(self, made: Made):
        made.answers["base"] = [answer(row(i, cluster=f"c{i % 8}")) for i in range(40)]
        made.decide()
        (made.run.judgements("j") / "verdict.json").unlink()
        found = foresee(made.run, "j")
        assert found.effective == 8
        assert "40 questions (worth 8 unlike ones)" in found.sentence

    def test_an_earlier_verdict_is_the_pilot(self, made: Made):
        verdict = made.decide()
        own = foresee(made.run, "j")
        assert own.deviation == verdict["power"]["deviation"]
        assert own.pilot == verdict["judge"]["name"]
        # of another judge only where it is a language model, like the one to come
        assert foresee(made.run, "k").pilot is None
        write_json(
            made.run.judgements("j") / "verdict.json",
            {**verdict, "judge": {**verdict["judge"], "is_llm": True}},
        )
        assert foresee(made.run, "k").pilot == verdict["judge"]["name"]

    @pytest.mark.parametrize(
        ("sizes", "told"),
        [
            ([40], "40 questions in one group of near-duplicates can show no difference at all"),
            ([1], "1 question can show no difference at all"),
            ([8] * 5, "with 40 questions in 5 groups of near-duplicates the verdict is `inconclusive` whatever the scores: it takes 6 groups"),
            ([1] * 4, "with 4 questions the verdict is `inconclusive` whatever the scores: it takes 6"),
            ([35, *[1] * 5], "with 40 questions in 6 groups of near-duplicates (worth 1.3 unlike ones if those of a group differ alike)"),
            ([8] * 6, "with 48 questions (worth 6 unlike ones), differences under"),
        ],
    )  # fmt: skip
    def test_what_groups_can_show_before_judging(self, made: Made, sizes, told):
        names = [f"c{group}" for group, size in enumerate(sizes) for _ in range(size)]
        asked = [answer(row(i, cluster=name)) for i, name in enumerate(names)]
        write_jsonl(made.run.answers("base"), asked)
        said = foresee(made.run, "k").sentence
        assert said.startswith(told), said
        assert ("no difference at all" in said) == (len(sizes) == 1)


@pytest.mark.parametrize(
    ("clusters", "ci95", "told"),
    [
        (5, [2.0, 3.0], "Only 5 unlike groups of questions were compared. Below 6"),
        (1, None, "Only 1 unlike group of questions was compared"),
        (10, [-0.4, 0.2], "lies within 0.5 points of 0, but from 10 unlike questions"),
        (30, [-0.4, 0.2], None),
        (10, [0.1, 0.3], None),
        (10, [-0.6, 0.2], None),
        (6, [2.0, 3.0], None),
    ],
)
def test_why_few_questions_decide_little_is_said(clusters, ci95, told):
    (*lines,) = too_few({"clusters": clusters, "ci95": ci95, "margin": 0.5})
    assert bool(lines) == bool(told)
    assert told is None or told in lines[0]
