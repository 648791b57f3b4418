"""Reading tables: real messy files, encodings, dialects, and located faults."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from gemma_lora.config import DataConfig
from gemma_lora.data import Table, load_examples, read_table
from gemma_lora.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the development data (../shared/data) are not here"
)


def table(
    tmp_path: Path, content: str | bytes, name: str = "data.csv", **settings: object
) -> Table:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, DataConfig.model_validate(settings))


def fault(tmp_path: Path, content: str | bytes, name: str = "data.csv", **settings: object) -> str:
    """The error text of loading `content` for training."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load_examples(path, DataConfig.model_validate(settings))
    assert caught.value.exit_code == 2
    return str(caught.value)


# ---------------------------------------------------------------- real files


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows", "columns", "encoding"),
    [
        ("Datagov_FY10_EDU_recp_by_State.csv", 55, 9, "utf-8"),
        ("FY09_EDU_Recipients_by_State.csv", 52, 9, "utf-8"),
        ("ks_1033_data.csv", 1575, 14, "utf-8"),
        ("mac_newlines.csv", 2, 3, "utf-8"),
        ("test_latin1.csv", 2, 3, "latin-1"),
        ("test_locale.csv", 1, 3, "utf-8"),
        ("test_utf16_little.csv", 2, 3, "utf-16-le"),
        ("test_utf8_bom.csv", 2, 3, "utf-8"),
    ],
)
def test_messy_files_give_clean_tables(name: str, rows: int, columns: int, encoding: str) -> None:
    found = read_table(SHARED / "messy_csv" / name, DataConfig())
    named = [column for column in found.columns if column]
    assert (len(found.rows), len(named), found.encoding) == (rows, columns, encoding)
    assert found.problems == []
    with pytest.raises(DataError, match="no column looks like the answer"):
        load_examples(SHARED / "messy_csv" / name, DataConfig())


@needs_shared
def test_messy_details() -> None:
    folder = SHARED / "messy_csv"
    titled = read_table(folder / "Datagov_FY10_EDU_recp_by_State.csv", DataConfig())
    assert titled.header_line == 3
    assert any("lines 1 to 2 are left out" in note for note in titled.notes)
    trailing = read_table(folder / "FY09_EDU_Recipients_by_State.csv", DataConfig())
    assert trailing.blank == 1
    assert trailing.rows[0][:3] == ["ALABAMA", "AL", "01"]
    assert read_table(folder / "mac_newlines.csv", DataConfig()).rows[1][0] == "Once upon\ra time"
    assert read_table(folder / "test_latin1.csv", DataConfig()).rows[1][2] == "©"
    assert read_table(folder / "test_utf16_little.csv", DataConfig()).rows[1][2] == "ʤ"
    assert read_table(folder / "test_utf8_bom.csv", DataConfig()).columns == ["foo", "bar", "baz"]
    with pytest.raises(DataError) as caught:
        load_examples(
            folder / "bad.csv", DataConfig(question_column="column_a", answer_column="column_b")
        )
    assert str(caught.value).count("where the header has 3") == 2
    assert "line 2: 4 cells" in str(caught.value)
    assert "line 3: 2 cells" in str(caught.value)


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("customer_service/bitext_customer_support_4514.csv", 4514),
        ("general_instruction/gsm8k_train.jsonl", 7473),
        ("programming/gpteacher_codegen_instruct.json", 4535),
        ("general_instruction/gpteacher_roleplay_instruct.json", 1923),
        ("general_instruction/self_instruct_seed_tasks_175.jsonl", 175),
        ("general_instruction/self_instruct_user_oriented_252.jsonl", 252),
        ("multilingual/InstructGermanDPR_v1_test.csv", 2050),
    ],
)
def test_real_sets_load_whole(name: str, rows: int) -> None:
    loaded = load_examples(SHARED / name, DataConfig())
    assert len(loaded.rows) == rows == loaded.table.rows_read


@needs_shared
def test_german_cells_equal_the_standard_reader() -> None:
    path = SHARED / "multilingual" / "InstructGermanDPR_v1_test.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        expected = [(row["input"], row["output"]) for row in csv.DictReader(stream)]
    rows = load_examples(path, DataConfig()).rows
    assert [(r.messages[0].content, r.messages[1].content) for r in rows] == expected


@needs_shared
def test_lines_are_physical() -> None:
    path = SHARED / "customer_service" / "bitext_customer_support_4514.csv"
    lines = path.read_text(encoding="utf-8").split("\n")
    for row in load_examples(path, DataConfig()).rows[::97]:
        assert row.messages[0].content.split("\n")[0][:20] in lines[row.line - 1]


@needs_shared
def test_questions_without_answers_are_told() -> None:
    with pytest.raises(DataError) as caught:
        load_examples(SHARED / "customer_service" / "banking77_train.csv", DataConfig())
    assert "no column looks like the answer" in str(caught.value)
    assert "'text'" in str(caught.value)
    assert "'category'" in str(caught.value)
    assert "--answer-column" in str(caught.value)


# ---------------------------------------------------------------- cells as written

ODD = [
    "NA",
    "null",
    "None",
    "nan",
    "007",
    "1.0",
    "1e5",
    "TRUE",
    " spaces ",
    "a\nb",
    'say "hi"',
    "=1+1",
]


def test_cells_survive_csv(tmp_path: Path) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows(
        [["question", "answer"], *([f"q{i}", c] for i, c in enumerate(ODD))]
    )
    assert [row[1] for row in table(tmp_path, stream.getvalue()).rows] == ODD


def test_cells_survive_json(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": c} for i, c in enumerate(ODD)]
    assert [r[1] for r in table(tmp_path, json.dumps(rows), "x.json").rows] == ODD
    lines = "\n".join(json.dumps(row) for row in rows)
    assert [r[1] for r in table(tmp_path, lines, "x.jsonl").rows] == ODD


def test_json_scalars_stay_as_written(tmp_path: Path) -> None:
    text = '[{"question": 1.50, "answer": true, "x": 12345678901234567890123, "y": null, "z": 1E5}]'
    assert table(tmp_path, text, "x.json").rows == [
        ["1.50", "true", "12345678901234567890123", "", "1E5"]
    ]


# ---------------------------------------------------------------- encodings

GERMAN = (
    "frage;antwort\nWo ist die Straße?;Die Straße ist über die Brücke für Fußgänger zu erreichen.\n"
)


@pytest.mark.parametrize(
    ("encoding", "mark", "expected"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8", b"\xef\xbb\xbf", "utf-8"),
        ("utf-16-le", b"\xff\xfe", "utf-16-le"),
        ("utf-16-be", b"\xfe\xff", "utf-16-be"),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
        ("latin-1", b"", "latin-1"),
        ("cp1252", b"", "latin-1"),
    ],
)
def test_umlauts_in_every_encoding(
    tmp_path: Path, encoding: str, mark: bytes, expected: str
) -> None:
    found = table(tmp_path, mark + GERMAN.encode(encoding))
    assert found.encoding == expected
    assert found.columns == ["frage", "antwort"]
    assert found.rows[0][1] == "Die Straße ist über die Brücke für Fußgänger zu erreichen."


def test_typographic_signs_of_windows(tmp_path: Path) -> None:
    text = "question,answer\nPrice?,“It’s 5 € – really…”\n"
    found = table(tmp_path, text.encode("cp1252"))
    assert (found.encoding, found.rows[0][1]) == ("cp1252", "“It’s 5 € – really…”")


def test_named_encoding(tmp_path: Path) -> None:
    text = "question,answer\nПривет,Здравствуйте\n"
    assert table(tmp_path, text.encode("koi8-r"), encoding="koi8-r").rows[0][1] == "Здравствуйте"
    assert "no text encoding 'nonsense'" in fault(tmp_path, text, encoding="nonsense")
    assert "no text encoding 'hex'" in fault(tmp_path, text, encoding="hex")
    assert "cannot be read as idna" in fault(tmp_path, text, encoding="idna")


def test_chinese_survives(tmp_path: Path) -> None:
    text = "问题,答案\n订单在哪里?,请告诉我订单号。\n"
    for encoding in ("utf-8", "utf-16"):
        row = load_examples(_write(tmp_path, text.encode(encoding)), DataConfig()).rows[0]
        assert [m.content for m in row.messages] == ["订单在哪里?", "请告诉我订单号。"]


def test_damaged_utf8_is_located_not_guessed(tmp_path: Path) -> None:
    raw = "question,answer\nWie schön?,größer und süßer\nja,nein\n".encode()
    broken = raw.replace(b"ja,", b"j\xff,")
    message = fault(tmp_path, broken)
    assert "line 3, column 2: byte 0xff is not text in this encoding" in message
    kept = load_examples(_write(tmp_path, broken), DataConfig(on_bad_row="skip"))
    assert len(kept.rows) == 1
    assert [(p.line, p.kind) for p in kept.problems] == [(3, "undecodable byte")]
    assert kept.table.rows_read == 2


def test_cut_utf16_is_located(tmp_path: Path) -> None:
    raw = b"\xff\xfe" + "question,answer\nä,ö\n".encode("utf-16-le") + b"\x41"
    assert "line 3, column 1" in fault(tmp_path, raw)


# ---------------------------------------------------------------- dialects


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_separators_are_found(tmp_path: Path, delimiter: str) -> None:
    stream = io.StringIO()
    rows = [["question", "answer"], ["a, b; c", "d; e, f, g"], ["h", "i | j\tk"]]
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    found = table(tmp_path, stream.getvalue())
    assert (found.delimiter, [found.columns, *found.rows]) == (delimiter, rows)


def test_unusual_dialects(tmp_path: Path) -> None:
    excel = "sep=;\r\nquestion;answer\r\na;b, c\r\n"
    assert table(tmp_path, excel).rows == [["a", "b, c"]]
    single = "'question','answer'\n'it''s, ok','b'\n"
    assert table(tmp_path, single).rows == [["it's, ok", "b"]]
    spaced = 'question, answer\n"a", "b, c"\n"d", "e, f"\n'
    assert table(tmp_path, spaced).rows == [["a", "b, c"], ["d", "e, f"]]
    named = "question~answer\na,b~c\n"
    assert table(tmp_path, named, delimiter="~").rows == [["a,b", "c"]]
    assert "cannot separate cells" in fault(tmp_path, named, delimiter="~~")
    tabs = "question\tanswer\na\tb, c\n"
    assert table(tmp_path, tabs, "data.tsv").format == "tsv"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    text = end.join(["question,answer", f'"two{end}lines",b', "c,d", ""])
    found = table(tmp_path, text.encode())
    assert (found.rows, list(found.lines)) == ([[f"two{end}lines", "b"], ["c", "d"]], [2, 4])


def test_content_decides_the_format(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    expected = [["a", "b"], ["c", "d"]]
    for content, name, form in [
        (json.dumps(rows), "x.txt", "json"),
        (json.dumps(rows, indent=2), "x.csv", "json"),
        (lines, "x.json", "jsonl"),
        (lines, "no_suffix", "jsonl"),
        (json.dumps({"version": 1, "data": rows}), "x.json", "json"),
        ("question,answer\na,b\nc,d\n", "x.unknown", "csv"),
    ]:
        found = table(tmp_path, content, name)
        assert (found.format, found.rows) == (form, expected), name


def test_json_rows_know_their_lines(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "x"} for i in range(3)]
    assert list(table(tmp_path, json.dumps(rows, indent=2), "x.json").lines) == [2, 6, 10]


def test_index_column_of_pandas_is_left_out(tmp_path: Path) -> None:
    found = load_examples(_write(tmp_path, b",question,answer\n0,a,b\n1,c,d\n"), DataConfig())
    assert [r.messages[0].content for r in found.rows] == ["a", "c"]
    assert any("only numbers the rows" in note for note in found.table.notes)


def test_title_line_above_the_header(tmp_path: Path) -> None:
    found = table(tmp_path, "Export of May\n\nquestion,answer\na,b\n")
    assert (found.rows, found.header_line) == ([["a", "b"]], 3)
    assert any("Export of May" in note for note in found.notes)


# ---------------------------------------------------------------- faults, located and together


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    text = 'question,answer\nok,fine\na,b,c\nalone\n"x"y,z\n\nq\x00,w\n,empty q\nempty a,  \nlast,row\n'
    message = fault(tmp_path, text)
    for part in (
        "line 3: 3 cells where the header has 2; surplus from cell 3: 'c'",
        "line 4: 1 cell where the header has 2; nothing for 'answer'",
        "line 5, column 1: the cell that is quoted from here ends at line 5, column 3",
        "line 7, column 2: a NUL byte",
        "line 8, column 'question': the question is empty",
        "line 9, column 'answer': the answer is empty",
        "--on-bad-row skip",
    ):
        assert part in message
    kept = load_examples(_write(tmp_path, text.encode()), DataConfig(on_bad_row="skip"))
    assert [row.line for row in kept.rows] == [2, 10]
    assert (kept.table.rows_read, kept.table.blank, len(kept.problems)) == (8, 1, 6)


def test_open_quote_names_its_line(tmp_path: Path) -> None:
    text = 'question,answer\na,b\nc,"never closed\nd,e\nf,g\n'
    assert "line 3, column 3: a quote opens here and is never closed" in fault(tmp_path, text)
    kept = load_examples(_write(tmp_path, text.encode()), DataConfig(on_bad_row="skip"))
    assert [row.line for row in kept.rows] == [2, 4, 5]


def test_text_of_a_broken_cell_is_no_row(tmp_path: Path) -> None:
    """Lines of prose with one comma have the header's number of cells, too."""
    text = (
        'question,answer\nq1,a1\nq2,"say "hi" now\nStep one, open the box\nStep two, close it"\n'
        'q3,a3\nq4,"a "word"\nof, two\nlines"\nq5,"a\nb"\n'
    )
    message = fault(tmp_path, text)
    assert "line 3, column 4" in message
    assert "(lines 3 to 5 are left out)" in message
    kept = load_examples(_write(tmp_path, text.encode()), DataConfig(on_bad_row="skip"))
    assert [row.messages[0].content for row in kept.rows][:2] == ["q1", "q3"]
    assert not [row for row in kept.rows if row.messages[0].content.startswith(("Step", "of"))]


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud83d"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_what_no_cell_may_hold_is_found_in_conversations(
    tmp_path: Path, name: str, escape: str
) -> None:
    """Escaped in JSON, so no reader of the file sees it; many rows are kept packed."""
    turns = '[{"role": "user", "content": "q%s"}, {"role": "assistant", "content": "a"}]'
    rows = [turns % number for number in range(4200)]
    rows[7] = turns % escape
    if name == "x.jsonl":
        text = "".join('{"messages": ' + row + "}\n" for row in rows)
    else:
        text = "messages\n" + "".join('"' + row.replace('"', '""') + '"\n' for row in rows)
    assert "half of a surrogate pair" in fault(tmp_path, text, name)
    kept = load_examples(_write(tmp_path, text.encode(), name), DataConfig(on_bad_row="skip"))
    assert (len(kept.rows), len(kept.problems)) == (4199, 1)


def test_open_quote_before_other_quotes(tmp_path: Path) -> None:
    text = 'question,answer\na,"open\n"c","d"\ne,f\n'
    message = fault(tmp_path, text)
    assert "line 2, column 3: the cell that is quoted from here ends at line 3" in message
    kept = load_examples(_write(tmp_path, text.encode()), DataConfig(on_bad_row="skip"))
    assert [row.line for row in kept.rows] == [3, 4]


def test_the_list_of_faults_is_capped(tmp_path: Path) -> None:
    message = fault(tmp_path, "question,answer\n" + "one cell\n" * 500)
    assert "500 x ragged row" in message
    assert "and 480 more" in message
    assert len(message.splitlines()) < 30


def test_many_broken_quotes_end(tmp_path: Path) -> None:
    message = fault(tmp_path, "question,answer\n" + 'a,"b"c\n' * 3000)
    assert "reading stopped in line 201" in message


def test_carriage_return_outside_quotes(tmp_path: Path) -> None:
    assert "line 2, column 2: a carriage return outside quotes" in fault(
        tmp_path, b"question,answer\na\rb,c\nd,e\n"
    )


def test_headers(tmp_path: Path) -> None:
    assert "the header has 'answer' 2 times (cells 2, 3)" in fault(
        tmp_path, "question,answer,answer\na,b,c\n"
    )
    assert "line 1, cell 3: the column has no name, but holds text, first 'c' in line 2" in fault(
        tmp_path, "question,answer,\na,b,c\n"
    )
    # a carriage return and spaces around names do not hide a column
    found = load_examples(_write(tmp_path, b'" Question ","answer\r"\na,b\n'), DataConfig())
    assert found.columns.parts == {"question": 0, "answer": 1}


def test_giant_cells(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    big = "x" * 200_000  # over the standard library's limit
    assert table(tmp_path, f"question,answer\na,{big}\n").rows == [["a", big]]
    assert csv.field_size_limit() == limit
    message = fault(tmp_path, "question,answer\na,b\nc," + "x" * 10_000_001 + "\n")
    assert "line 3, column 'answer': a cell of 10,000,001 characters" in message


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        (b"", "e.csv", "the file is empty"),
        (b"\xef\xbb\xbf \n", "e.csv", "the file is empty"),
        (b",,\n,,\n", "e.csv", "holds no text"),
        (b"question,answer\n", "e.csv", "there is a header, but no row"),
        (b"[]", "e.json", "there is no row"),
        (b"PK\x03\x04rest", "e.xlsx", "an Excel workbook"),
        (b"PAR1rest", "e.parquet", "cannot be read as Parquet"),
        (b"\x1f\x8brest", "e.gz", "a gzip archive"),
        (bytes(range(256)) * 8, "e.csv", "a binary file"),
        (b'[{"question": "a", "answer": }]', "e.json", "line 1, column 30: no valid JSON"),
        (b'{"a": 1}', "e.json", "no column looks like"),
        (b'{"a": [{"q": "x"}], "b": [{"q": "y"}]}', "e.json", "holds 2 lists of objects|no column"),
        (b"[" * 100_000, "e.json", "nested too deeply|no valid JSON"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, content: bytes, name: str, part: str) -> None:
    message = fault(tmp_path, content, name)
    assert any(piece in message for piece in part.split("|")), message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv", DataConfig())
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path, DataConfig())


def test_json_lines_faults(tmp_path: Path) -> None:
    lines = [
        '{"question": "a", "answer": "b"}',
        '{"question": "a", "answer": }',
        "[1, 2]",
        '{"question": "a", "question": "b", "answer": "c"}',
        '{"question": "half \\ud83d", "answer": "c"}',
        '{"question": "a", "answer": {"text": "b"}}',
        '{"question": "a"}',
        '{"question": "c", "answer": "d"}',
    ]
    message = fault(tmp_path, "\n".join(lines), "x.jsonl")
    for part in (
        "line 2, column 29: no valid JSON",
        "line 3: a list where an object should be",
        "line 4: the key 'question' is given twice",
        "line 5, 'question': a NUL",
        "line 6, column 'answer': a list or object where text should be",
        "line 7, column 'answer': the answer is empty",
    ):
        assert part in message
    path = _write(tmp_path, "\n".join(lines).encode(), "x.jsonl")
    kept = load_examples(path, DataConfig(on_bad_row="skip"))
    assert [row.line for row in kept.rows] == [1, 8]


def test_faults_of_a_one_line_list_name_the_item(tmp_path: Path) -> None:
    items = [
        '{"question": "a", "answer": "b"}',
        '{"question": "a", "answer": ""}',
        '"text"',
        '{"question": "half \\ud83d", "answer": "c"}',
        '{"question": "a", "question": "b", "answer": "c"}',
        '{"question": "a", "answer": {"text": "b"}}',
        *['{"question": "", "answer": "b"}'] * 5,
    ]
    text = "[" + ", ".join(items) + "]"
    message = fault(tmp_path, text, "x.json")
    for part in (
        "line 1, item 2, column 'answer': the answer is empty",
        "line 1, item 3: 'text' where an object should be",
        "line 1, item 4, 'question': a NUL",
        "line 1, item 5: the key 'question' is given twice",
        "line 1, item 6, column 'answer': a list or object",
        "line 1, item 11, column 'question'",
    ):
        assert part in message
    assert message.index("item 9,") < message.index("item 10,")  # in their order, not by letters
    kept = load_examples(_write(tmp_path, text.encode(), "x.json"), DataConfig(on_bad_row="skip"))
    assert [(row.line, row.item) for row in kept.rows] == [(1, 1)]
    broken = fault(tmp_path, text.replace('"text"', '"text'), "x.json")
    assert "(item 3)" in broken
    inside = fault(tmp_path, '{"rows": [' + ", ".join(items[3:]) + "]}", "x.json")
    assert "line 1, item 2: the key 'question' is given twice" in inside


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_keys_given_twice_are_the_headline(tmp_path: Path, name: str) -> None:
    rows = ['{"question": "a", "question": "b", "answer": "c"}'] * 2
    text = "[" + ", ".join(rows) + "]" if name == "x.json" else "\n".join(rows)
    headline = fault(tmp_path, text, name).splitlines()[0]
    assert "2 x duplicate key" in headline
    assert "no column" not in headline
    mixed = text.replace("]", ', {"answer": "c"}]') if name == "x.json" else text + '\n{"id": 1}'
    assert "2 x duplicate key; no column looks like the question" in fault(tmp_path, mixed, name)
    assert "the key 'rows' is given twice" in fault(
        tmp_path, '{"rows": [{"question": "a"}], "rows": [{"question": "b"}]}', name="x.json"
    )


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\u2060 \u200d", "\u00ad", "\u3164", " \t"])
def test_cells_that_show_nothing_are_empty(tmp_path: Path, blank: str) -> None:
    rows = [
        {"question": "a", "answer": blank},
        {"question": blank, "answer": "b"},
        {"question": "with \u200b inside", "answer": "👩‍💻"},
    ]
    message = fault(tmp_path, json.dumps(rows), "x.json")
    assert "1 x empty answer, 1 x empty question" in message
    assert "item 3" not in message
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": blank}]
    assert "turn 2: the assistant turn is empty" in fault(
        tmp_path, json.dumps([{"messages": turns}]), "x.json"
    )


def test_messages_hold_no_control_characters(tmp_path: Path) -> None:
    assert "\x1b" not in fault(tmp_path, "question,\x1b[31manswer\n\x1b]0;x\x07,a\n")


def _write(tmp_path: Path, content: bytes, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path
