"""Baselines answer: which training rows are shown, what the model is asked, what starts over."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from support.tiny import FAMILIES, tokenizer_for

from gemma_lora import model as models
from gemma_lora.answer import (
    Question,
    answer_baselines,
    baseline_inputs,
    check_baselines,
    check_prompts,
)
from gemma_lora.answer.examples import few_shot, nearest
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.data.shingles import normalise
from gemma_lora.errors import ConfigError, DataError, ModelError
from gemma_lora.model.decoding import generate
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Answer, Example, Message
from gemma_lora.rundir import RunDir, digest, read_json, read_jsonl, write_jsonl


def example(
    question: str, reply: str = "a reply", *, cluster: str = "", system: str = ""
) -> Example:
    messages = [Message(role="user", content=question), Message(role="assistant", content=reply)]
    if system:
        messages.insert(0, Message(role="system", content=system))
    name = digest(question, reply, system)[:16]
    return Example(id=name, messages=tuple(messages), cluster=cluster or name, line=2)


def asked(row: Example) -> Question:
    return Question(row.id, row.prompt, row.reference, row.cluster)


def quiet() -> Console:
    return Console(quiet=True, stream=io.StringIO())


# ---------------------------------------------------------------------- which rows are shown


def shingles(text: str) -> set[str]:
    plain = normalise(text)
    return {plain[i : i + 5] for i in range(len(plain) - 4)} or {plain}


def test_the_nearest_are_those_of_a_plain_count(tmp_path: Path) -> None:
    words = [
        "lamp",
        "order",
        "refund",
        "parcel",
        "invoice",
        "address",
        "return",
        "warranty",
        "colour",
        "size",
        "退款",
        "订单",
        "größe",
    ]
    train = [
        example(" ".join(words[(i * k) % len(words)] for k in range(1, 3 + i % 7)) + f" {i}")
        for i in range(300)
    ]
    write_jsonl(tmp_path / "train.jsonl", train)
    questions = [asked(example(f"where is my {words[i]} {words[i - 3]} please")) for i in range(12)]
    found, candidates = nearest(questions, tmp_path / "train.jsonl", 5, seed=0)
    assert candidates == 300
    for question, rows in zip(questions, found, strict=True):
        mine = shingles(question.messages[-1].content)

        def like(row: Example, mine: set[str] = mine) -> float:
            other = shingles(row.prompt[-1].content)
            return len(mine & other) / len(mine | other)

        expected = sorted((like(row) for row in train), reverse=True)[:5]
        assert [like(row) for row in rows] == pytest.approx(expected)


def test_one_row_of_a_cluster_and_none_of_the_questions_own(tmp_path: Path) -> None:
    near = [example(f"where is my parcel number {i}", cluster="c1") for i in range(4)]
    own = [example(f"where is my parcel today {i}", cluster="mine") for i in range(4)]
    far = [example("how do I change the colour of a lamp")]
    write_jsonl(tmp_path / "train.jsonl", [*near, *own, *far])
    question = asked(example("where is my parcel today", cluster="mine"))
    found, _ = nearest([question], tmp_path / "train.jsonl", 4, seed=0)
    assert [row.cluster for row in found[0]] == ["c1", far[0].cluster]


def test_equal_rows_are_ordered_by_the_seed_alone(tmp_path: Path) -> None:
    rows = [example(f"{i:03d}") for i in range(50)]  # nothing in common with the question
    write_jsonl(tmp_path / "train.jsonl", rows)
    question = asked(example("where is my parcel"))

    def chosen(seed: int) -> list[str]:
        return [row.id for row in nearest([question], tmp_path / "train.jsonl", 4, seed)[0][0]]

    first = chosen(1)
    assert first == chosen(1) != chosen(2)
    write_jsonl(tmp_path / "train.jsonl", rows[::-1])
    assert chosen(1) == first


# ---------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_are_earlier_turns_in_the_models_template(family: str) -> None:
    fmt = PromptFormat(tokenizer_for(family), name=family)
    system = Message(role="system", content="Be brief.")
    question = Question("q", (system, Message(role="user", content="and now?")), "r", "c")
    rows = [example("most like it", "one"), example("less like it", "two", system="Shout!")]
    shown = few_shot(question, rows, fmt, 10_000)
    assert shown.examples == (rows[1].id, rows[0].id), "the nearest stands last"
    assert [(m.role, m.content) for m in shown.messages] == [
        ("system", "Be brief."),
        *[("user", "less like it"), ("assistant", "two")],
        *[("user", "most like it"), ("assistant", "one")],
        ("user", "and now?"),
    ]
    text = fmt.tokenizer.decode(fmt.prompt(shown.messages))
    assert (
        text.index("Be brief.")
        < text.index("less like it")
        < text.index("one")
        < text.index("and now?")
    )
    assert "Shout!" not in text


def test_the_farthest_examples_go_first_where_room_is_short() -> None:
    fmt = PromptFormat(tokenizer_for("gemma"), name="x")
    question = Question("q", (Message(role="user", content="and now?"),), "r", "c")
    rows = [example(f"question {i} " * 5, f"answer {i}") for i in range(4)]
    whole = len(fmt.prompt(few_shot(question, rows, fmt, 10_000).messages))
    for limit in range(1, whole + 1, 7):
        shown = few_shot(question, rows, fmt, limit)
        kept = len(shown.examples)
        assert shown.examples == tuple(row.id for row in reversed(rows[:kept]))
        assert kept == 0 or len(fmt.prompt(shown.messages)) <= limit
        if kept < 4:
            more = few_shot(question, rows[: kept + 1], fmt, 10_000)
            assert len(fmt.prompt(more.messages)) > limit
    assert few_shot(question, rows, fmt, 1).messages == question.messages


# ---------------------------------------------------------------------- the stage


@pytest.fixture
def made(tmp_path: Path, tiny_folder: Any):
    """A run folder with six test rows, and a maker of configs with these baselines."""
    run = RunDir(tmp_path / "run")
    write_jsonl(run.test_rows, [example(f"where is parcel {i}", f"there {i}") for i in range(6)])
    write_jsonl(run.train_rows, [example(f"how is lamp {i} made", f"so {i}") for i in range(9)])
    (tmp_path / "p.txt").write_text("Be kind.")

    def config(*names: str, **answer: Any) -> Config:
        return Config.model_validate(
            {
                "model": {"model": str(tiny_folder("gemma"))},
                "answer": {"max_new_tokens": 5, "answer_batch": 4, **answer},
                "judge": {"baseline": names},
            }
        )

    return run, config, tmp_path


def texts(run: RunDir, arm: str) -> list[str]:
    return [row.answer for row in read_jsonl(run.answers(arm), Answer)]


def test_each_arm_is_the_model_asked_with_its_own_prompt(made: Any, tiny_folder: Any) -> None:
    run, config, folder = made
    other = str(tiny_folder("gemma2"))
    names = ("few-shot:2", f"prompt:{folder / 'p.txt'}", other)
    answer_baselines(config(*names), run, quiet())
    test = read_jsonl(run.test_rows, Example)
    known = read_json(run.baselines)["arms"]
    train = {row.id: row for row in read_jsonl(run.train_rows, Example)}
    slugs = list(known)
    assert slugs == ["few-shot-2", "prompt-p", "model-gemma2"]
    for slug, folder_of in zip(
        slugs, (str(tiny_folder("gemma")), str(tiny_folder("gemma")), other), strict=True
    ):
        ref = models.resolve(folder_of)
        fmt, model = models.load_format(ref), models.load_base(ref, precision="fp32", device="cpu")
        for row, found in zip(test, read_jsonl(run.answers(slug), Answer), strict=True):
            before = [
                turn
                for name in known[slug]["chosen"].get(row.id, [])
                for turn in train[name].messages
            ]
            if slug == "prompt-p":
                before = [Message(role="system", content="Be kind.")]
            prompt = fmt.prompt([*before, *row.prompt])
            assert generate(model, fmt, [prompt], max_new_tokens=5)[0].text == found.answer
            assert (found.id, found.messages, found.cluster) == (row.id, row.prompt, row.cluster), (
                "the judge sees the question's own turns only"
            )
    assert all(len(names) == 2 for names in known["few-shot-2"]["chosen"].values())
    assert (known["few-shot-2"]["candidates"], known["few-shot-2"]["with_fewer"]) == (9, 0)


def test_only_the_arm_that_changed_is_answered_anew(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config, folder = made
    prompt = f"prompt:{folder / 'p.txt'}"
    answer_baselines(config("few-shot", prompt), run, quiet())
    before = run.answers("few-shot").stat().st_mtime_ns
    old, inputs = texts(run, "prompt-p"), baseline_inputs(config("few-shot", prompt), run)
    (folder / "p.txt").write_text("Be rude, and shout at everybody who asks.")
    now = baseline_inputs(config("few-shot", prompt), run)
    assert [name for name in now if now[name] != inputs[name]] == ["baseline prompt-p"]
    answer_baselines(config("few-shot", prompt), run, quiet())
    assert run.answers("few-shot").stat().st_mtime_ns == before
    assert texts(run, "prompt-p") != old
    # one more arm: the others are not loaded for
    loads: list[str] = []
    from gemma_lora.answer import baselines as stage

    plain = stage.load_plain
    monkeypatch.setattr(stage, "load_plain", lambda c, r, k: loads.append(r.name) or plain(c, r, k))
    answer_baselines(config("few-shot", prompt), run, quiet())
    assert loads == []
    answer_baselines(config("few-shot:1", "few-shot", prompt), run, quiet())
    assert len(loads) == 1
    assert run.answers("few-shot").stat().st_mtime_ns == before


def test_an_interrupted_arm_continues(made: Any) -> None:
    run, config, _ = made
    answer_baselines(config("few-shot"), run, quiet())
    whole = run.answers("few-shot").read_bytes()
    lines = whole.splitlines(keepends=True)
    run.answers("few-shot").write_bytes(b"".join(lines[3:]) + lines[0][:40])
    stream = io.StringIO()
    answer_baselines(config("few-shot"), run, Console(stream=stream))
    assert "few-shot answers: continuing, 3 of 6 are there" in stream.getvalue()
    assert run.answers("few-shot").read_bytes() == whole


def test_fewer_examples_than_asked_for_are_told_with_a_count(made: Any) -> None:
    run, config, _ = made
    console = quiet()
    answer_baselines(config("few-shot:12"), run, console)
    told = "few-shot-12: 6 of 6 questions have fewer than 12 examples before them, 0 have none"
    assert any(told in text for text in console.warnings)
    console = quiet()
    answer_baselines(config("few-shot", max_new_tokens=490), run, console)
    known = read_json(run.baselines)["arms"]["few-shot"]
    assert known["with_none"] == 6
    assert any("6 have none" in text for text in console.warnings)
    assert known["warnings"] == console.warnings


def test_what_cannot_work_is_refused_beforehand_all_at_once(made: Any, tmp_path: Path) -> None:
    _, config, folder = made
    (folder / "long.txt").write_text("word " * 900)
    (folder / "empty.txt").write_text("")
    base = config().model.model
    names = (
        "few-shot:99",
        f"prompt:{folder / 'none.txt'}",
        f"prompt:{folder / 'empty.txt'}",
        f"prompt:{folder / 'long.txt'}",
        "few_shot",
        base,
    )
    with pytest.raises(ConfigError) as caught:
        check_baselines(config("few-shot", *names))
    told = "\n".join(caught.value.details)
    for part in (
        "few-shot:99: the number of examples",
        "none.txt: there is no such file",
        "empty.txt: the file is empty",
        "is more than the 512 that the model takes",
        "'few_shot' is neither an existing folder nor a hub id",
        "this is the base model itself",
    ):
        assert part in told, part
    assert len(caught.value.details) == 6
    with pytest.raises(ModelError) as single:
        check_baselines(config("few_shot"))
    assert single.value.where == "--baseline few_shot"
    assert "few-shot" in (single.value.expected or "")
    with pytest.raises(ConfigError, match="cannot be used") as clash:
        check_baselines(config("prompt:a/p.txt", "few-shot", "few-shot:4"))
    assert len(clash.value.details) == 2
    check_baselines(config("few-shot", f"prompt:{folder / 'p.txt'}"))


def test_a_question_too_long_for_an_instruction_is_refused_before_training(made: Any) -> None:
    run, config, folder = made
    write_jsonl(run.test_rows, [example("word " * 100), example("short")])
    (folder / "p.txt").write_text("kind " * 100)
    check_prompts(config("few-shot"), run)
    with pytest.raises(DataError, match="1 questions are longer than the 512 tokens") as caught:
        check_prompts(config("few-shot", f"prompt:{folder / 'p.txt'}"), run)
    assert "p.txt" in str(caught.value.where)
