"""Parquet files and data sets of the hub: text as written, faults located, plain words offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_hub import serve_data_hub
from support.hub import COMMIT

from gemma_lora.config import DataConfig
from gemma_lora.data import load_examples, read_table
from gemma_lora.data.source import need_source, source_name
from gemma_lora.errors import DataError


def parquet(path: Path, columns: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return path


# ---------------------------------------------------------------- Parquet


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    odd = ["NA", "null", "007", " padded ", "a\r\nb", "ä订单", "=1+1", "👩‍🚀"]
    path = parquet(tmp_path / "x.parquet", {"question": [f"q{i}" for i in range(8)], "answer": odd})
    found = load_examples(path, DataConfig())
    assert [row.messages[1].content for row in found.rows] == odd
    assert (found.rows[2].place, found.rows[2].item, found.table.format) == ("row 3", 3, "parquet")
    renamed = path.rename(tmp_path / "no_suffix")  # the content decides
    assert len(load_examples(renamed, DataConfig()).rows) == 8


def test_other_types_become_the_text_of_json_or_are_left_out(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question": pa.array(["a", "b", None]).dictionary_encode(),
            "answer": pa.array([12345678901234567, None, 3]),
            "share": [0.1, 2.0, 1e300],
            "yes": [True, False, None],
            "when": pa.array([1, 2, 3], type=pa.timestamp("s")),
            "raw": [b"x", b"y", b"z"],
        }
    )
    found = read_table(parquet(tmp_path / "x.parquet", table), DataConfig())
    assert found.columns == ["question", "answer", "share", "yes"]
    assert found.rows == [
        ["a", "12345678901234567", "0.1", "true"],
        ["b", "", "2.0", "false"],
        ["", "3", "1e+300", ""],
    ]
    assert [note.split(" holds")[0] for note in found.notes] == ["column 'when'", "column 'raw'"]


def test_conversations_in_nested_columns(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    for name, turns in (("messages", talk), ("conversations", shared)):
        path = parquet(tmp_path / "x.parquet", {name: [turns, turns, None], "id": [1, 2, 3]})
        with pytest.raises(DataError) as caught:
            load_examples(path, DataConfig())
        assert f"row 3, column '{name}': the conversation is empty" in str(caught.value)
        found = load_examples(path, DataConfig(on_bad_row="skip"))
        assert [[m.content for m in row.messages] for row in found.rows] == [["a", "b"]] * 2
        assert (found.table.rows_read, len(found.problems)) == (3, 1)


def test_faults_name_the_row(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xff\xfe", b"c\x00", b"", b"fine"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 5, broken.buffers())
    table = pa.table({"question": ["a", "b", "c", "", "e"], "answer": text})
    path = parquet(tmp_path / "x.parquet", table)
    with pytest.raises(DataError) as caught:
        load_examples(path, DataConfig())
    for part in ("row 2, column 'answer': a NUL or bytes", "row 3, column 'answer'"):
        assert part in str(caught.value)
    found = load_examples(path, DataConfig(on_bad_row="skip"))
    assert ([row.item for row in found.rows], found.table.blank) == ([1, 5], 1)


def test_damaged_and_empty_files(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"question": ["a"] * 99, "answer": ["b"] * 99})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(path, DataConfig())
    empty = pa.table({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())})
    with pytest.raises(DataError, match="no row"):
        read_table(parquet(path, empty), DataConfig())


# ---------------------------------------------------------------- the hub

SCRIPT = """
import json, sys
from pathlib import Path
from gemma_lora.config import DataConfig
from gemma_lora.data import load_examples
from gemma_lora.data.source import source_digest
from gemma_lora.errors import GemmaLoraError

for name in sys.argv[1:]:
    try:
        found = load_examples(Path(name), DataConfig())
        print(json.dumps({
            "rows": [[m.content for m in row.messages] for row in found.rows],
            "digest": source_digest(name), "notes": found.table.notes, "format": found.table.format,
        }))
    except GemmaLoraError as error:
        print(json.dumps({"code": error.exit_code, "text": str(error)}))
"""


AUDIT = """
import sys
from pathlib import Path
from gemma_lora import pipeline
from gemma_lora.config import Config
from gemma_lora.console import Console
config = Config.model_validate({"data": {"path": sys.argv[1], "test": sys.argv[2]}})
facts = pipeline.audit(config, Console(quiet=True), out=Path(sys.argv[3]))
print(facts["source"]["file"], facts["rows"]["used"], facts["split"]["test"],
      pipeline.run_folder(config, None).name.rpartition("-")[0])
"""


def ask(names: list[str], home: Path, here: Path, **env: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=here,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars, no chatter
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory):
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("sets")
    (folder / "one" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        questions = [f"{split} {i}" * (i + 1) for i in range(12)]
        columns = {"question": questions, "answer": ["x", "007", "NA"] * 4}
        parquet(folder / "one" / "data" / f"{split}-00000-of-00001.parquet", columns)
    (folder / "script").mkdir()
    (folder / "script" / "script.py").write_text("raise SystemExit('code of a data set was run')")
    here = tmp_path_factory.mktemp("here")
    (here / "owner" / "one").mkdir(parents=True)  # is not what hf: means
    (here / "owner" / "one" / "data.csv").write_text("question,answer\nlocal,row\n")
    names = ["hf:owner/one", f"hf:owner/one@{COMMIT}::test", "hf:owner/one:none", "hf:owner/one::dev",
             "hf:owner/one@nosuch", "hf:owner/none", "hf:gated/one", "hf:owner/script", "hf:nonsense"]  # fmt: skip
    with serve_data_hub({f"owner/{n}": folder / n for n in ("one", "script")}) as (url, _):
        online = ask(names, home, here, HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    cached = ["hf:owner/one", f"hf:owner/one@{'f' * 40}", "hf:owner/other"]
    return online, ask(cached, home, here, HF_ENDPOINT=url, HF_HUB_OFFLINE="1")


def test_splits_of_a_data_set(outcomes: Any) -> None:
    online, offline = outcomes
    train, test = online["hf:owner/one"], online[f"hf:owner/one@{COMMIT}::test"]
    assert train["rows"][:2] == [["train 0", "x"], ["train 1" * 2, "007"]]
    assert len(train["rows"]) == 12
    assert test["rows"][0] == ["test 0", "x"]
    assert train["digest"] != test["digest"]
    assert train["notes"][0] == f"config 'default', split 'train', commit {COMMIT[:12]}"
    assert offline["hf:owner/one"] == train  # from the cache, under the same name


def test_refusals_in_plain_words(outcomes: Any) -> None:
    online, offline = outcomes
    for name, part in (
        ("hf:owner/one:none", "'none' not found"),
        ("hf:owner/one::dev", "there is no split 'dev'"),
        ("hf:owner/one@nosuch", "'nosuch' doesn't exist"),
        ("hf:owner/none", "no such data set, or it is private"),
        ("hf:gated/one", "hf auth login"),
        ("hf:owner/script", "scripts are no longer supported"),
        ("hf:nonsense", "is no name of a data set"),
    ):
        assert online[name]["code"] == 2
        assert part in online[name]["text"]
    assert "expected: test, train" in online["hf:owner/one::dev"]["text"]
    assert "only commit 012345" in offline[f"hf:owner/one@{'f' * 40}"]["text"]
    assert (
        "cannot be reached, and the data set is not in the local cache"
        in offline["hf:owner/other"]["text"]
    )


def test_a_run_belongs_to_the_commit_and_goes_on_offline(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    for split in ("train", "test"):
        columns = {"question": [f"{split} {i}" * (i + 1) for i in range(12)], "answer": ["x"] * 12}
        parquet(folder / f"{split}.parquet", columns)
    base = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    said: list[str] = []
    with serve_data_hub({"owner/one": folder}) as (url, _):
        for name, offline in (("hf:owner/one", "0"), (f"hf:owner/one@{COMMIT}", "1")):
            done = subprocess.run(
                [sys.executable, "-c", AUDIT, name, "hf:owner/one::test", str(tmp_path / "run")],
                env={**base, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": offline},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
    assert said[0] == "hf:owner/one 12 12 owner-one\n"
    assert said[1].startswith(f"hf:owner/one@{COMMIT} 12 12 ")


def test_names(tmp_path: Path) -> None:
    need_source("hf:owner/name@v1.0:main:train")
    assert source_name(Path("hf:owner/name@v1.0:main:train")) == "hf:owner/name@v1.0:main:train"
    with pytest.raises(DataError, match="no such file"):
        need_source(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is not a file"):
        need_source(tmp_path)
    with pytest.raises(DataError, match="no name of a data set"):
        need_source("hf:owner")
