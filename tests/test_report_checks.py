"""What stands beside the verdict in the report: forest plot, other estimators, power, missing judgements."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
from support.made_run import SLUG, make_run

from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.report import summary, write_report
from gemma_lora.report.charts import forest, forest_axis, forest_reach
from gemma_lora.report.checks import (
    agreement,
    differences,
    missing_sentence,
    other_estimators,
    power_sentence,
)
from gemma_lora.report.wording import interval, points, whisker
from gemma_lora.rundir import RunDir, read_jsonl, write_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict, str]:
    run, config = make_run(tmp_path_factory.mktemp("run"))
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    write_report(run, verdict)
    return run, verdict, run.report_html.read_text("utf-8")  # later tests write it anew


@pytest.fixture
def verdict(made) -> dict:
    return copy.deepcopy(made[1])


@pytest.fixture(scope="module")
def html(made) -> str:
    return made[2]


def test_every_form_says_the_power_in_the_same_words(made, html):
    said = power_sentence(made[1])
    assert said.startswith("With 77 questions, differences under 0.5 points go unnoticed")
    assert said in html
    assert said in made[0].report_md.read_text("utf-8")
    assert said.split(" (")[0] in " ".join(summary(made[1]).split())


def test_every_form_says_what_missing_scores_could_do(made, html):
    low, high = made[1]["missing"]["bounds"]
    for text in (html, made[0].report_md.read_text("utf-8"), " ".join(summary(made[1]).split())):
        assert points(low) in text
        assert points(high) in text
    assert "these bounds are only reported" in html


def test_the_forest_has_every_dimension_with_its_holm_mark(made, html):
    for row in differences(made[1]):
        span = f"{row.ci95[0]:+.2f} to {row.ci95[1]:+.2f}"
        assert f'aria-label="{row.name}: difference {row.difference:+.2f}, 95 % interval {span}, marked"' in html  # fmt: skip
    scores = html.split('id="scores"')[1].split('id="lost"')[0]
    assert scores.count('class="dot effect marked"') == 1 + len(DIMENSIONS)
    assert "Holm" in html


def test_markdown_and_terminal_draw_the_same_forest(made):
    text = made[0].report_md.read_text("utf-8")
    shown = summary(made[1], width=100)
    for row in differences(made[1]):
        assert row.marked
        reach = max(abs(end) for r in differences(made[1]) for end in r.ci95)
        drawn = whisker(row.difference, row.ci95, reach, 25)
        assert drawn in text
        assert drawn in shown
    assert "●" not in summary(made[1], width=80)  # no room


def test_a_mark_follows_holm_and_not_the_single_p(verdict):
    verdict["dimensions"]["fluency"]["p_value"] = 0.02
    verdict["robustness"]["dimensions"]["fluency"]["p_holm"] = 0.08
    row = next(d for d in differences(verdict) if d.name == "fluency")
    assert not row.marked
    assert "0.080 " in summary(verdict, width=100)
    assert "0.080*" not in summary(verdict, width=100)


def test_an_unmeasured_dimension_stays_a_row(verdict, made):
    verdict["dimensions"]["fluency"] = verdict["robustness"]["dimensions"]["fluency"] = None
    write_report(made[0], verdict)
    assert made[0].report_html.read_text("utf-8").count("not measured by this judge") == 2
    assert "not measured" in summary(verdict, width=100)


def test_other_estimators_name_their_figures(verdict):
    rows = {name: figures for name, figures, _ in other_estimators(verdict)}
    found = verdict["robustness"]
    assert rows["bootstrap interval"] == interval(found["bootstrap"]["ci95"])
    assert rows["sign-flip test"] == "p < 0.001"
    assert rows["wins against losses"].startswith("68 to 1, 5 ties")
    assert agreement(verdict) == "The other estimators agree."
    found["disagree"] = ["wilcoxon", "length_adjusted"]
    assert agreement(verdict).endswith("decides: Wilcoxon, equal length.")


def test_what_cannot_be_estimated_is_said(tmp_path: Path):
    run, config = make_run(tmp_path, questions=2, unscored=False)
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    write_jsonl(run.judgements(SLUG) / "judgements.jsonl", [r for r in rows if r.id == rows[0].id])
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    write_report(run, verdict)
    html = run.report_html.read_text("utf-8")
    assert "What 1 question could notice cannot be told: one question carries no interval." in html
    assert "There is no interval to compare" in html
    assert "cannot be estimated: too few questions" in html
    assert summary(verdict)


class TestMissing:
    def test_none_missing_is_no_sentence(self, verdict):
        verdict["missing"] |= {"pairs_lost": 0, "touched": 0, "share": 0.0}
        assert missing_sentence(verdict) is None
        assert "at their worst" not in summary(verdict)

    def test_a_verdict_that_is_not_given_is_explained(self, verdict, made):
        verdict["missing"] |= {
            "must_agree": True,
            "bounds": [-0.2, 1.4],
            "bounds_ci95": [-0.6, 1.8],
        }
        verdict["verdict"] = "inconclusive"
        assert "So `better` cannot be claimed." in missing_sentence(verdict)
        assert "−0.20" in missing_sentence(verdict)
        write_report(made[0], verdict)
        assert "So <code>better</code> cannot be claimed." in made[0].report_html.read_text("utf-8")

    def test_a_verdict_that_survives_is_said_to(self, verdict):
        verdict["missing"]["must_agree"] = True
        assert "The verdict is the same in both cases." in missing_sentence(verdict)


def test_a_base_model_that_never_stops_is_told_at_the_top(verdict, made):
    write_report(made[0], verdict)
    said = "The base model does not end its answers."
    assert said not in made[0].report_html.read_text("utf-8")
    verdict["base_runs_to_limit"] = True
    write_report(made[0], verdict)
    assert said in made[0].report_html.read_text("utf-8")


class TestDrawing:
    def test_the_scale_reaches_beyond_every_interval(self):
        assert forest_reach([]) == 1.0
        assert forest_reach([-0.2, 0.7]) == 1.0
        assert forest_reach([-2.6, 1.0]) == 3.0
        assert "+3<" in forest_axis(3.0)
        assert "−1.5<" in forest_axis(3.0)

    def test_a_point_lies_where_its_value_is(self):
        drawn = str(forest("x", 0.0, None, reach=2.0, margin=0.5, marked=False))
        assert '<circle cx="50.00%"' in drawn
        assert "interval" not in drawn
        assert "marked" not in drawn

    def test_labels_are_escaped(self):
        drawn = str(forest("<b>", 1.0, [0.5, 1.5], reach=2.0, margin=0.5, marked=True))
        assert "<b>" not in drawn
        assert "&lt;b&gt;" in drawn

    @pytest.mark.parametrize(
        ("difference", "ci95", "line"),
        [
            (0.0, None, "····●····"),
            (1.0, [0.0, 2.0], "····┼─●──"),
            (-2.0, [-2.0, -1.0], "●──·│····"),
            (9.0, [1.0, 99.0], "····│·──●"),
        ],
    )
    def test_whiskers(self, difference, ci95, line):
        assert whisker(difference, ci95, 2.0, 9) == line
