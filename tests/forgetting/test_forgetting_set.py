"""The bundled probe: structure, balance, answers that can be computed, no copies of anything."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gemma_lora.data.duplicates import near_duplicate_groups
from gemma_lora.forgetting import load_probe

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "src/gemma_lora/probe/general.jsonl"
PUBLISHED = ROOT.parent / "shared" / "data" / "forgetting"


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]


def option(row: dict[str, Any]) -> str:
    """Text of the right option."""
    return row["choices"]["ABCD".index(row["right"])]


CHOICES = [row for row in rows() if "choices" in row]


def test_it_is_read_whole() -> None:
    probe = load_probe("general")
    assert probe is not None
    assert (probe.kind, len(probe.items)) == ("bundled", len(rows()))
    for item, row in zip(probe.items, rows(), strict=True):
        assert (item.id, item.category, item.question) == (
            row["id"],
            row["category"],
            row["question"],
        )
        assert item.answer == row["answer"]
        assert item.right == row.get("right")


def test_size_and_spread() -> None:
    assert len(rows()) >= 180
    assert len(CHOICES) >= 150
    counts = Counter(row["category"] for row in rows())
    assert set(counts) == {
        *("geography", "science", "history", "everyday", "arithmetic"),
        *("language", "code", "safety", "refusals"),
    }
    assert min(counts.values()) >= 15
    assert len({row["id"] for row in rows()}) == len(rows())
    assert all(row["id"].startswith(row["category"] + "-") for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["id"])
def test_each_item_is_well_formed(row: dict[str, Any]) -> None:
    assert set(row) <= {"id", "category", "question", "answer", "choices", "right", "check"}
    for text in (row["question"], row["answer"], *row.get("choices", ())):
        assert text == text.strip() != ""
    assert len(row["answer"]) <= 160
    assert ("choices" in row) == ("right" in row)
    if "choices" not in row:
        return
    assert len(set(row["choices"])) == len(row["choices"]) == 4
    assert option(row) in row["answer"]


def test_right_options_stand_everywhere_alike_and_are_not_given_away() -> None:
    places = Counter(row["right"] for row in CHOICES)
    assert set(places) == set("ABCD")
    assert max(places.values()) - min(places.values()) <= 1
    for category in {row["category"] for row in CHOICES}:
        inside = Counter(row["right"] for row in CHOICES if row["category"] == category)
        assert max(inside.values()) - min(inside.get(letter, 0) for letter in "ABCD") <= 3
    longest = sum(
        len(option(row)) > max(len(text) for text in row["choices"] if text != option(row))
        for row in CHOICES
    )
    assert longest / len(CHOICES) < 0.4, "taking the longest option would do better than guessing"


def test_no_question_is_asked_twice() -> None:
    groups = near_duplicate_groups([row["question"] for row in rows()], 0.8)
    assert len(set(groups.tolist())) == len(rows())


def test_arithmetic_is_computed() -> None:
    computed = [row for row in rows() if row["category"] == "arithmetic"]
    assert all("check" in row for row in computed)
    for row in computed:
        value = Fraction(eval(row["check"]))
        found = [Fraction(text.replace("−", "-")) for text in row["choices"]]
        assert Fraction(option(row).replace("−", "-")) == value, row["id"]
        assert found.count(value) == 1, row["id"]
        assert option(row) == str(value).replace("-", "−"), "in lowest terms"


def test_code_is_run() -> None:
    code = [row for row in rows() if row["category"] == "code"]
    run = [row for row in code if "check" in row]
    assert len(run) >= 15
    for row in run:
        if "ANSWER" in row["check"]:  # the answer is an expression
            exec(row["check"].replace("ANSWER", f"({row['answer']})"), {})
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(row["check"], {})
        assert printed.getvalue().strip() == option(row), row["id"]
        if row["question"].startswith("What does this Python code print?"):
            assert row["question"].split("\n\n", 1)[1] == row["check"], (
                "what is asked is what is run"
            )


def shared_groups(others: list[str]) -> set[int]:
    """Groups of near-duplicates with questions of both sides."""
    mine = [row["question"] for row in rows()]
    groups = near_duplicate_groups([*mine, *others], 0.8).tolist()
    return set(groups[: len(mine)]) & set(groups[len(mine) :])


def test_nothing_is_in_the_examples() -> None:
    files = sorted((ROOT / "examples").glob("*.csv"))
    assert files
    texts: list[str] = []
    for file in files:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            texts += [cell for row in csv.reader(stream) for cell in row[:2]]
    assert len(texts) > 100
    assert not shared_groups(texts)
    assert shared_groups([rows()[0]["question"] + "?"]), "a copy would be seen"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/data/forgetting is not here")
def test_nothing_is_copied_from_the_published_sets() -> None:
    texts: list[str] = []
    for name in ("mmlu/test", "mmlu/dev", "gsm8k_test.jsonl"):
        probe = load_probe(str(PUBLISHED / name))
        assert probe is not None
        texts += [item.question for item in probe.items]
    assert len(texts) > 3900
    assert not shared_groups(texts)
