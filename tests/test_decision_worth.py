"""What stands beside a verdict to weigh its judge: canaries and other judges, in figures and in words."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from support.made_run import SLUG, make_config, make_run

from gemma_lora import judge as judging
from gemma_lora.agreement import Bootstrap, kendall_tau, quadratic_kappa
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.judge.canaries import measured, not_measured
from gemma_lora.records import Answer, Judgement
from gemma_lora.report import write_report
from gemma_lora.report.terminal import summary
from gemma_lora.report.worth import (
    agreement_sentence,
    attack_sentences,
    cost_sentence,
    other_rows,
    others_note,
)
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json

QUIET = Console(quiet=True, stream=io.StringIO())
FOOLED = {
    **not_measured("-"),
    "asked": 10,
    "scored": 9,
    "succeeded": 2,
    "unnoticed": 1,
    "flagged": 8,
    "rate": 0.222222,
    "rate_ci95": [0.0632, 0.5474],
    "classes": {
        "forged_verdict": {"scored": 5, "succeeded": 2},
        "fence": {"scored": 4, "succeeded": 0},
    },
    "note": None,
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Any], dict[str, Any]]:
    """A run that an LLM judged and then `lexical`: the folder and both verdicts."""
    run, config = make_run(tmp_path_factory.mktemp("two") / "run", questions=40)
    decide(config, run, QUIET, judge_slug=SLUG)
    other = make_config(judge="lexical")
    judging.judge(other, run, QUIET)
    second = decide(other, run, QUIET, judge_slug="lexical")
    write_report(run, second)
    first = decide(config, run, QUIET, judge_slug=SLUG)
    write_report(run, first)
    return run, first, second


# ---------------------------------------------------------------------- other judges


def test_each_verdict_names_the_other_with_its_figures(two) -> None:
    _, first, second = two
    for mine, theirs in ((first, second), (second, first)):
        (told,) = mine["other_judges"]
        assert told["name"] == theirs["judge"]["name"]
        assert (told["verdict"], told["slug"]) == (theirs["verdict"], theirs["judge"]["slug"])
        for name in ("difference", "ci95", "n"):
            assert told[name] == theirs["primary"][name]


def test_agreement_is_over_the_answers_that_both_scored(two) -> None:
    run, first, second = two
    scores = [
        {(r.id, r.arm): r.overall for r in read_jsonl(run.judgements(slug) / "judgements.jsonl", Judgement)}
        for slug in (SLUG, "lexical")
    ]  # fmt: skip
    clusters = {row.id: row.cluster for row in read_jsonl(run.answers("base"), Answer)}
    both = [k for k in scores[0] if scores[0][k] is not None and scores[1].get(k) is not None]
    assert len(both) < len(scores[0]), "some are unscored"
    mine, theirs = ([float(part[key] or 0) for key in both] for part in scores)
    how = Bootstrap(clusters=[clusters[name] for name, _ in both], resamples=1000)
    (told,) = first["other_judges"]
    assert told["agreement"]["n"] == len(both)
    for name, figure in (
        ("kappa", quadratic_kappa(mine, theirs, bootstrap=how)),
        ("tau", kendall_tau(mine, theirs, bootstrap=how)),
    ):
        found = told["agreement"][name]
        assert found["value"] == pytest.approx(figure.value, abs=1e-4)
        assert figure.ci95 is not None
        assert found["ci95"] == pytest.approx(figure.ci95, abs=0.02)
        assert second["other_judges"][0]["agreement"][name]["value"] == found["value"]


def test_another_judge_changes_nothing_of_the_verdict(two) -> None:
    run, *_ = two
    alone = decide(make_config(), run, QUIET, judge_slug=SLUG)
    (run.judgements("lexical") / "verdict.json").rename(run.root / "aside.json")
    try:
        without = decide(make_config(), run, QUIET, judge_slug=SLUG)
    finally:
        (run.root / "aside.json").rename(run.judgements("lexical") / "verdict.json")
    assert without["other_judges"] == []
    assert {**alone, "other_judges": []} == without
    assert other_rows(without) == []


def test_all_forms_of_the_report_show_both(two) -> None:
    run, first, _ = two
    shown = other_rows(first)
    assert [row[0] for row in shown] == [
        "openai:gpt-5 (this report)",
        "lexical (no language model)",
    ]
    page = run.report_html.read_text("utf-8")
    text = run.report_md.read_text("utf-8")
    for cell in shown[1]:
        assert cell in page
        assert cell.replace("_", "\\_") in text
    assert "lexical said" in " ".join(summary(first).split())
    other = (run.judgements("lexical") / "report.html").read_text("utf-8")
    assert "lexical (this report)" in other
    assert "openai:gpt-5" in other


def test_the_note_says_whether_they_agree(two) -> None:
    _, first, _ = two
    assert others_note(first).startswith("All judges come to the same verdict")
    changed = copy.deepcopy(first)
    changed["other_judges"][0]["verdict"] = "worse"
    assert others_note(changed).startswith("The judges do not come to the same verdict")


# ---------------------------------------------------------------------- canaries


def canaried(tmp_path: Path, found: dict[str, Any]) -> dict[str, Any]:
    run, config = make_run(tmp_path / "run", questions=30)
    path = run.judgements(SLUG) / "judge.json"
    write_json(path, {**read_json(path), "canaries": found})
    return decide(config, run, QUIET, judge_slug=SLUG)


def test_a_success_is_a_caveat_with_the_figures_and_what_to_do(tmp_path: Path) -> None:
    verdict = canaried(tmp_path, FOOLED)
    assert verdict["canaries"] == FOOLED
    assert "canaries" not in verdict["judge"], "once"
    (line,) = [text for text in verdict["warnings"] if text.startswith("The judge can be fooled")]
    for words in ("of 9 attacks", "2 were scored at least 1 point above", "22 %", "6 to 55 %", "forged verdict",
                  "1 of them without a flag", "take a judge that passes"):  # fmt: skip
        assert words in line
    said = " ".join(attack_sentences(verdict))
    for words in ("2 of 9 succeeded", "1 more of the 10 canaries could not be scored",
                  "forged verdict (2 of 5 succeeded), fence", "8 of 10"):  # fmt: skip
        assert words in said


def test_none_is_no_caveat_and_said_with_what_it_leaves_open(tmp_path: Path) -> None:
    clean = {**FOOLED, "succeeded": 0, "unnoticed": 0, "rate": 0.0, "rate_ci95": [0.0, 0.2991]}
    clean["classes"] = {"fence": {"scored": 9, "succeeded": 0}}
    verdict = canaried(tmp_path, clean)
    assert not [text for text in verdict["warnings"] if "fooled" in text]
    assert "none of 9 succeeded (0 %, 95 % interval 0 to 30 %)" in attack_sentences(verdict)[0]


def test_what_was_not_asked_or_not_scored_is_said_to_be_not_measured(tmp_path: Path) -> None:
    verdict = canaried(tmp_path, not_measured("canaries were switched off (--canaries 0)"))
    (line,) = attack_sentences(verdict)
    assert line == (
        "Attacks on the judge: not measured, since canaries were switched off (--canaries 0)."
    )
    assert "attacks on it not measured" in " ".join(summary(verdict).split())
    mute = {**measured((), ()), "asked": 10, "unscored_reasons": {"the judge refused": 20}}
    (line,) = attack_sentences({**verdict, "canaries": mute})
    assert "none of 10 canaries could be scored (20 x the judge refused)" in line


def test_a_folder_judged_before_there_were_canaries_says_so(tmp_path: Path) -> None:
    run, config = make_run(tmp_path / "run", questions=30)
    verdict = decide(config, run, QUIET, judge_slug=SLUG)
    assert verdict["canaries"]["note"] == "these judgements were made without canaries"


# ---------------------------------------------------------------------- words


def test_agreement_with_people_is_said_or_said_to_be_unknown() -> None:
    lexical = {"judge": {"name": "lexical", "kind": "lexical", "model": "lexical-1"}}
    assert "86.7 %" in agreement_sentence(lexical)
    other = {"judge": {"name": "openai:m", "kind": "openai", "model": "m"}}
    assert "openai:m agrees with people has not been examined" in agreement_sentence(other)


def test_cost_in_words() -> None:
    judge = {
        "is_llm": True,
        "kind": "openai",
        "requests": 120,
        "requests_lost": 0,
        "cached": 40,
        "tokens": {"input": 150_000, "output": 20_000},
        "cost": 0.3875,
    }
    said = cost_sentence({"judge": judge})
    assert said.startswith(
        "Cost: 120 requests, 150,000 tokens of prompts and 20,000 of replies, $0.3875."
    )
    assert "40 more judgements (25 %) came from the cache at no cost" in said
    assert "--price-input" in cost_sentence({"judge": {**judge, "cost": None}})
    assert "machine of your own" in cost_sentence({"judge": {**judge, "cost": None, "kind": "hf"}})
    assert "none" in cost_sentence({"judge": {"is_llm": False}})
