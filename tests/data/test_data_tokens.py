"""Rows as tokens: those of the run folder are the same as encoding anew, or are made anew."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import TEMPLATE_3, small_tokenizer

from gemma_lora.audit import prepare
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.tokens import Tokenised, tokenise, tokenised
from gemma_lora.errors import EnvironmentFault
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Example, Message
from gemma_lora.rundir import RunDir, read_jsonl, write_jsonl

LIMIT = 60


@pytest.fixture(scope="module")
def fmt() -> PromptFormat:
    return PromptFormat(small_tokenizer(), name="tiny")


def example(number: int, length: int = 3) -> Example:
    talk = [("user", f"question {number} " + "word " * length), ("assistant", f"answer {number}")]
    messages = tuple(Message.model_validate({"role": r, "content": c}) for r, c in talk)
    return Example(id=f"id{number:05}", messages=messages, cluster=f"c{number}", line=number + 2)


def content(rows: Tokenised) -> list[tuple[list[int], list[bool]]]:
    return [
        (r["ids"].tolist(), r["mask"].tolist()) for r in (rows.table[i] for i in range(len(rows)))
    ]


class Kept:
    """A split file, and its tokens from a folder, with what was said."""

    def __init__(self, root: Path, fmt: PromptFormat, rows: list[Example]) -> None:
        self.fmt, self.folder, self.path = fmt, root / "tokens", root / "train.jsonl"
        write_jsonl(self.path, rows)

    def get(
        self, fmt: PromptFormat | None = None, max_length: int = LIMIT
    ) -> tuple[Tokenised, str]:
        console = Console(stream=io.StringIO())
        found = tokenised(self.path, fmt or self.fmt, max_length=max_length, keep_answer=True,
                          folder=self.folder, console=console)  # fmt: skip
        return found, console.stream.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def kept(tmp_path: Path, fmt: PromptFormat) -> Kept:
    return Kept(tmp_path, fmt, [example(n, 3 if n % 9 else 40) for n in range(1500)])


def test_rows_are_as_each_alone(fmt: PromptFormat) -> None:
    rows = [example(n, n % 7) for n in range(50)]
    found = tokenise(rows, fmt, max_length=LIMIT, keep_answer=False)
    for (ids, mask), row in zip(content(found), rows, strict=True):
        alone = fmt.example(row.messages)
        assert (tuple(ids), tuple(mask)) == (alone.ids, alone.supervised)
    assert found.lengths.tolist() == [len(ids) for ids, _ in content(found)]
    assert found.supervised.tolist() == [sum(mask[1:]) for _, mask in content(found)]
    assert len(tokenise([], fmt, max_length=LIMIT, keep_answer=False)) == 0


def test_rows_are_encoded_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    first, said = kept.get()
    assert said == ""
    assert (first.shortened, first.dropped) == (167, 0)
    assert max(first.lengths) == LIMIT
    monkeypatch.setattr(PromptFormat, "examples", None)  # as far as it can be from being called
    again, said = kept.get()
    assert said == ""
    assert content(again) == content(first)
    assert (again.shortened, again.lengths.tolist()) == (167, first.lengths.tolist())
    assert (again.supervised == first.supervised).all()
    assert again.table.cache_files  # mapped from the file


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "facts", "text"])
def test_damage_is_told_and_mended(kept: Kept, damage: str) -> None:
    good = content(kept.get()[0])
    arrow, facts = kept.folder / "train.arrow", kept.folder / "train.json"
    raw = arrow.read_bytes()
    half = len(raw) // 2
    if damage == "flip":
        arrow.write_bytes(raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :])
    elif damage == "cut":
        arrow.write_bytes(raw[:half])
    elif damage == "gone":
        arrow.unlink()
    else:
        facts.write_text("{" if damage == "facts" else "[]")
    found, said = kept.get()
    assert "tokens/train.arrow is damaged: the rows are encoded anew" in said
    assert content(found) == good
    assert kept.get()[1] == ""


def test_tokens_of_something_else_are_not_taken(kept: Kept) -> None:
    kept.get()
    template = PromptFormat(small_tokenizer(TEMPLATE_3), name="tiny")
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["question"])
    other = PromptFormat(tokenizer, name="tiny")
    for change in ({"fmt": template}, {"fmt": other}, {"max_length": 50}):
        found, said = kept.get(**change)  # type: ignore[arg-type]
        assert "was made from other rows or settings" in said
        length = change.get("max_length", LIMIT)
        anew = tokenise(read_jsonl(kept.path, Example), change.get("fmt", kept.fmt), max_length=length, keep_answer=True)  # fmt: skip
        assert content(found) == content(anew)
        kept.get()
    write_jsonl(kept.path, [example(5)])
    assert len(kept.get()[0]) == 1


def test_a_failure_leaves_nothing_half_made(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gemma_lora.data.tokens._Writer.close", full)
        with pytest.raises(EnvironmentFault, match="No space left"):
            kept.get()
    assert list(kept.folder.iterdir()) == []
    assert kept.get()[1] == ""


def test_no_file_no_rows(kept: Kept) -> None:
    kept.path.unlink()
    assert len(kept.get()[0]) == 0


def test_training_finds_what_the_audit_encoded(
    tmp_path: Path, fmt: PromptFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[f"{n} about " + "word " * (n % 30), f"answer {n} " * (1 + n % 3)] for n in range(1300)]
    with (tmp_path / "data.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["question", "answer"], *rows])
    data = {"path": str(tmp_path / "data.csv"), "on_long_row": "keep-answer", "near_duplicate": 1}
    config = Config.model_validate({"data": data, "train": {"max_length": LIMIT}})
    run = RunDir(tmp_path / "run")
    facts = prepare(config, fmt, run, Console(quiet=True))
    assert sorted(path.name for path in run.tokens.iterdir()) == [
        "train.arrow", "train.json", "validation.arrow", "validation.json"
    ]  # fmt: skip
    anew = {
        path: tokenise(read_jsonl(path, Example), fmt, max_length=LIMIT, keep_answer=True)
        for path in (run.train_rows, run.validation_rows)
    }
    monkeypatch.setattr(PromptFormat, "examples", None)
    shortened = 0
    for path, expected in anew.items():
        found = tokenised(path, fmt, max_length=LIMIT, keep_answer=True, folder=run.tokens,
                          console=Console(quiet=True))  # fmt: skip
        assert content(found) == content(expected)
        assert found.shortened == expected.shortened
        assert np.array_equal(found.supervised, expected.supervised)
        shortened += found.shortened
    assert 0 < shortened <= facts["rows"]["truncated"]
