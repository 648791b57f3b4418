"""Baselines and the judge's noise: in verdict.json, in the caveats, and in every form of the report."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from support.made_run import NASTY, SLUG, make_config, make_run

from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.records import AGAIN, DIMENSIONS, Answer, Judgement
from gemma_lora.report import summary, write_report
from gemma_lora.rundir import RunDir, read_jsonl, write_json, write_jsonl
from gemma_lora.statistics import holm

QUIET = Console(quiet=True, stream=io.StringIO())
Level = Callable[[Mapping[str, float | None], random.Random], float | None]


def judged_as(run: RunDir, arm: str, level: Level) -> list[Judgement]:
    """Judgements of `arm`: `level` makes its overall of the scores of base and tuned; None: unscored."""
    rng = random.Random(f"noise of {arm}")
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    by_id: dict[str, dict[str, float | None]] = {}
    for row in rows:
        by_id.setdefault(row.id, {})[row.arm] = row.overall
    made: list[Judgement] = []
    for name, scores in by_id.items():
        overall = level(scores, rng)
        value = None if overall is None else min(10.0, max(1.0, overall))
        made.append(
            Judgement(
                id=name, arm=arm, repeat=0, scores=dict.fromkeys(DIMENSIONS, value), overall=value,
                reasoning="", unscored_reason="no reply: gone" if value is None else None,
            )
        )  # fmt: skip
    write_jsonl(run.judgements(SLUG) / "judgements.jsonl", [*rows, *made])
    return made


def add_baseline(run: RunDir, slug: str, kind: str, name: str, level: Level, **what: Any) -> None:
    write_jsonl(run.answers(slug), read_jsonl(run.answers("base"), Answer))
    known = json.loads(run.baselines.read_text()) if run.baselines.exists() else {"arms": {}}
    facts = (
        {"examples": 4, "rows_used": 11, "with_fewer": 0, "with_none": 0}
        if kind == "few-shot"
        else {}
    )
    known["arms"][slug] = {
        "name": name,
        "kind": kind,
        "inputs": "x",
        "chosen": {},
        "warnings": [],
        **facts,
        **what,
    }
    write_json(run.baselines, known)
    judged_as(run, slug, level)


def config_with(*names: str, aa: bool = False) -> Config:
    plain = make_config()
    return plain.model_copy(
        update={"judge": plain.judge.model_copy(update={"baseline": names, "aa": aa})}
    )


def like_tuned(scores: Mapping[str, float | None], rng: random.Random) -> float | None:
    tuned = scores["tuned"]
    # none is pushed against an end of the scale, which would favour one side
    return tuned if tuned is None or not 2 <= tuned <= 9 else tuned + rng.choice((-1, 0, 0, 1))


def like_base(scores: Mapping[str, float | None], rng: random.Random) -> float | None:
    return None if scores["base"] is None else scores["base"] + rng.choice((-1, 0, 1))


def above(scores: Mapping[str, float | None], rng: random.Random) -> float | None:
    return None if scores["tuned"] is None else scores["tuned"] + rng.choice((1, 2))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)[0]


def test_without_them_nothing_is_there(run: RunDir) -> None:
    verdict = decide(make_config(), run, QUIET, judge_slug=SLUG)
    assert (verdict["baselines"], verdict["aa"]) == ({}, None)
    assert "baseline" not in summary(verdict)


def test_further_arms_change_nothing_of_the_verdict(run: RunDir) -> None:
    alone = decide(make_config(), run, QUIET, judge_slug=SLUG)
    add_baseline(run, "few-shot", "few-shot", "few-shot", above)
    judged_as(run, AGAIN, like_base)
    both = decide(config_with("few-shot", aa=True), run, QUIET, judge_slug=SLUG)
    new = {"baselines", "aa", "warnings"}
    assert {k: v for k, v in both.items() if k not in new} == {
        k: v for k, v in alone.items() if k not in new
    }
    assert both["judgements_left_out"] == 0


def test_a_baseline_is_compared_as_the_base_would_be(run: RunDir, tmp_path: Path) -> None:
    """The same scores under the name of the base give the same comparison, guard and arm."""
    add_baseline(run, "few-shot", "few-shot", "few-shot", like_tuned)
    found = decide(config_with("few-shot"), run, QUIET, judge_slug=SLUG)["baselines"]["few-shot"]
    other = make_run(tmp_path / "other")[0]
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    write_jsonl(
        other.judgements(SLUG) / "judgements.jsonl",
        [
            row.model_copy(update={"arm": "base"}) if row.arm == "few-shot" else row
            for row in rows
            if row.arm != "base"
        ],
    )
    as_base = decide(make_config(), other, QUIET, judge_slug=SLUG)
    assert found["comparison"] == as_base["primary"]
    assert found["verdict"] == as_base["verdict"]
    assert found["missing"] == as_base["missing"]
    assert found["win_tie_loss"] == as_base["win_tie_loss"]
    assert found["arm"] == as_base["arms"]["base"]


def test_p_values_are_adjusted_over_the_baselines(run: RunDir) -> None:
    add_baseline(run, "few-shot", "few-shot", "few-shot", like_tuned)
    add_baseline(run, "prompt-p", "prompt", "prompt:p.txt", like_base)
    add_baseline(run, "model-x-y", "model", "x/y", above)
    names = ("few-shot", "prompt:p.txt", "x/y")
    found = decide(config_with(*names), run, QUIET, judge_slug=SLUG)["baselines"]
    assert list(found) == ["few-shot", "prompt-p", "model-x-y"]
    p = {slug: one["comparison"]["p_value"] for slug, one in found.items()}
    assert {slug: one["p_holm"] for slug, one in found.items()} == holm(p)
    assert found["prompt-p"]["verdict"] == "better"
    assert found["model-x-y"]["verdict"] == "worse"


def test_a_prompt_that_does_as_much_is_said_in_plain_words(run: RunDir) -> None:
    add_baseline(run, "few-shot", "few-shot", "few-shot", like_tuned)
    verdict = decide(config_with("few-shot"), run, QUIET, judge_slug=SLUG)
    assert (verdict["verdict"], verdict["baselines"]["few-shot"]["verdict"]) == (
        "better",
        "equivalent",
    )
    told = [
        text for text in verdict["warnings"] if "the base with four examples in the prompt" in text
    ]
    assert len(told) == 1
    assert "a prompt does as much as this tuning" in told[0]


@pytest.mark.parametrize(
    ("level", "word", "said"),
    [(above, "worse", "a prompt does more than this tuning"), (like_base, "better", None)],
)
def test_a_baseline_that_wins_or_loses(
    run: RunDir, level: Level, word: str, said: str | None
) -> None:
    add_baseline(run, "prompt-p", "prompt", "prompt:p.txt", level)
    verdict = decide(config_with("prompt:p.txt"), run, QUIET, judge_slug=SLUG)
    assert verdict["baselines"]["prompt-p"]["verdict"] == word
    told = [text for text in verdict["warnings"] if "the instruction of p.txt" in text]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]


def test_an_endless_base_names_the_remedy(run: RunDir) -> None:
    rows = [
        row.model_copy(update={"stopped_by": "limit"})
        for row in read_jsonl(run.answers("base"), Answer)
    ]
    write_jsonl(run.answers("base"), rows)
    told = "\n".join(decide(make_config(), run, QUIET, judge_slug=SLUG)["warnings"])
    assert "`--baseline few-shot`" in told
    add_baseline(run, "few-shot", "few-shot", "few-shot", like_base)
    told = "\n".join(decide(config_with("few-shot"), run, QUIET, judge_slug=SLUG)["warnings"])
    assert "`--baseline few-shot`" not in told
    assert (
        "80 of 80 answers of the base with four examples in the prompt ran into the token limit"
        in told
    )


def test_missing_scores_guard_a_baseline_too(run: RunDir) -> None:
    def mostly(scores: Mapping[str, float | None], rng: random.Random) -> float | None:
        return None if rng.random() < 0.4 else like_base(scores, rng)

    add_baseline(run, "few-shot", "few-shot", "few-shot", mostly)
    found = decide(config_with("few-shot"), run, QUIET, judge_slug=SLUG)["baselines"]["few-shot"]
    assert found["missing"]["verdict_without"] == "better"
    assert found["verdict"] == "inconclusive"


def test_a_baseline_without_any_score_leaves_the_verdict(run: RunDir) -> None:
    add_baseline(run, "few-shot", "few-shot", "few-shot", lambda scores, rng: None)
    verdict = decide(config_with("few-shot"), run, QUIET, judge_slug=SLUG)
    found = verdict["baselines"]["few-shot"]
    assert (verdict["verdict"], found["comparison"], found["verdict"]) == (
        "better",
        None,
        "inconclusive",
    )
    assert found["arm"]["unscored"] == 80
    write_report(run, verdict)
    assert "not one question scored in both" in run.report_html.read_text("utf-8")
    assert "not one question scored in both" in summary(verdict)


# ---------------------------------------------------------------------- the judge against itself


def test_noise_is_what_a_plain_count_gives(run: RunDir) -> None:
    again = {row.id: row.overall for row in judged_as(run, AGAIN, like_base)}
    verdict = decide(config_with(aa=True), run, QUIET, judge_slug=SLUG)
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    apart = [
        other - row.overall
        for row in rows
        if row.arm == "base" and row.overall is not None and (other := again[row.id]) is not None
    ]
    found = verdict["aa"]
    assert (found["n"], found["questions"]) == (len(apart), 80)
    assert found["difference"] == pytest.approx(fmean(apart), abs=1e-6)
    assert found["mean_absolute"] == pytest.approx(fmean(map(abs, apart)), abs=1e-6)
    assert found["unequal_share"] == pytest.approx(
        sum(d != 0 for d in apart) / len(apart), abs=1e-6
    )
    assert found["deviation"] == pytest.approx(stdev(apart), abs=1e-6)
    within = fmean(
        ((d / 2) ** 2 + (d / 2) ** 2) for d in apart
    )  # of two about their mean, one degree
    assert found["within_answer"] == pytest.approx(math.sqrt(within), abs=1e-6)
    assert found["ci95"][0] < 0 < found["ci95"][1]
    assert 0.1 < found["minimum_detectable"] < 1
    assert not [
        text for text in verdict["warnings"] if "second time" in text or "Asked twice" in text
    ]


def test_a_judge_that_drifts_is_a_caveat(run: RunDir) -> None:
    judged_as(
        run, AGAIN, lambda s, rng: None if s["base"] is None else s["base"] + rng.choice((0, 1))
    )
    told = decide(config_with(aa=True), run, QUIET, judge_slug=SLUG)["warnings"]
    assert [text for text in told if "without 0): it drifts" in text]


def test_a_judge_without_noise_is_a_caveat(run: RunDir) -> None:
    judged_as(run, AGAIN, lambda scores, rng: scores["base"])
    verdict = decide(config_with(aa=True), run, QUIET, judge_slug=SLUG)
    assert (verdict["aa"]["mean_absolute"], verdict["aa"]["unequal_share"]) == (0, 0)
    assert [
        text
        for text in verdict["warnings"]
        if "noise is 0, which says nothing about its errors" in text
    ]


def test_a_second_judging_without_any_score_is_told(run: RunDir) -> None:
    judged_as(run, AGAIN, lambda scores, rng: None)
    verdict = decide(config_with(aa=True), run, QUIET, judge_slug=SLUG)
    assert verdict["aa"]["n"] == 0
    write_report(run, verdict)
    assert "not one answer was scored in both judgings" in run.report_md.read_text("utf-8")


# ---------------------------------------------------------------------- the report


def test_every_form_of_the_report_says_it(run: RunDir) -> None:
    add_baseline(run, "few-shot", "few-shot", "few-shot", like_tuned)
    add_baseline(run, "model-x-y", "model", "x/y", above)
    judged_as(run, AGAIN, like_base)
    verdict = decide(config_with("few-shot", "x/y", aa=True), run, QUIET, judge_slug=SLUG)
    write_report(run, verdict)
    html, text, screen = (
        run.report_html.read_text("utf-8"),
        run.report_md.read_text("utf-8"),
        summary(verdict),
    )
    for form in (html, text, screen):
        flat = " ".join(form.split())
        assert "gainst the base with four examples in the prompt" in flat
        assert "gainst the model x/y" in flat
    assert "judge against itself:" in screen
    for form in (html, text):
        assert "Asked twice about the same" in form
        assert "corrected for 2 comparisons" in form
    assert "Against stronger baselines" in html
    assert len(screen.splitlines()) <= 30
    assert json.loads(run.verdict.read_text()) == verdict


@pytest.mark.parametrize("name", NASTY[:5])
def test_hostile_names_stay_text(run: RunDir, name: str) -> None:
    add_baseline(run, "prompt-p", "prompt", f"prompt:{name}", like_tuned)
    verdict = decide(config_with("prompt:p.txt"), run, QUIET, judge_slug=SLUG)
    verdict["baselines"]["prompt-p"]["name"] = f"prompt:{name}"
    write_report(run, verdict)
    html = run.report_html.read_text("utf-8")
    assert name not in html or "<" not in name
    assert html.count("<script") == 1
