"""Recorded judgements come back as they were; what is missing or wrong in the file is unscored."""

from __future__ import annotations

import json

import pytest

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.rundir import read_json, read_jsonl

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
