"""Real files of the shared data folder through every stage, by the command line.

The models are tiny and random: what is proven is that texts survive and stages join, not quality.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import escape
from support.processes import CliServer, Done

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")

LITTLE = (
    *("--test-rows", "6", "--validation-rows", "4", "--rank", "8", "--alpha", "16"),
    *("--max-new-tokens", "4", "--max-length", "4096", "--on-long-row", "keep-answer"),
    *("--batch", "1", "--accumulation", "2", "--model", "tiny"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(tiny_folder(), folder / "tiny")
    file = folder / "tiny" / "config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "max_position_embeddings": 16384}))
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def run(cli: CliServer, place: Path, data: Path, out: str, *more: str) -> tuple[Path, Done]:
    done = cli.run(["run", data, "--out", out, *LITTLE, *more], cwd=place)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return place / out, done


@pytest.mark.parametrize(
    ("name", "rows", "epochs"),
    [
        ("general_instruction/self_instruct_seed_tasks_175.jsonl", 175, "0.05"),
        ("general_instruction/gpteacher_roleplay_instruct.json", 1923, "0.002"),
        ("general_instruction/gsm8k_train.jsonl", 900, "0.005"),
    ],
)
def test_json_and_json_lines(
    name: str, rows: int, epochs: str, place: Path, cli: CliServer
) -> None:
    out = Path(name).stem
    content = (SHARED / name).read_text("utf-8")
    if name.endswith(".jsonl"):  # the first `rows` of it; whole sets are among the full tests
        content = "".join(content.splitlines(keepends=True)[:rows])
    (place / Path(name).name).write_text(content, "utf-8")
    folder, _ = run(cli, place, place / Path(name).name, out, "--epochs", epochs)
    facts = json.loads((folder / "audit.json").read_text())
    assert facts["rows"]["read"] == rows
    split = [facts["split"][part] for part in ("train", "validation", "test")]
    assert sum(split) == facts["rows"]["used"]
    assert split[1:] == [4, 6]
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["questions"] == 6


MESSY = {
    "Datagov_FY10_EDU_recp_by_State.csv": (("State Abbreviate", "State Name"), 55),
    "FY09_EDU_Recipients_by_State.csv": (("State Abbreviate", "State Name"), 52),
    "ks_1033_data.csv": (("item_name", "federal_supply_category_name"), 1575),
    "bad.csv": (("column_a", "column_b"), "line "),
    "mac_newlines.csv": (("a", "b"), "too few"),
    "test_latin1.csv": (("a", "c"), "too few"),
    "test_locale.csv": (("a", "b"), "too few"),
    "test_utf16_little.csv": (("a", "c"), "too few"),
    "test_utf8_bom.csv": (("foo", "baz"), "too few"),
}


@pytest.mark.parametrize("name", MESSY)
def test_messy_files_give_a_clean_audit_or_a_clear_error(
    name: str, place: Path, cli: CliServer
) -> None:
    columns, expected = MESSY[name]
    file = SHARED / "messy_csv" / name
    # without the columns named there is nothing like a question in any of them
    unnamed = cli.run(["audit", file, "--model", "tiny", "--json"], cwd=place)
    assert unnamed.code == 2
    assert unnamed.json["exit_code"] == 2
    argv = ["audit", file, "--model", "tiny", "--question-column", columns[0]]
    argv += [
        "--answer-column",
        columns[1],
        "--on-bad-row",
        "skip",
        "--max-length",
        "4096",
        "--json",
    ]
    if name == "bad.csv":
        argv[argv.index("skip")] = "stop"
    done = cli.run(argv, cwd=place)
    assert "Traceback" not in unnamed.err + done.err
    if isinstance(expected, int):
        assert done.code == 0, done.err
        assert done.json["rows"]["read"] == expected
    else:
        assert done.code == 2, done.err
        assert expected in done.err
        assert "what to do" in done.err or "expected" in done.err


def german(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    with (SHARED / "multilingual/InstructGermanDPR_v1_test.csv").open(
        newline="", encoding="utf-8"
    ) as stream:
        read = [(row["input"], row["output"]) for row in csv.DictReader(stream)]
    short = sorted(dict(read).items(), key=lambda row: len(row[0]) + len(row[1]))[:40]
    return written(folder / "german.csv", short), short


def chinese(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    pairs: dict[str, str] = {}
    for file in sorted((SHARED / "multilingual/chatterbot_corpus/chinese").glob("*.yml")):
        for turns in yaml.safe_load(file.read_text("utf-8"))["conversations"]:
            if len(turns) > 1 and all(isinstance(turn, str) for turn in turns[:2]):
                pairs.setdefault(*turns[:2])
    return written(folder / "chinese.csv", list(pairs.items())[:40]), list(pairs.items())[:40]


def xquad(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    found = json.loads((SHARED / "multilingual/xquad.zh.json").read_text("utf-8"))["data"]
    pairs = {
        question["question"]: question["answers"][0]["text"]
        for article in found
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    return written(folder / "xquad.csv", list(pairs.items())[:40]), list(pairs.items())[:40]


def written(file: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("question", "answer"), *rows])
    return file


@pytest.mark.parametrize("make", [german, chinese, xquad], ids=lambda make: make.__name__)
def test_other_languages_go_through_every_stage_unharmed(
    make: Any, place: Path, cli: CliServer
) -> None:
    file, source = make(place)
    assert any(ord(char) > 127 for question, _ in source for char in question)
    folder, done = run(cli, place, file, make.__name__, "--epochs", "0.2")
    split = [
        row
        for part in ("train", "validation", "test")
        for row in rows_of(folder / f"split/{part}.jsonl")
    ]
    texts = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in split]
    assert sorted(texts) == sorted(source)
    tests = [
        (row["messages"][-1]["content"], row["reference"])
        for row in rows_of(folder / "answers/test/tuned.jsonl")
    ]
    assert set(tests) <= set(source)
    assert len(tests) == 6
    html, markdown = ((folder / name).read_text("utf-8") for name in ("report.html", "report.md"))
    for question, reference in tests:
        assert str(escape(question)) in html
        assert str(escape(reference)) in html
    assert any(question.split("\n")[0] in markdown for question, _ in tests)
    assert "�" not in done.err
    raw = (folder / "split/train.jsonl").read_bytes().decode("utf-8")
    assert "\\u" not in raw, "readable as it is"


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name",
    [
        "customer_service/bitext_customer_support_4514.csv",
        "general_instruction/self_instruct_user_oriented_252.jsonl",
        "programming/gpteacher_codegen_instruct.json",
        "general_instruction/gsm8k_train.jsonl",
    ],
)
def test_whole_sets_with_the_shipped_model(name: str, cli: CliServer, tmp_path: Path) -> None:
    argv = ["run", SHARED / name, "--out", "run", "--epochs", "1", "--max-new-tokens", "64"]
    done = cli.run([*argv, "--on-long-row", "keep-answer", "--json"], cwd=tmp_path)
    assert done.code == 0, done.err
    assert 60 <= done.json["questions"] <= 200
