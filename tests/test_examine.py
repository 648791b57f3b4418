"""The examination of judges: its figures come out of the published files, and all documents say the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gemma_lora.judge import examined
from gemma_lora.judge.lexical import LexicalScorer
from gemma_lora.report import worth

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "judge"
sys.path.insert(0, str(ROOT / "tools"))

import examine_judge  # noqa: E402
import examined_page  # noqa: E402

PARTS = json.loads((ROOT / "docs" / "agreement.json").read_text("utf-8"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/judge is not here")


def close(found: Any, expected: Any, where: str = "") -> None:
    """The same tree; numbers to a few units of the last decimal (processors round differently)."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            close(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, (one, two) in enumerate(zip(found, expected, strict=True)):
            close(one, two, f"{where}/{index}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=5e-4), where
    else:
        assert found == expected, where


@needs_data
def test_pandalm_comes_out_as_published() -> None:
    found = examine_judge.pandalm(DATA)
    close(found, PARTS["pandalm"])
    kappas = [pair["kappa"]["value"] for pair in found["people"].values()]
    assert [round(min(kappas), 2), round(max(kappas), 2)] == [0.85, 0.88]
    by_person = [found["judge"][name]["kappa"]["value"] for name in "123"]
    assert sum(by_person) / 3 == pytest.approx(0.48, abs=0.005)
    assert found["unread"] == 25


@needs_data
@pytest.mark.full
def test_evouna_comes_out_as_documented() -> None:
    close(examine_judge.evouna(DATA), PARTS["evouna"])


@needs_data
def test_the_halves_share_no_question_and_the_cut_off_sees_one_half_only(monkeypatch) -> None:
    """With people's verdicts of the reported half turned round, the cut-off stays what it was."""
    rows = examine_judge._read(DATA / examine_judge.FILES["evouna"][0])[:400]
    monkeypatch.setattr(examine_judge, "_read", lambda path: rows)
    before = examine_judge.evouna(DATA)
    for row in rows:
        if examine_judge._reported(row["question"]):
            for name in examine_judge.SYSTEMS:
                if row[f"judge_{name}"] is not None:
                    row[f"judge_{name}"] = not row[f"judge_{name}"]
    after = examine_judge.evouna(DATA)
    assert after["choosing"] == before["choosing"]
    assert before["reported"]["auc"]["value"] > 0.85
    assert after["reported"]["auc"]["value"] == pytest.approx(
        1 - before["reported"]["auc"]["value"], abs=2e-4
    )
    sizes = [before[half]["questions"] for half in ("choosing", "reported")]
    proper = {r["question"] for r in rows if not r["improper"]}
    assert sum(sizes) == len(proper)


def test_the_attack_table_is_current() -> None:
    close(examine_judge.attacks(None), PARTS["attacks"])


def test_the_document_and_the_package_say_what_was_measured() -> None:
    page = (ROOT / "docs" / "agreement.md").read_text("utf-8")
    assert page == examined_page.render(PARTS), "run: python tools/examine_judge.py page"
    assert examined.figures() == examine_judge.packaged(PARTS["evouna"])
    assert set(examined.figures()) == {LexicalScorer().identity()["model"]}


def test_users_of_lexical_are_told_in_report_and_guide() -> None:
    said = examined.sentence("lexical-1")
    assert said is not None
    share = PARTS["evouna"]["reported"]["accuracy"]["value"]
    assert f"on {100 * share:.1f} % of the answers" in said
    judge = {"kind": "lexical", "model": "lexical-1", "name": "lexical"}
    assert worth.agreement_sentence({"judge": judge}) == said
    guide = " ".join((ROOT / "docs" / "judging.md").read_text("utf-8").split())
    assert said.replace("(docs/agreement.md)", "([agreement.md](agreement.md))") in guide


def test_a_judge_that_was_not_examined_has_no_figure() -> None:
    assert examined.sentence("lexical-2") is None
    judge = {"kind": "openai", "model": "lexical-1", "name": "openai:lexical-1"}
    assert "has not been examined" in worth.agreement_sentence({"judge": judge})


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (ROOT / "docs" / "agreement.md").read_bytes()
    with pytest.raises(SystemExit):
        examine_judge.main(["evouna", "--data", str(tmp_path)])
    assert "evouna_nq_human_labels.json" in capsys.readouterr().err
    assert (ROOT / "docs" / "agreement.md").read_bytes() == before
