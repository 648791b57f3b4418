"""Recognition of columns, conversations, and what becomes of the cells."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gemma_lora.config import DataConfig
from gemma_lora.data import Loaded, load_examples
from gemma_lora.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def load(tmp_path: Path, header: list[str], rows: list[list[str]], **settings: Any) -> Loaded:
    stream = io.StringIO()
    csv.writer(stream).writerows([header, *rows])
    path = tmp_path / "data.csv"
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    return load_examples(path, DataConfig.model_validate(settings))


def names(loaded: Loaded) -> dict[str, str]:
    return {part: loaded.table.columns[i] for part, i in loaded.columns.parts.items()}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("question,answer", {"question": "question", "answer": "answer"}),
        ("Prompt,Completion", {"question": "Prompt", "answer": "Completion"}),
        ("User Question,Agent_Response", {"question": "User Question", "answer": "Agent_Response"}),
        ("id,query,reply,label", {"question": "query", "answer": "reply"}),
        ("input,output,uuid", {"question": "input", "answer": "output"}),
        ("user,assistant", {"question": "user", "answer": "assistant"}),
        (
            "instruction,input,output",
            {"question": "instruction", "context": "input", "answer": "output"},
        ),
        (
            "instruction,context,response,category",
            {"question": "instruction", "context": "context", "answer": "response"},
        ),
        (
            "system,prompt,response",
            {"system": "system", "question": "prompt", "answer": "response"},
        ),
        ("question,answer,user", {"question": "question", "answer": "answer"}),
        ("Frage,Antwort", {"question": "Frage", "answer": "Antwort"}),
        ("Q,A", {"question": "Q", "answer": "A"}),
    ],
)
def test_usual_names(tmp_path: Path, header: str, expected: dict[str, str]) -> None:
    columns = header.split(",")
    rows = [[f"{name} {i}" for name in columns] for i in range(2)]
    assert names(load(tmp_path, columns, rows)) == expected


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("question,query,answer", ["2 columns could be the question: 'question', 'query'"]),
        ("prompt,response,output", ["2 columns could be the answer: 'response', 'output'"]),
        ("question,prompt,answer,reply", ["could be the question", "could be the answer"]),
        (
            "question,label",
            ["no column looks like the answer", "column 2: 'label', first 'label 0'"],
        ),
        ("answer,label", ["no column looks like the question"]),
        (
            "instruction,input,context,output",
            ["2 columns could be the context: 'context', 'input'"],
        ),
        ("question,answer,messages", ["a column of conversations: 'messages'"]),
    ],
)
def test_ambiguity_lists_the_columns(tmp_path: Path, header: str, parts: list[str]) -> None:
    columns = header.split(",")
    with pytest.raises(DataError) as caught:
        load(tmp_path, columns, [[f"{name} {i}" for name in columns] for i in range(2)])
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert all(f"'{name}'" in message for name in columns)
    assert "--question-column" in message


def test_flags_win(tmp_path: Path) -> None:
    header, rows = ["question", "query", "answer", "note"], [["a", "b", "c", "d"]]
    found = load(tmp_path, header, rows, question_column="query")
    assert names(found) == {"question": "query", "answer": "answer"}
    found = load(tmp_path, header, rows, question_column="QUERY", answer_column="note")
    assert names(found) == {"question": "query", "answer": "note"}
    with pytest.raises(DataError, match="there is no column 'qestion'; did you mean 'question'"):
        load(tmp_path, header, rows, question_column="qestion")
    with pytest.raises(DataError, match="name the same column 'note'"):
        load(tmp_path, header, rows, question_column="note", answer_column="note")


def test_named_columns_find_the_header(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("Report,,\nof 2026,,\nTheme,Said,Meant\na,b,c\n")
    loaded = load_examples(path, DataConfig(question_column="theme", answer_column="meant"))
    assert (loaded.table.header_line, loaded.rows[0].line) == (3, 4)


def test_context_follows_the_question(tmp_path: Path) -> None:
    header = ["instruction", "input", "output"]
    rows = [["Sum up.", "A long text.", "Short."], ["Say hi.", "", "Hi."], ["Go.", "  ", "Gone."]]
    found = [row.messages[0].content for row in load(tmp_path, header, rows).rows]
    assert found == ["Sum up.\n\nA long text.", "Say hi.", "Go."]
    found = [
        r.messages[0].content for r in load(tmp_path, header, rows, context_column="none").rows
    ]
    assert found == ["Sum up.", "Say hi.", "Go."]


def test_constant_context_is_left_out_and_told(tmp_path: Path) -> None:
    header = ["context", "instruction", "response"]
    rows = [["support", "a", "b"], ["support", "c", "d"]]
    loaded = load(tmp_path, header, rows)
    assert loaded.rows[0].messages[0].content == "a"
    assert any("--context-column context would add it" in note for note in loaded.columns.notes)
    loaded = load(tmp_path, header, rows, context_column="context")
    assert loaded.rows[0].messages[0].content == "a\n\nsupport"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not here")
def test_bitext_is_recognised() -> None:
    path = SHARED / "customer_service" / "bitext_customer_support_4514.csv"
    loaded = load_examples(path, DataConfig())
    assert names(loaded) == {"question": "instruction", "answer": "response"}
    assert "customer support" in loaded.columns.notes[0]


def test_system_column(tmp_path: Path) -> None:
    rows = [["Be kind.", "a", "b"], ["", "c", "d"]]
    loaded = load(tmp_path, ["system", "question", "answer"], rows)
    assert [m.role for m in loaded.rows[0].messages] == ["system", "user", "assistant"]
    assert [m.role for m in loaded.rows[1].messages] == ["user", "assistant"]


def test_ids_do_not_depend_on_order(tmp_path: Path) -> None:
    rows = [["a", "b"], ["c", "d"], ["a", "b"], ["a", "x"]]
    forward = load(tmp_path, ["question", "answer"], rows)
    backward = load(tmp_path, ["question", "answer"], rows[::-1])
    assert sorted(r.id for r in forward.rows) == sorted(r.id for r in backward.rows)
    assert len({r.id for r in forward.rows}) == 4
    assert forward.rows[2].id == forward.rows[0].id + "-2"
    assert forward.repeats == 1


# ---------------------------------------------------------------- conversations

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": " Good bye "},
]
SHAREGPT = [
    {
        "from": {"user": "human", "assistant": "gpt", "system": "system"}[t["role"]],
        "value": t["content"],
    }
    for t in TALK
]


def conversations(tmp_path: Path, cells: list[Any], **settings: Any) -> Loaded:
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps({"messages": cell}) for cell in cells))
    return load_examples(path, DataConfig.model_validate(settings))


@pytest.mark.parametrize("cell", [TALK, SHAREGPT, json.dumps(TALK), repr(TALK)])
def test_conversation_forms(tmp_path: Path, cell: Any) -> None:
    row = conversations(tmp_path, [cell]).rows[0]
    assert [(m.role, m.content) for m in row.messages] == [(t["role"], t["content"]) for t in TALK]
    assert row.question == "Hi\nBye"


def test_conversations_in_csv(tmp_path: Path) -> None:
    loaded = load(tmp_path, ["id", "conversations"], [["1", json.dumps(SHAREGPT)]])
    assert len(loaded.rows[0].messages) == 5


def test_parts_of_text_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert conversations(tmp_path, [turns]).rows[0].messages[0].content == "ab"


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        (TALK[:4], "the last turn is not the assistant's"),
        (TALK[2:], "turn 1 is by the assistant where the user should speak"),
        ([TALK[1], TALK[3], TALK[4]], "turn 2 is by the user where the assistant should speak"),
        ([TALK[1], {"role": "tool", "content": "x"}], "turn 2: the role is 'tool'"),
        ([TALK[1], {"role": "assistant", "content": " "}], "turn 2: the assistant turn is empty"),
        ([{"role": "user", "content": [{"type": "image"}]}, TALK[2]], "is not text"),
        ("not a list", "is not a JSON list of turns"),
        (" ", "the conversation is empty"),
        ([[]], "turn 1: '[]' where an object"),
        ({"role": "user"}, "where a list of turns should be"),
        ("[" * 100_000, "nested too deeply|not a JSON list"),
    ],
)
def test_conversation_faults_are_located(tmp_path: Path, cell: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        conversations(tmp_path, [TALK, cell, TALK])
    message = str(caught.value)
    assert "line 2, column 'messages': " in message
    assert any(piece in message for piece in part.split("|")), message
