"""Recorded judgements come back as they were; what is missing or wrong in the file is unscored."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import JudgeServer
from support.made_run import make_run as made_run

from gemma_lora import judge as judging
from gemma_lora.config import DataConfig, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.decision import decide
from gemma_lora.errors import JudgeError
from gemma_lora.judge.asking import prompt_hash, schema_hash
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.rubric import load_rubric
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_json

SEVEN = dict.fromkeys(DIMENSIONS, 7)


def replayed(
    lines: list[object], make_run, configured, tmp_path, rows: int = 2
) -> dict[tuple[str, str], Judgement]:
    file = tmp_path / "recorded.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = judging.judge(configured(f"replay:{file}"), make_run(rows), Console(quiet=True))
    return {(row.id, row.arm): row for row in read_jsonl(folder / "judgements.jsonl", Judgement)}


def test_our_own_judgements_replay_to_the_same(make_run, configured) -> None:
    run = make_run(4)
    folder = judging.judge(configured("lexical"), run, Console(quiet=True))
    again = judging.judge(
        configured(f"replay:{folder / 'judgements.jsonl'}"), run, Console(quiet=True)
    )
    assert again != folder
    assert (again / "judgements.jsonl").read_bytes() == (folder / "judgements.jsonl").read_bytes()
    known = read_json(again / "judge.json")
    assert (known["kind"], known["is_llm"]) == ("replay", False)
    assert known["snapshot"].startswith("sha256:")


def test_scores_made_for_other_answers_are_none(make_run, configured) -> None:
    answers = {"base": ["one", "two", "three"], "tuned": ["a", "b", "c"]}
    made = judging.judge(configured("lexical"), make_run(answers=answers), Console(quiet=True))
    name = f"replay:{made / 'judgements.jsonl'}"
    other = make_run(answers={**answers, "tuned": ["a", "rubbish", "c"]}, folder="other")
    console = Console(quiet=True)
    folder = judging.judge(configured(name), other, console)
    rows = {(row.id, row.arm): row for row in read_jsonl(folder / "judgements.jsonl", Judgement)}
    wrong = rows.pop(("q0001", "tuned"))
    assert wrong.unscored_reason == "recorded for another answer"
    assert wrong.overall is None
    assert all(row.unscored_reason is None for row in rows.values())
    assert [w for w in console.warnings if w.startswith("1 replayed judgements")]
    assert read_json(folder / "judge.json")["warnings"] == console.warnings
    # what was judged is part of what decides the scores
    before = judging.fingerprint(configured(name).judge)
    (made / "inputs.json").unlink()
    assert judging.fingerprint(configured(name).judge) != before
    console = Console(quiet=True)
    judging.judge(configured(name), other, console)
    assert [w for w in console.warnings if "could not be checked" in w]


def test_nested_and_flat_rows_and_lines_that_say_the_same(make_run, configured, tmp_path) -> None:
    silence = {"id": "q0000", "arm": "base", "scores": {}, "unscored_reason": "no reply: HTTP 500"}
    line = {"id": "q0000", "arm": "base", "scores": SEVEN, "overall": 7.5}
    rows = replayed(
        [
            silence,
            line,
            line,
            {"id": "q0000", "arm": "tuned", **SEVEN, "overall": 8},
        ],
        make_run,
        configured,
        tmp_path,
    )
    assert rows["q0000", "base"].overall == 7.5
    assert rows["q0000", "tuned"].scores == SEVEN
    assert rows["q0001", "base"].unscored_reason == "not in the replay file"
    assert rows["q0001", "tuned"].overall is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"scores": SEVEN, "overall": 11}, "out of range: overall = 11"),
        ({"scores": {**SEVEN, "fluency": 0}, "overall": 5}, "fluency = 0"),
        ({"scores": {**SEVEN, "fluency": "8/10"}, "overall": 5}, "fluency"),
        ({"scores": {**SEVEN, "fluency": True}, "overall": 5}, "fluency = true"),
        ({"scores": {**SEVEN, "fluency": float("nan")}, "overall": 5}, "fluency = NaN"),
        ({"scores": SEVEN}, "no overall"),
        ({"scores": [7], "overall": 7}, "not an object"),
        (
            {"scores": SEVEN, "overall": 7, "unscored_reason": "no reply: HTTP 500"},
            "recorded as unscored: no reply",
        ),
    ],
)
def test_what_is_wrong_is_unscored(row: dict, why: str, make_run, configured, tmp_path) -> None:
    good = [{"id": "q0001", "arm": arm, "scores": SEVEN, "overall": 7} for arm in ("base", "tuned")]
    rows = replayed([{"id": "q0000", "arm": "base", **row}, *good], make_run, configured, tmp_path)
    found = rows["q0000", "base"]
    assert why in (found.unscored_reason or "")
    assert found.overall is None
    assert set(found.scores.values()) == {None}


def test_bad_lines_are_reported_together(make_run, configured, tmp_path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"id": "q"}\nnot json\n[1]\n' + "[" * 100_000 + "\n")
    with pytest.raises(JudgeError, match="4 lines are no judgements") as caught:
        judging.probe(configured(f"replay:{file}").judge, Console(quiet=True))
    assert all(f"line {n}:" in str(caught.value) for n in (1, 2, 3, 4))
    file.write_text("")
    with pytest.raises(JudgeError, match="is empty"):
        judging.probe(configured(f"replay:{file}").judge, Console(quiet=True))


def test_a_file_that_contradicts_itself_is_refused_by_the_probe(configured, tmp_path) -> None:
    line = {"id": "q1", "arm": "base", "scores": SEVEN, "overall": 3}
    lines = [
        line,
        {**line, "repeat": 1, "overall": 4},
        {**line, "overall": 9},
        {**line, "scores": {**SEVEN, "fluency": 1}},
        {**line, "unscored_reason": "refused"},
        {**line, "reasoning": "other words"},
    ]
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(JudgeError, match="4 lines contradict") as caught:
        judging.probe(configured(f"replay:{file}").judge, Console(quiet=True))
    assert caught.value.details == (
        "lines 1 and 3: q1 base: overall 3, then 9",
        "lines 1 and 4: q1 base: other fluency",
        "lines 1 and 5: q1 base: overall 3, then unscored",
        "lines 1 and 6: q1 base: other words",
    )


def test_another_content_is_another_judge(make_run, configured, tmp_path) -> None:
    both = [
        {"id": f"q000{i}", "arm": arm, "scores": SEVEN, "overall": 7}
        for i in (0, 1)
        for arm in ("base", "tuned")
    ]
    replayed(both, make_run, configured, tmp_path)
    config = configured(f"replay:{tmp_path / 'recorded.jsonl'}").judge
    before = judging.fingerprint(config)
    rows = replayed([{**row, "overall": 2} for row in both], make_run, configured, tmp_path)
    assert {row.overall for row in rows.values()} == {2}
    assert judging.fingerprint(config) != before


# ---------------------------------------------------------------------- who judged, and by which prompt


def decided(run: RunDir, config: Any, name: str) -> tuple[Path, dict[str, Any], list[str], int]:
    """Judged by `name` and decided: the folder, verdict.json, its warnings of kinship, and those shown before."""
    config = config.model_copy(
        update={
            "judge": JudgeConfig(judge=name, judge_timeout=5, canaries=0),
            "data": DataConfig(path="support.csv", teacher="gemini-1.5-pro"),
        }
    )
    stream = io.StringIO()
    folder = judging.judge(config, run, Console(stream=stream))
    decide(config, run, Console(quiet=True, stream=io.StringIO()), judge_slug=folder.name)
    verdict = read_json(folder / "verdict.json")
    shown = " ".join(stream.getvalue().split()).count("a better witness")
    return folder, verdict, [w for w in verdict["warnings"] if "a better witness" in w], shown


def test_a_replay_tells_prompt_snapshot_and_kinship_of_the_judge_that_was_recorded(
    tmp_path: Path,
) -> None:
    """Through a replay of the replay, too; and every verdict.json has the hashes of prompt and rubric."""
    run, config = made_run(tmp_path / "run", questions=10)
    with JudgeServer("gemma-2-27b-it") as server:
        folder, verdict, told, _ = decided(run, config, server.name)
    assert len(told) == 2, "of the tuned model's family, and of the teacher's"
    first = verdict["judge"]
    hashes = {
        "prompt_hash": prompt_hash(),
        "schema_hash": schema_hash(),
        "rubric_hash": load_rubric(None).hash,
    }
    assert {key: first[key] for key in hashes} == hashes
    for _ in range(2):
        name = f"replay:{folder / 'judgements.jsonl'}"
        folder, verdict, again, shown = decided(run, config, name)
        assert verdict["judge"]["kind"] == "replay"
        assert {key: verdict["judge"][key] for key in hashes} == hashes
        assert verdict["judge"]["families"] == first["families"] == ["gemma/gemini"]
        assert verdict["judge"]["recorded_judge"] == first["name"]
        assert verdict["judge"]["recorded_snapshot"] == first["snapshot"]
        assert [w.replace(name, server.name) for w in again] == told
        assert shown == 2, "said before judging, too"


def test_what_nobody_recorded_is_null_and_no_relative(tmp_path: Path) -> None:
    """A file without judge.json beside it, whose path has a family's name; and `lexical`, which has no prompt."""
    run, config = made_run(tmp_path / "run", questions=10)
    folder, verdict, _, _ = decided(run, config, "lexical")
    assert verdict["judge"]["prompt_hash"] is None
    assert verdict["judge"]["rubric_hash"] is None
    lone = tmp_path / "gemma" / "judgements.jsonl"
    lone.parent.mkdir()
    lone.write_bytes((folder / "judgements.jsonl").read_bytes())
    _, verdict, told, shown = decided(run, config, f"replay:{lone}")
    judge = verdict["judge"]
    names = ("is_llm", "prompt_hash", "schema_hash", "recorded_judge", "recorded_snapshot")
    assert [judge[name] for name in names] == [None] * 5
    assert (judge["families"], told, shown) == ([], [], 0)


def test_families_that_an_earlier_version_did_not_save_are_those_of_the_name(
    tmp_path: Path, make_run: Any, configured: Any
) -> None:
    made = judging.judge(configured("lexical"), make_run(1), Console(quiet=True))
    write_json(made / "judge.json", {"name": "ollama:gemma3", "is_llm": True})
    config = configured(f"replay:{made / 'judgements.jsonl'}")
    folder = judging.judge(config, make_run(1), Console(quiet=True))
    assert read_json(folder / "judge.json")["families"] == ["gemma/gemini"]


def test_a_file_beside_it_that_is_not_ours_is_refused_with_all_that_is_wrong(
    make_run: Any, configured: Any
) -> None:
    made = judging.judge(configured("lexical"), make_run(1), Console(quiet=True))
    wrong = {
        "is_llm": "yes",
        "families": ["gemma/gemini", "<b>of nobody</b>"],
        "prompt_hash": "0f" * 31,
        "schema_hash": ["0f" * 32],
        "rubric_hash": "A" * 64,
        "name": 7,
        "snapshot": {},
        "prompt": ["x"],
    }
    write_json(made / "judge.json", wrong)
    with pytest.raises(JudgeError, match="the file that tells who judged is damaged") as caught:
        judging.probe(configured(f"replay:{made / 'judgements.jsonl'}").judge, Console(quiet=True))
    assert caught.value.where == str(made / "judge.json")
    assert all(key in str(caught.value) for key in wrong)


def test_odd_names_beside_it_are_written_and_cut(make_run: Any, configured: Any) -> None:
    run = make_run(1)
    made = judging.judge(configured("lexical"), run, Console(quiet=True))
    (made / "judge.json").write_text(json.dumps({"name": "\ud800" + "x" * 9000, "snapshot": None}))
    folder = judging.judge(
        configured(f"replay:{made / 'judgements.jsonl'}"), run, Console(quiet=True)
    )
    facts = read_json(folder / "judge.json")
    assert facts["recorded_judge"] == "?" + "x" * 499
    assert facts["recorded_snapshot"] is None
