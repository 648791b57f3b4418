"""Reading probes: own tables, MMLU and GSM8K as published, and every fault at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_lora.errors import ConfigError, DataError
from gemma_lora.forgetting import Probe, load_probe

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "forgetting"
needs_data = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="../shared/data/forgetting is not here"
)


def loaded(name: Path | str) -> Probe:
    probe = load_probe(str(name))
    assert probe is not None
    return probe


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_none_is_none_and_a_path_must_exist(tmp_path: Path) -> None:
    assert load_probe("none") is None
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        load_probe(str(tmp_path / "absent.csv"))


def test_json_lines_with_and_without_options(tmp_path: Path) -> None:
    rows = [
        {"question": "Two and two?", "answer": "4", "choices": ["3", "4"], "category": "sums"},
        {"question": "Colour of snow?", "answer": "B", "choices": ["black", "white", "red"]},
        {"question": "Say hello.", "answer": "Hello."},
        {"question": "Which?", "answer": "It is tea.", "choices": ["tea", "milk"], "right": "A"},
    ]
    path = write(tmp_path / "own.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    probe = loaded(path)
    assert (probe.name, probe.kind) == ("own.jsonl", "own")
    first, second, third, fourth = probe.items
    assert (first.right, first.answer, first.category) == ("B", "4", "sums")
    assert (second.right, second.answer) == ("B", "white"), "a letter stands for its option"
    assert (third.choices, third.right, third.category) == (None, None, "all")
    assert (fourth.right, fourth.answer) == ("A", "It is tea.")
    assert second.choice_question == (
        "Colour of snow?\n\nA. black\nB. white\nC. red\n\nAnswer with the letter only."
    )


def test_csv_with_columns_for_the_options(tmp_path: Path) -> None:
    text = (
        "question,A,B,C,answer,subject\nBiggest?,ant,bear,cat,B,animals\nSmallest?,ant,bear,,ant,\n"
    )
    probe = loaded(write(tmp_path / "own.csv", text))
    assert probe.kind == "own"
    assert [item.right for item in probe.items] == ["B", "A"]
    assert probe.items[0].answer == "bear"
    assert probe.items[1].choices == ("ant", "bear")
    assert [item.category for item in probe.items] == ["animals", "all"]


def test_plain_questions_and_answers(tmp_path: Path) -> None:
    probe = loaded(write(tmp_path / "qa.csv", "question,answer\nWhy?,Because.\nWho?,Me.\n"))
    assert [(i.id, i.question, i.answer, i.choices) for i in probe.items] == [
        ("row-1", "Why?", "Because.", None),
        ("row-2", "Who?", "Me.", None),
    ]


def test_another_text_is_another_probe(tmp_path: Path) -> None:
    texts = ("question,answer\nWhy?,Because.\n", "question,answer\nWhy?,Because!\n")
    first, second = (loaded(write(tmp_path / f"{n}.csv", t)) for n, t in enumerate(texts))
    again = loaded(write(tmp_path / "again.csv", texts[0]))
    assert first.digest == again.digest != second.digest


def test_all_faults_of_a_table_at_once(tmp_path: Path) -> None:
    rows = [
        {"id": "x", "question": "One?", "answer": "1"},
        {"id": "x", "question": "Two?", "answer": "2"},
        {"id": "y", "question": " ", "answer": "2"},
        {"id": "z", "question": "Three?", "answer": "3", "choices": ["1", "2"]},
        {"id": "u", "question": "Four?", "answer": "4", "choices": ["4"]},
        {"id": "v", "question": "Five?", "answer": "5", "choices": ["5", "5"]},
        {"id": "w", "question": "Six?", "answer": "6", "choices": ["6", "7"], "right": "C"},
    ]
    path = write(tmp_path / "bad.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        load_probe(str(path))
    text = str(caught.value)
    for words in (
        "the id 'x' stands 2 times",
        "line 3: the question is empty",
        "line 4: the answer '3' is none of the choices",
        "line 5: the choices are not a list of 2 to 10 texts",
        "line 6: a choice stands there twice",
        "line 7: the answer '6' is none of the choices",
        "name another --probe",
    ):
        assert words in text, text


def test_a_table_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_probe(str(write(tmp_path / "x.csv", "question,thing\nWhy?,Because.\n")))


def test_mmlu_as_it_is_published(tmp_path: Path) -> None:
    text = '"Say ""a"", then?",one,two,"three, four",five,C\nNext?,w,x,y,z,A\n'
    write(tmp_path / "cooking_test.csv", text)
    write(tmp_path / "sailing_test.csv", "Where?,n,e,s,w,D\n")
    one = loaded(tmp_path / "cooking_test.csv")
    assert one.kind == "MMLU"
    first = one.items[0]
    assert (first.id, first.category, first.right) == ("cooking-1", "cooking", "C")
    assert first.question == 'Say "a", then?'
    assert (first.answer, first.choices) == ("three, four", ("one", "two", "three, four", "five"))
    both = loaded(tmp_path)
    assert both.kind == "MMLU"
    assert [item.id for item in both.items] == ["cooking-1", "cooking-2", "sailing-1"]


def test_two_files_of_one_subject_have_questions_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "x_test.csv").write_text("What?,a,b,c,d,A\n")
    (tmp_path / "x_val.csv").write_text("Which other?,e,f,g,h,B\n")
    (tmp_path / "y_val.csv").write_text("And this?,e,f,g,h,B\n")
    probe = load_probe(str(tmp_path))
    assert probe is not None
    assert [item.id for item in probe.items] == ["x_test-1", "x_val-1", "y-1"]
    assert [item.category for item in probe.items] == ["x", "x", "y"]


def test_all_faults_of_mmlu_files_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a_test.csv", "One?,a,b,c,d,A\nTwo?,a,b,c,d\nThree?,a,b,c,d,E\n,a,,c,d,B\n")
    write(tmp_path / "b_test.csv", "")
    with pytest.raises(DataError) as caught:
        load_probe(str(tmp_path))
    text = str(caught.value)
    for words in (
        "4 places are wrong",
        "a_test.csv, line 2: 5 cells",
        "a_test.csv, line 3: the last cell is 'E', not a letter A to D",
        "a_test.csv, line 4: empty: question, B",
        "b_test.csv: there is no question in it",
    ):
        assert words in text, text


def test_a_folder_without_files_names_the_folders_in_it(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"folders in it: test"):
        load_probe(str(tmp_path))


@needs_data
def test_the_published_files() -> None:
    mmlu = loaded(PUBLISHED / "mmlu/test")
    assert (mmlu.kind, len(mmlu.items)) == ("MMLU", 2610)
    assert len({item.category for item in mmlu.items}) == 10
    assert all(len(item.choices or ()) == 4 for item in mmlu.items)
    gsm8k = loaded(PUBLISHED / "gsm8k_test.jsonl")
    assert (gsm8k.kind, len(gsm8k.items)) == ("GSM8K", 1319)
    assert gsm8k.items[0].answer.endswith("\n#### 18")
    assert {item.category for item in gsm8k.items} == {"gsm8k"}
