"""The judge's overall against the mean of its own dimensions: counted, flagged, shown, never deciding."""

from __future__ import annotations

import io
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support.made_run import SLUG, make_run

from gemma_lora import judge as judging
from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.report import write_report
from gemma_lora.report.terminal import summary
from gemma_lora.rubric import departs
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json, write_jsonl

QUIET = Console(quiet=True, stream=io.StringIO())


def edited(
    folder: Path, change: Any, weights: dict[str, float] | None = None
) -> tuple[RunDir, Any]:
    """A run whose scored judgements went through `change(row) -> fields to replace`, and its verdict."""
    run, config = make_run(folder, questions=40)
    path = run.judgements(SLUG) / "judgements.jsonl"
    rows = read_jsonl(path, Judgement)
    write_jsonl(path, [r if r.overall is None else r.model_copy(update=change(r)) for r in rows])
    if weights:
        facts = run.judgements(SLUG) / "judge.json"
        write_json(facts, {**read_json(facts), "weights": weights})
    return run, decide(config, run, QUIET, judge_slug=SLUG)


def level(row: Judgement, overall: float, **scores: float) -> dict[str, Any]:
    return {"overall": overall, "scores": {**dict.fromkeys(DIMENSIONS, 5.0), **scores}}


@pytest.mark.parametrize(
    ("overall", "differs"), [(5, False), (6.5, False), (3.5, False), (6.6, True), (3, True)]
)
def test_the_threshold_is_a_step_and_a_half(overall: float, differs: bool) -> None:
    assert departs(dict.fromkeys(DIMENSIONS, 5.0), overall, {}) is differs
    assert departs({"accuracy": None}, overall, {}) is False
    assert departs({"accuracy": 5.0}, None, {}) is False


def test_departing_judgements_are_counted_by_arm(tmp_path: Path) -> None:
    run, verdict = edited(
        tmp_path, lambda r: level(r, 8.0 if r.arm == "tuned" else 5.0 + (r.id[0] == "0"))
    )
    found = verdict["overall_check"]
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    scored = {arm: [r for r in rows if r.arm == arm and r.overall] for arm in ("base", "tuned")}
    assert found["tuned"]["departs"] == found["tuned"]["judgements"] == len(scored["tuned"])
    assert found["base"]["departs"] == 0
    assert found["tuned"]["mean_gap"] == 3.0
    assert found["base"]["mean_gap"] == pytest.approx(
        fmean((r.overall or 0) - 5 for r in scored["base"]), abs=1e-6
    )


def test_what_the_overall_alone_says_is_told_and_still_decides(tmp_path: Path) -> None:
    run, verdict = edited(
        tmp_path, lambda r: level(r, 5.0 + 2 * (r.arm == "tuned") + (r.id[0] > "8"))
    )
    assert verdict["verdict"] == "better"
    found = verdict["overall_check"]
    assert (found["difference"], found["word"], found["agrees"]) == (0.0, "inconclusive", False)
    told = [line for line in verdict["warnings"] if "weighted mean of the dimensions" in line]
    assert len(told) == 1
    assert "the verdict `inconclusive`" in told[0]
    assert any("read some (they carry a flag)" in line for line in verdict["warnings"])
    assert "weighted mean of the dimensions" in " ".join(summary(verdict, width=200).split())
    written = write_report(run, verdict)
    for part in ("report", "report_md"):
        assert "overall from the dimensions" in Path(written[part]).read_text()


def test_agreement_is_shown_and_no_warning(tmp_path: Path) -> None:
    _, verdict = edited(tmp_path, lambda r: {"overall": fmean(r.scores.values())})
    found = verdict["overall_check"]
    assert found["agrees"] is True
    assert found["difference"] == pytest.approx(verdict["primary"]["difference"], abs=1e-5)
    assert found["ci95"] == pytest.approx(verdict["primary"]["ci95"], abs=1e-5)
    assert not [line for line in verdict["warnings"] if "mean of" in line]


def test_weights_of_the_rubric_count(tmp_path: Path) -> None:
    weights = {**dict.fromkeys(DIMENSIONS, 1.0), "accuracy": 6.0}
    change = lambda r: level(r, 8.0, accuracy=9.0 if r.arm == "tuned" else 4.0)  # noqa: E731
    _, verdict = edited(tmp_path, change, weights)
    found = verdict["overall_check"]
    assert found["weights"] == weights
    assert found["difference"] == pytest.approx(5 * 6 / 10)
    assert found["tuned"]["departs"] == 0, "(9 x 6 + 4 x 5) / 10 = 7.4"
    assert found["base"]["mean_gap"] == pytest.approx(8 - (4 * 6 + 5 * 4) / 10)


def test_lexical_has_none_since_its_overall_is_the_mean(tmp_path: Path) -> None:
    run, config = make_run(tmp_path, questions=20, lexical=True)
    assert decide(config, run, QUIET, judge_slug="lexical")["overall_check"] is None


def test_a_judgement_that_departs_carries_a_flag(tmp_path: Path) -> None:
    run, config = make_run(tmp_path, questions=20)
    rows = read_jsonl(run.judgements(SLUG) / "judgements.jsonl", Judgement)
    file = tmp_path / "recorded.jsonl"
    lines = [{"id": r.id, "arm": r.arm, **level(r, 9 if r.arm == "base" else 5)} for r in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = config.model_copy(update={"judge": JudgeConfig(judge=f"replay:{file}")})
    folder = judging.judge(config, run, QUIET)
    for row in read_jsonl(folder / "judgements.jsonl", Judgement):
        assert ("overall departs from its dimensions" in row.flags) == (row.arm == "base")
    assert read_json(folder / "judge.json")["flags"]["overall departs from its dimensions"] == 20
