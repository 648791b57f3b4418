"""The data stage: what it writes, what it refuses, what its screen shows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_lora.audit import audit, prepare, show
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.errors import ConfigError, DataError
from gemma_lora.preflight import outlook
from gemma_lora.prompt import PromptFormat
from gemma_lora.records import Example
from gemma_lora.rundir import RunDir, read_json, read_jsonl

SHARED = Path(__file__).parents[3] / "shared" / "data"
EXAMPLES = Path(__file__).parents[2] / "examples"
ODD = [
    "NA",
    "null",
    "None",
    "007",
    " padded ",
    "a\r\nb",
    "x\ty",
    "ä订单",
    "<end_of_turn> <bos>",
    "=1+1",
]

Rows = list[list[str]]


@pytest.fixture(scope="module")
def fmt() -> PromptFormat:
    from support.tiny import small_tokenizer

    return PromptFormat(small_tokenizer(), name="tiny")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Config]:
    """Write rows of question and answer to a CSV file and configure a run on it."""

    def make(rows: Rows, name: str = "data.csv", *, max_length: int = 1024, **data: Any) -> Config:
        write(tmp_path / name, rows)
        tree = {
            "data": {"path": str(tmp_path / name), **data},
            "train": {"max_length": max_length},
        }
        return Config.model_validate(tree)

    return make


def write(path: Path, rows: Rows) -> Path:
    stream = io.StringIO()
    csv.writer(stream).writerows([["question", "answer"], *rows])
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    return path


def plain(count: int, start: int = 0) -> Rows:
    """Rows whose questions are not alike."""
    return [
        [hashlib.sha256(f"q{i}".encode()).hexdigest()[:30], f"answer {i}"]
        for i in range(start, start + count)
    ]


def quiet() -> Console:
    return Console(stream=io.StringIO())


def split(run: RunDir) -> dict[str, list[Example]]:
    files = {"train": run.train_rows, "validation": run.validation_rows, "test": run.test_rows}
    return {side: read_jsonl(path, Example) for side, path in files.items()}


def test_cells_survive_into_the_split(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [*plain(30), *[[f"odd question {i} {o}", o] for i, o in enumerate(ODD)]]
    run = RunDir(tmp_path / "run")
    facts = prepare(made(rows), fmt, run, quiet())
    found = {e.line: e for part in split(run).values() for e in part}
    assert sorted([m.content for m in e.messages] for e in found.values()) == sorted(rows)
    assert read_json(run.audit) == facts
    trimmed = sum(cell != cell.strip() for row in rows for cell in row)
    assert facts["rows"]["cells_trimmed"] == trimmed > 0
    assert facts["rows"]["control_text"] == 1
    # the line is that of the source file
    lines = (tmp_path / "data.csv").read_bytes().split(b"\n")
    assert all(
        e.messages[0].content.split("\r")[0].encode()[:10] in lines[e.line - 1]
        for e in found.values()
    )


def test_answers_that_the_template_keeps_from_training_are_told(tmp_path: Path) -> None:
    from support.tiny import small_tokenizer
    from support.variants import GEMMA_4, TEMPLATE_4, TEMPLATE_4_LARGE

    talks = [
        [{"role": ("user", "assistant")[n % 2], "content": f"{row} turn {n}"} for n in range(turns)]
        for row, turns in [*((q, 4) for q, _ in plain(3)), *((q, 2) for q, _ in plain(9, 3))]
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    config = Config.model_validate({"data": {"path": str(path)}})
    for template, told in ((TEMPLATE_4, False), (TEMPLATE_4_LARGE, True)):
        console = quiet()
        audit(config, PromptFormat(small_tokenizer(template, control=GEMMA_4), name="x"), console)
        line = "3 of 12 rows have several answers, and only the last of each is trained"
        assert any(line in warning for warning in console.warnings) == told


def test_the_split_is_what_the_audit_says(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [
        *plain(90),
        *[
            [
                f"good day, where is my order number {i % 10}? It should have come last Monday, and it is late",
                "soon",
            ]
            for i in range(10)
        ],
    ]
    run = RunDir(tmp_path / "run")
    facts = prepare(made(rows), fmt, run, quiet())
    parts = split(run)
    assert {side: len(part) for side, part in parts.items()} == {
        "train": 51,
        "validation": 16,
        "test": 33,
    }
    assert all(facts["split"][side] == len(part) for side, part in parts.items())
    where: dict[str, set[str]] = {}
    for side, part in parts.items():
        for example in part:
            where.setdefault(example.cluster, set()).add(side)
        assert len({e.cluster for e in part}) == facts["split"]["clusters"][side]
    assert all(len(sides) == 1 for sides in where.values())
    assert facts["duplicates"]["largest"] == 10
    assert len({e.id for part in parts.values() for e in part}) == 100


def test_order_of_the_file_changes_nothing(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [*plain(60), *plain(5), *[[f"the very same long question {i}", "x"] for i in range(5)]]
    runs = [RunDir(tmp_path / name) for name in ("one", "two", "seed")]
    prepare(made(rows), fmt, runs[0], quiet())
    random.Random(3).shuffle(rows)
    prepare(made(rows), fmt, runs[1], quiet())
    prepare(made(rows).model_copy(update={"seed": 1}), fmt, runs[2], quiet())
    ids = [{side: [e.id for e in part] for side, part in split(run).items()} for run in runs]
    assert ids[0] == ids[1] != ids[2]


def test_what_is_recognised_is_printed(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    console = quiet()
    prepare(made(plain(20)), fmt, RunDir(tmp_path / "run"), console)
    text = console.stream.getvalue()  # type: ignore[attr-defined]
    assert "question: column 'question', by its name" in text
    assert "line 2, user: " in text
    assert "line 3, user: " in text
    assert "answer 1" in text


def test_sizes_asked_for(made: Any, fmt: PromptFormat) -> None:
    facts = audit(made(plain(40), test_rows=7, validation_rows=3), fmt, quiet())
    assert [facts["split"][s] for s in ("train", "validation", "test")] == [30, 3, 7]


# ---------------------------------------------------------------- lengths


def test_long_rows_are_dropped_and_counted(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [*plain(40), ["a long one", "word " * 300]]
    console = quiet()
    run = RunDir(tmp_path / "run")
    facts = prepare(made(rows, max_length=200), fmt, run, console)
    assert facts["rows"]["dropped_by_reason"] == [{"reason": "too long", "count": 1, "lines": [42]}]
    assert (facts["rows"]["read"], facts["rows"]["used"], facts["rows"]["dropped"]) == (41, 40, 1)
    assert "1 of 41 rows of the data dropped: 1 x too long" in facts["warnings"]
    lengths = [len(fmt.example(e.messages)) for part in split(run).values() for e in part]
    assert max(lengths) == facts["tokens"]["longest"] <= 200
    assert sum(lengths) == facts["tokens"]["total"]
    assert sum(bar["rows"] for bar in facts["tokens"]["histogram"]) == 40
    assert facts["tokens"]["histogram"][0]["from"] == facts["tokens"]["shortest"]


def test_many_long_rows_stop_with_a_length_that_fits(made: Any, fmt: PromptFormat) -> None:
    rows = [*plain(40), *[[f"long {i}", "word " * 300] for i in range(4)]]
    with pytest.raises(DataError) as caught:
        audit(made(rows, max_length=200), fmt, quiet())
    assert caught.value.exit_code == 2
    assert "4 of 44 rows (9%) are longer than 200 tokens" in str(caught.value)
    assert "lines 42, 43, 44, 45" in str(caught.value)
    assert "--on-long-row keep-answer" in str(caught.value)
    enough = int(str(caught.value.remedy).split()[1])
    facts = audit(made(rows, max_length=enough), fmt, quiet())
    assert facts["rows"]["dropped"] == 0


def test_keep_answer_keeps_rows_and_counts_them(
    made: Any, fmt: PromptFormat, tmp_path: Path
) -> None:
    rows = [
        *plain(40),
        *[[f"{i} " + "word " * 300, f"kept {i}"] for i in range(4)],
        ["q", "word " * 300],
    ]
    run = RunDir(tmp_path / "run")
    config = made(rows, max_length=200, on_long_row="keep-answer")
    facts = prepare(config, fmt, run, quiet())
    assert facts["rows"]["truncated"] == 4
    assert facts["rows"]["dropped_by_reason"] == [{"reason": "too long", "count": 1, "lines": [46]}]
    kept = [e for part in split(run).values() for e in part if e.reference.startswith("kept")]
    assert len(kept) == 4
    assert all(
        len(e.messages[0].content) > 1000 for e in kept
    )  # whole in the file, cut in training
    for example in kept:
        encoded = fmt.example(example.messages, max_length=200)
        assert len(encoded) <= 200
        assert any(encoded.supervised)
    with pytest.raises(DataError, match="cannot keep their answer within 200 tokens"):
        audit(
            made([*plain(9), ["q", "word " * 300]], max_length=200, on_long_row="keep-answer"),
            fmt,
            quiet(),
        )


# ---------------------------------------------------------------- bad rows


def test_bad_rows_stop_or_are_dropped(made: Any, fmt: PromptFormat) -> None:
    rows = [*plain(30), ["no answer", " "], ["", "no question"]]
    with pytest.raises(DataError) as caught:
        audit(made(rows), fmt, quiet())
    assert "line 32, column 'answer'" in str(caught.value)
    assert "line 33, column 'question'" in str(caught.value)
    facts = audit(made(rows, on_bad_row="skip"), fmt, quiet())
    assert facts["rows"]["empty_questions"] == facts["rows"]["empty_answers"] == 1
    assert (facts["rows"]["read"], facts["rows"]["used"]) == (32, 30)
    assert facts["warnings"][0] == (
        "2 of 32 rows of the data dropped: 1 x empty answer, 1 x empty question"
    )


def test_nothing_usable(made: Any, fmt: PromptFormat) -> None:
    with pytest.raises(DataError, match="too few"):
        audit(made(plain(5)), fmt, quiet())
    with pytest.raises(DataError, match="2 x empty answer"):
        audit(made([["a", ""], ["b", ""]], on_bad_row="skip"), fmt, quiet())


# ---------------------------------------------------------------- duplicates and leaks


def test_big_clusters_and_repeats_are_warned_of(made: Any, fmt: PromptFormat) -> None:
    rows = [*plain(40), *[["the same question again", "the same answer"]] * 25]
    facts = audit(made(rows), fmt, quiet())
    text = "\n".join(facts["warnings"])
    assert "has 25 of 65 rows (38%)" in text
    assert "24 of 65 rows repeat an earlier row word for word" in text
    assert facts["duplicates"]["repeated_rows"] == 24
    same = [[question, "always this"] for question, _ in plain(40)]
    assert "40 of 40 rows have the same answer" in "\n".join(
        audit(made(same), fmt, quiet())["warnings"]
    )


def test_own_test_file(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    asked = "How can I return the parcel that came yesterday?"
    near = "How can I return the parcel that came yesterday ?"
    data = [*plain(60), [asked, "So."], ["What does the express delivery cost me?", "5."]]
    test = [
        *plain(10, start=100),
        [asked.upper(), "Other."],
        [near, "x"],
        ["Unrelated, quite new words", "y"],
    ]
    own = str(write(tmp_path / "test.csv", test))
    run = RunDir(tmp_path / "run")
    console = quiet()
    facts = prepare(made(data, test=own), fmt, run, console)
    parts = split(run)
    assert [len(parts[s]) for s in ("train", "validation", "test")] == [52, 10, 13]
    assert sorted(e.line for e in parts["test"]) == list(range(2, 15))
    assert (facts["leaks"]["exact"], facts["leaks"]["near"]) == (1, 1)
    assert facts["leaks"]["examples"][0] == {
        "kind": "exact",
        "test_line": 12,
        "data_line": 62,
        "test_file": "test.csv",
        "data_file": "data.csv",
    }
    assert any(w.startswith("leak: 1 of 13 test questions") for w in facts["warnings"])
    assert facts["test_file"]["source"]["file"] == "test.csv"
    assert facts["test_file"]["rows"]["used"] == 13
    clean = prepare(
        made(data, test=str(write(tmp_path / "test.csv", test[:10]))), fmt, run, quiet()
    )
    assert (clean["leaks"]["exact"], clean["leaks"]["near"]) == (0, 0)
    assert not any("leak" in w for w in clean["warnings"])
    with pytest.raises(ConfigError, match="--test-rows"):
        audit(made(data, test=own, test_rows=5), fmt, quiet())


def test_up_to_twenty_leaks_are_named_with_files_and_lines(
    made: Any, fmt: PromptFormat, tmp_path: Path
) -> None:
    data = plain(60)
    own = str(write(tmp_path / "test.csv", [*plain(5, start=100), *data[:25]]))
    facts = audit(made(data, test=own), fmt, quiet())
    pairs = facts["leaks"]["examples"]
    assert (facts["leaks"]["exact"], len(pairs)) == (25, 20)
    assert [(p["test_line"], p["data_line"]) for p in pairs] == [(7 + i, 2 + i) for i in range(20)]
    warning = next(w for w in facts["warnings"] if w.startswith("leak"))
    assert "test.csv line 7 and data.csv line 2; " in warning
    assert "more pairs in audit.json" in warning


def test_few_test_questions_are_warned_of(made: Any, fmt: PromptFormat) -> None:
    facts = audit(made(plain(8)), fmt, quiet())
    assert any("only 2 test questions" in w and "weak" in w for w in facts["warnings"])
    assert audit(made(plain(90)), fmt, quiet())["warnings"] == []  # 30 test questions


def test_only_identical_questions(made: Any, fmt: PromptFormat) -> None:
    with pytest.raises(DataError) as caught:
        audit(made([["Where is it?", f"answer {i}"] for i in range(20)]), fmt, quiet())
    assert "all 20 rows ask the same question" in str(caught.value)
    assert "data.csv" in str(caught.value)
    assert "--near-duplicate" not in str(caught.value)
    two = [[f"Question {i % 2} of two?" * (1 + i % 2), f"a {i}"] for i in range(20)]
    with pytest.raises(DataError) as caught:
        audit(made(two, near_duplicate=1.0), fmt, quiet())
    assert "--near-duplicate" not in str(caught.value)
    assert "add rows with other questions" in str(caught.value)


def test_a_fault_of_the_test_file_names_that_file(
    made: Any, fmt: PromptFormat, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    for text in ("topic,answer\na,b\n", "question,answer\na,\nb,c\n", "question,answer\na,b\n"):
        file.write_text(text)
        with pytest.raises(DataError) as caught:
            audit(made(plain(30), test=str(file)), fmt, quiet())
        assert caught.value.where == str(file)
    with pytest.raises(DataError, match="too few") as caught:
        audit(made(plain(4), test=str(write(file, plain(9, start=50)))), fmt, quiet())
    assert "data.csv" in str(caught.value.where)


# ---------------------------------------------------------------- JSON lists


def as_json(path: Path, rows: list[dict[str, Any]]) -> Config:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return Config.model_validate(
        {"data": {"path": str(path), "on_bad_row": "skip"}, "train": {"max_length": 200}}
    )


def test_rows_of_a_one_line_list_are_named_by_item(fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a} for q, a in plain(40)]
    rows[4]["answer"] = ""
    rows[30]["answer"] = "word " * 300
    facts = audit(as_json(tmp_path / "rows.json", rows), fmt, quiet())
    reasons = facts["rows"]["dropped_by_reason"]
    assert reasons[0] == {"reason": "empty answer", "count": 1, "lines": [1], "items": [5]}
    assert reasons[1]["items"] == [31]
    text = screen(facts)
    assert "1 x empty answer: item 5" in text
    assert "line 1, item 2, user:" in text


def test_objects_without_text_are_shown(fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a} for q, a in plain(15)]
    rows[3:3] = [{"question": "", "answer": ""}] * 3
    facts = audit(as_json(tmp_path / "rows.json", rows), fmt, quiet())
    assert (facts["rows"]["read"], facts["rows"]["blank"]) == (15, 3)
    assert any(
        "3 rows of the data hold no text at all" in w and "line 1, item 4" in w
        for w in facts["warnings"]
    )
    assert "15 read, 15 used, 0 dropped, 3 blank (line 1, item 4, " in screen(facts)


# ---------------------------------------------------------------- the screen


def test_the_preview_shows_system_question_and_answer(fmt: PromptFormat, tmp_path: Path) -> None:
    rows = [{"system": "Be kind.", "question": q, "answer": a} for q, a in plain(60)]
    text = screen(audit(as_json(tmp_path / "rows.json", rows), fmt, quiet()))
    assert "item 1, system: Be kind." in text
    assert f", user: {rows[0]['question']}" in text
    assert ", assistant: answer 0" in text
    assert len(text.splitlines()) <= 45
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    talks = [{"messages": [*turns, {"role": "user", "content": q}, turns[1]]} for q, _ in plain(60)]
    assert "user: Hi (and 2 more turns)" in screen(
        audit(as_json(tmp_path / "talks.json", talks), fmt, quiet())
    )


def screen(facts: dict[str, Any], *, colour: bool = False) -> str:
    stream = io.StringIO()
    show(facts, stream, colour)
    return stream.getvalue()


def test_show_fits_a_screen_and_marks_loss(made: Any, fmt: PromptFormat) -> None:
    rows = [*plain(40), *[[f"odd question {i} {o}", o] for i, o in enumerate(ODD)]]
    facts = audit(made(rows), fmt, quiet())
    text = screen(facts)
    assert "\x1b" not in text
    assert "⟦answer" in text
    assert "<end_of_turn>⟧" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) <= 45
    coloured = screen(facts, colour=True)
    assert "\x1b[1;32m⟦" in coloured


# ---------------------------------------------------------------- the plan of memory

GIB = 2**30


def planned(
    config: Config, fmt: PromptFormat, monkeypatch: pytest.MonkeyPatch, free: float, **more: Any
) -> dict[str, Any]:
    """The audit's facts with so many bytes free, for the shipped model on a CPU."""
    monkeypatch.setattr("gemma_lora.model.fitting.free_memory", lambda _device: int(free))
    config = Config.model_validate(
        {**config.model_dump(), "model": {"device": "cpu", **more.pop("model", {})}, **more}
    )
    return audit(config, fmt, quiet(), outlook=outlook(config))


def memory_lines(facts: dict[str, Any]) -> list[str]:
    lines = screen(facts).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("memory "))
    rest = next(n for n, line in enumerate(lines[start:]) if not line.strip())
    assert len(lines) <= 45
    return lines[start : start + rest]


def test_the_plan_is_shown_and_kept(made: Any, fmt: PromptFormat, monkeypatch: Any) -> None:
    facts = planned(made(plain(60)), fmt, monkeypatch, 4 * GIB)
    plan = facts["memory"]
    assert (plan["fits"], plan["problem"], plan["details"]) == (True, None, [])
    assert (plan["device"], plan["precision"]) == ("cpu", "fp32")
    assert plan["gradient_checkpointing"] is False
    assert plan["predicted_bytes"] == sum(plan["predicted_parts"].values())
    size = plan["predicted_bytes"] / GIB
    assert memory_lines(facts) == [
        f"memory    {size:.1f} GiB to train (cpu, fp32): {plan['micro_batch_tokens']} tokens at once, "
        "checkpointing off"
    ]


def test_where_nothing_fits_the_screen_and_the_file_say_what_would(
    made: Any, fmt: PromptFormat, monkeypatch: Any
) -> None:
    facts = planned(made(plain(60)), fmt, monkeypatch, 2**20, model={"precision": "fp32"})
    plan = facts["memory"]
    assert plan["fits"] is False
    assert "in fp32 needs" in plan["problem"]
    assert "\n" not in plan["problem"]
    for what in ("starter in bf16 needs", "with --max-length", "its weights alone are"):
        assert any(what in line for line in plan["details"])
    text = " ".join(" ".join(memory_lines(facts)).split())
    assert text == " ".join(["memory", plan["problem"], *plan["details"]])


def test_settings_that_will_not_fit_are_shown_with_what_would(
    made: Any, fmt: PromptFormat, monkeypatch: Any
) -> None:
    config = made(plain(60))
    least = planned(config, fmt, monkeypatch, 4 * GIB)["memory"]["predicted_bytes"]
    train = {"micro_batch_tokens": 4096, "batch": 64, "gradient_checkpointing": False}
    facts = planned(config, fmt, monkeypatch, least, train=train)
    plan = facts["memory"]
    assert (plan["fits"], plan["micro_batch_tokens"]) == (False, 4096)
    assert "as set" in plan["problem"]
    shown = " ".join(" ".join(memory_lines(facts)).split())
    assert "4096 tokens at once, checkpointing off" in shown
    assert plan["problem"] in shown


def test_the_plan_counts_the_rows_that_are_trained_on(
    made: Any, fmt: PromptFormat, tmp_path: Path
) -> None:
    rows = [[question, "word " * (3 + n)] for n, (question, _) in enumerate(plain(60))]
    for seed in range(9):  # till the longest row is not to be trained on
        asked: list[list[list[int]]] = []

        def remember(*counts: Any, asked: Any = asked) -> dict[str, Any]:
            asked.append([sorted(c.tolist()) for c in counts])
            return {}

        run = RunDir(tmp_path / f"run{seed}")
        config = made(rows).model_copy(update={"seed": seed})
        facts = prepare(config, fmt, run, quiet(), outlook=remember)
        encoded = [fmt.example(row.messages) for row in split(run)["train"]]
        assert asked == [
            [sorted(len(e) for e in encoded), sorted(sum(e.supervised) for e in encoded)]
        ]
        if asked[0][0][-1] < facts["tokens"]["longest"]:
            return
    pytest.fail("the longest row was trained on with every seed")


def test_rendered_row_is_what_training_sees(made: Any, fmt: PromptFormat) -> None:
    facts = audit(made(plain(30)), fmt, quiet())
    row = facts["rendered"]
    assert len(row["ids"]) == len(row["loss"])
    text = "".join(run for run, loss in row["runs"] if loss)
    assert text.startswith("answer ")
    assert text.endswith("<end_of_turn>")
    assert row["ids"][0] == fmt.bos_id
    assert sum(row["loss"]) < len(row["loss"])


def test_data_cannot_reach_the_terminal(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    nasty = "\x1b[2J\x1b]0;title\x07[bold red]markup[/] \x9b31m \u202egnp.exe \r over"
    rows = [[f"{q} {nasty}", f"{a} {nasty}"] for q, a in plain(30)]
    console = quiet()
    facts = prepare(made(rows), fmt, RunDir(tmp_path / "run"), console)
    noted = console.stream.getvalue()  # type: ignore[attr-defined]
    for text in (screen(facts), noted):
        assert not any(c in text for c in "\x1b\x07\x9b\u202e\r")
        assert "[bold red]markup[/]" in text


def test_show_needs_no_unicode(made: Any, fmt: PromptFormat) -> None:
    facts = audit(made(plain(20)), fmt, quiet())
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    show(facts, stream, False)
    assert b"20 read" in buffer.getvalue()


def test_audit_json_is_plain(made: Any, fmt: PromptFormat, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    prepare(made(plain(30)), fmt, run, quiet())
    facts = json.loads(run.audit.read_text())
    assert (
        facts["source"]["sha256"]
        == hashlib.sha256((tmp_path / "data.csv").read_bytes()).hexdigest()
    )
    assert str(tmp_path) not in run.audit.read_text()  # no path of this machine
    assert facts["columns"]["recognised"]["answer"] == {"name": "answer", "how": "by its name"}
    assert [row["line"] for row in facts["example_rows"]] == [2, 3]


@pytest.mark.parametrize("name", ["customer_service.csv", "programming_assistant.csv"])
def test_examples_are_clean(name: str, fmt: PromptFormat) -> None:
    config = Config.model_validate(
        {"data": {"path": str(EXAMPLES / name)}, "train": {"max_length": 4096}}
    )
    facts = audit(config, fmt, quiet())
    assert facts["rows"]["dropped"] == 0
    assert facts["split"]["test"] >= 60
    assert facts["warnings"] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not here")
@pytest.mark.parametrize(
    "name",
    [
        "general_instruction/self_instruct_user_oriented_252.jsonl",
        "general_instruction/gpteacher_roleplay_instruct.json",
    ],
)
def test_real_sets_go_through(name: str, fmt: PromptFormat) -> None:
    config = Config.model_validate(
        {"data": {"path": str(SHARED / name)}, "train": {"max_length": 4096}}
    )
    facts = audit(config, fmt, quiet())
    assert len(screen(facts).splitlines()) <= 45
    assert facts["split"]["test"] >= 60
