"""Continuing, refusing, and who reads what: whole runs through the command line."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.processes import CliServer, Done, Stop
from support.small_runs import FAST, contents, numbers, write_rows

from gemma_lora.config import Config, DataConfig, ModelConfig
from gemma_lora.console import Console
from gemma_lora.errors import GateNotMet
from gemma_lora.pipeline import require, run_folder

NOBODY = 65534


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_rows(folder / "rows.csv")
    shutil.copytree(tiny_folder(), folder / "tiny")
    return folder


def command(out: str, *more: str) -> list[str]:
    return ["run", "rows.csv", "--model", "tiny", "--out", out, *FAST, *more]


@pytest.fixture(scope="module")
def log(place: Path) -> Path:
    return place / "log.jsonl"


@pytest.fixture(scope="module")
def first(place: Path, cli: CliServer, log: Path) -> Done:
    done = cli.run(command("whole", "--json"), cwd=place, log=log)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def copy(first: Done, place: Path, tmp_path: Path) -> Path:
    """A finished run for this test alone, and beside it the data and the model."""
    shutil.copytree(place / "whole", tmp_path / "run", copy_function=shutil.copy2)
    shutil.copy(place / "rows.csv", tmp_path)
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    return tmp_path / "run"


# ---------------------------------------------------------------------- the result


def test_one_json_object_on_stdout_and_progress_on_stderr(first: Done, place: Path) -> None:
    result = first.json
    assert result["verdict"] in ("better", "worse", "equivalent", "inconclusive")
    assert result["primary"]["n"] == 8
    for name in ("report", "report_md", "verdict_file"):
        assert (place / result[name]).is_file()
    for stage in ("data", "train", "answer", "forgetting", "judge-lexical", "report"):
        assert f"[{stage}]" in first.err
    for foreign in ("Warning", "Unable to fetch", "%|", "Traceback"):
        assert foreign not in first.err


def test_a_test_question_that_the_model_cannot_take_stops_before_training(
    place: Path, cli: CliServer
) -> None:
    (place / "long.csv").write_text(f"question,answer\n{'why ' * 600},because\nshort,one\n")
    more = ("--test", "long.csv", "--on-long-row", "keep-answer")
    done = cli.run(
        ["run", "rows.csv", "--model", "tiny", "--out", "long", *FAST[2:], *more], cwd=place
    )
    assert done.code == 2
    assert "1 questions are longer than the 512 tokens that the model takes" in done.err
    assert "[train]" not in done.err


@pytest.mark.parametrize("change", ["stop tokens", "tokenizer", "config"])
def test_another_model_of_the_same_weights_is_another_model(
    change: str, copy: Path, cli: CliServer
) -> None:
    """In a local folder each of them may be edited; a finished run is not done with it."""
    folder = copy.parent / "tiny"
    file, edit = {
        "stop tokens": ("generation_config.json", lambda c: {**c, "eos_token_id": [1, 5, 6]}),
        "tokenizer": ("tokenizer.json", swapped),
        "config": ("config.json", lambda c: {**c, "rms_norm_eps": 1e-3}),
    }[change]
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(edit(content)))
    done = cli.run(["run", "rows.csv", "--model", "tiny", "--out", "run", *FAST], cwd=copy.parent)
    assert done.code == 0, done.err
    anew = [part for part in ("train", "answer") if f"[{part}] done before" not in done.err]
    assert anew == (["answer"] if change == "stop tokens" else ["train", "answer"])


def swapped(content: dict[str, Any]) -> dict[str, Any]:
    vocabulary = content["model"]["vocab"]
    one, other = "▁number", "▁order"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    return content


def test_the_folder_has_what_is_promised(first: Done, place: Path) -> None:
    run = place / "whole"
    names = """config.yaml provenance.json audit.json split/train.jsonl split/validation.jsonl
        split/test.jsonl metrics.jsonl adapter/adapter_model.safetensors adapter/adapter_config.json
        adapter/README.md answers/test/base.jsonl answers/test/tuned.jsonl verdict.json report.html
        report.md forgetting/items.jsonl forgetting/forgetting.json judgements/lexical/judgements.jsonl judgements/lexical/verdict.json"""
    for name in names.split():
        assert (run / name).is_file(), name
    assert not [p for p in run.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    private = [p for p in run.rglob("*") if p.is_file() and p.stat().st_mode & 0o044 != 0o044]
    assert not [p for p in private if p.name != ".lock"]


def test_the_same_command_continues_and_repeats_nothing(copy: Path, cli: CliServer) -> None:
    before = contents(copy)
    again = cli.run(command("run", "--json"), cwd=copy.parent)
    assert again.code == 0, again.err
    assert again.err.count("done before, nothing has changed") == 5
    after = contents(copy)
    rewritten = {"config.yaml", "provenance.json", "report.html", "report.md"}
    for name, facts in before.items():
        if name.split("/")[-1] not in (*rewritten, "verdict.json", "decision.json"):
            assert after[name] == facts, name
    assert numbers(copy) == {k: again.json[k] for k in numbers(copy)}


def test_without_out_the_folder_is_named_after_data_and_settings(
    place: Path, first: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_bytes((place / "rows.csv").read_bytes())

    def folder(**change: Any) -> Path:
        return run_folder(Config(data=DataConfig(path="rows.csv"), **change), None)

    name = folder()
    assert name.parent == Path("runs")
    assert name.name.startswith("rows-")
    assert folder() == name
    assert folder(seed=1) != name
    assert folder(model=ModelConfig(model="other/name")) != name
    assert folder(judge={"judge_concurrency": 2}) == name, "how fast is not what"
    Path("rows.csv").write_text("question,answer\na,b\n")
    assert folder() != name


# ---------------------------------------------------------------------- refusing


def test_other_settings_stop_with_the_difference(copy: Path, cli: CliServer) -> None:
    before = contents(copy)
    other = cli.run(command("run", "--dropout", "0.1", "--seed", "7", "--json"), cwd=copy.parent)
    assert other.code == 2
    assert other.json["details"] == ["lora.dropout: was 0.05, is 0.1", "seed: was 0, is 7"]
    assert "--out" in other.err
    assert contents(copy) == before


def test_other_data_stop_with_the_difference(copy: Path, cli: CliServer) -> None:
    write_rows(copy.parent / "rows.csv", 33)
    other = cli.run(command("run"), cwd=copy.parent)
    assert other.code == 2
    assert "data.path: the file's content is another one" in other.err


def test_another_judge_is_told_how_to_stand_beside(copy: Path, cli: CliServer) -> None:
    other = cli.run(command("run", "--judge", "replay:x.jsonl"), cwd=copy.parent)
    assert other.code == 2
    assert "gemma-lora judge run --judge replay:x.jsonl" in other.err


def test_how_fast_a_run_works_may_change(copy: Path, cli: CliServer) -> None:
    again = cli.run(command("run", "--judge-concurrency", "3"), cwd=copy.parent)
    assert again.code == 0, again.err
    assert "judge_concurrency: 3" in (copy / "config.yaml").read_text()


def test_a_foreign_folder_is_left_as_it_is(place: Path, cli: CliServer) -> None:
    (place / "foreign").mkdir()
    (place / "foreign" / "novel.txt").write_text("mine")
    done = cli.run(command("foreign"), cwd=place)
    assert done.code == 2
    assert "not empty" in done.err
    assert [p.name for p in (place / "foreign").iterdir()] == ["novel.txt"]
    done = cli.run(command("rows.csv"), cwd=place)
    assert done.code == 2
    assert "not a folder" in done.err


def test_two_processes_in_one_folder(copy: Path, cli: CliServer) -> None:
    with (copy / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for argv in (
            command("run", "--json"),
            ["judge", "run", "--json"],
            ["answer", "run", "--json"],
        ):
            second = cli.run(argv, cwd=copy.parent)
            assert second.code == 3
            assert "another gemma-lora process" in second.json["found"]
    assert cli.run(command("run"), cwd=copy.parent).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_that_cannot_be_written(place: Path, cli: CliServer, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    shutil.copy(place / "rows.csv", tmp_path)
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    done = cli.run(command("new", "--json"), cwd=tmp_path, uid=NOBODY)
    assert done.code == 3, done.err
    assert "Permission denied" in done.json["found"]
    assert "--out" in done.json["remedy"]


@pytest.mark.parametrize(
    ("limit", "stage"),
    [(2_000, "data"), (60_000, "train")],
)
def test_a_file_that_cannot_grow(
    limit: int, stage: str, place: Path, cli: CliServer, first: Done
) -> None:
    """A limit on file sizes stands for the full disk: the write fails in the middle."""
    name = f"small-{limit}"
    more = ("--rank", "32", "--alpha", "64") if stage == "train" else ()
    done = cli.run(command(name, *more), cwd=place, file_limit=limit)
    assert done.code == 3, done.err
    assert "environment error" in done.err
    assert "what to do" in done.err
    assert "Traceback" not in done.err
    assert f"[{stage}]" in done.err
    assert not [p for p in (place / name).rglob("*") if p.is_file() and p.stat().st_size == limit]
    again = cli.run(command(name, *more), cwd=place)
    assert again.code == 0, again.err


def test_too_little_room_is_found_before_the_start(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from collections import namedtuple

    from gemma_lora import pipeline
    from gemma_lora.errors import EnvironmentFault

    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(Path(path))
        return namedtuple("Usage", "total used free")(10, 9, 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    config = Config(data=DataConfig(path=str(place / "rows.csv")))
    with pytest.raises(EnvironmentFault, match="free on the disk"):
        pipeline.run(config, Console(quiet=True), out=tmp_path / "run")
    assert asked == [tmp_path / "run"], "the run folder's disk, not another one"


# ---------------------------------------------------------------------- running again


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("split/train.jsonl", "data"),
        ("split/test.jsonl", "data"),
        ("adapter/adapter_config.json", "train"),
        ("adapter/adapter_model.safetensors", "train"),
        ("answers/test/tuned.jsonl", "answer"),
        ("forgetting/items.jsonl", "forgetting"),
        ("forgetting/forgetting.json", "forgetting"),
        ("judgements/lexical/judgements.jsonl", "judge-lexical"),
        ("judgements/lexical/judge.json", "judge-lexical"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "edited", "deleted"])
def test_a_damaged_result_is_made_anew(
    name: str, stage: str, how: str, copy: Path, cli: CliServer
) -> None:
    """Half a split, an edited score: never a verdict on it; what depends on it stays the same."""
    before, verdict = (copy / name).read_bytes(), numbers(copy)
    if how == "cut":
        (copy / name).write_bytes(before[: len(before) // 2])
    elif how == "edited":
        (copy / name).write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
    else:
        (copy / name).unlink()
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 0, done.err
    word = "is missing" if how == "deleted" else "was changed or damaged"
    assert f"[{stage}] runs again: {name} {word}" in done.err
    assert done.err.count("runs again") == 1
    if not name.endswith(("judge.json", "forgetting.json")):  # they tell the time
        assert (copy / name).read_bytes() == before
    assert numbers(copy) == verdict


def test_single_commands_refuse_damage_with_the_way_out(copy: Path, cli: CliServer) -> None:
    weights = copy / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for argv in (["answer", "run"], ["judge", "run"], ["chat", "run"]):
        done = cli.run(argv, cwd=copy.parent)
        assert done.code == 2
        assert "adapter/adapter_model.safetensors was changed or damaged" in done.err
        assert "gemma-lora run" in done.err
    assert (copy / "answers/test/tuned.jsonl").is_file()


@pytest.mark.parametrize(
    ("changed", "stage", "refused"),
    [
        ("adapter/adapter_model.safetensors", "train", "the stage `answer` read it"),
        ("split/train.jsonl", "data", "the stage `train` read it"),
        ("split/test.jsonl", "data", "the stage `answer` read it"),
    ],
)
def test_results_of_what_was_made_anew_since_are_not_judged(
    changed: str, stage: str, refused: str, copy: Path, cli: CliServer
) -> None:
    """A run that was killed between making something anew and making anew what depends on it."""
    made = (copy / changed).read_bytes()
    anew = made[:-3] + bytes([made[-3] ^ 1]) + made[-2:]
    (copy / changed).write_bytes(anew)
    stamp = json.loads((copy / f".stamps/{stage}.json").read_text())
    stamp["outputs"][changed] = hashlib.sha256(anew).hexdigest()
    (copy / f".stamps/{stage}.json").write_text(json.dumps(stamp))
    done = cli.run(["judge", "run"], cwd=copy.parent)
    assert done.code == 2
    assert f"{changed} changed after {refused}" in done.err
    assert (
        f"what to do: gemma-lora {'answer' if stage == 'train' or 'test' in changed else 'run'}"
        in done.err
    )


def test_damaged_stamps_make_stages_run_again(copy: Path, cli: CliServer) -> None:
    verdict = numbers(copy)
    (copy / ".stamps/train.json").write_text('{"inputs": ')
    (copy / ".stamps/answer.json").write_text("[]")
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert "[train] runs again: its stamp is damaged" in done.err
    assert "[answer] runs again: its stamp is damaged" in done.err
    assert numbers(copy) == verdict
    (copy / ".stamps/identity.json").write_text("[]")
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 2
    assert "identity.json: is damaged" in done.err


@pytest.mark.parametrize("name", ["../mine.txt", "ABSOLUTE", "split/../../mine.txt"])
def test_a_hostile_stamp_removes_nothing_outside(name: str, copy: Path, cli: CliServer) -> None:
    mine = copy.parent / "mine.txt"
    mine.write_text("keep")
    stamp = json.loads((copy / ".stamps/data.json").read_text())
    stamp["outputs"][str(mine) if name == "ABSOLUTE" else name] = "0" * 64
    (copy / ".stamps/data.json").write_text(json.dumps(stamp))
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert "[data] runs again: its stamp is damaged" in done.err
    assert mine.read_text() == "keep"


def test_an_edited_configuration_is_refused(copy: Path, cli: CliServer) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("rank: ", "rank: 1"))
    done = cli.run(["judge", "run"], cwd=copy.parent)
    assert done.code == 2
    assert "was edited after the run was made" in done.err
    assert "lora.rank: was" in done.err


def test_a_run_that_cannot_begin_leaves_no_folder(copy: Path, cli: CliServer) -> None:
    for flags in (["--targets", "foo"], ["--judge", "nonsense"], ["--report-to", "nothing"]):
        done = cli.run(command("fresh", *flags), cwd=copy.parent)
        assert done.code in (2, 3, 4), done.err
        assert "[data]" not in done.err
        assert not (copy.parent / "fresh").exists()


def test_other_base_weights_train_again(copy: Path, cli: CliServer) -> None:
    from support.tiny import save_tiny

    shutil.rmtree(copy.parent / "tiny")
    save_tiny(copy.parent / "tiny", "gemma", seed=1)
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert "[train] runs again: base model changed" in done.err


@pytest.mark.parametrize(
    "name", ["answers/test/tuned.jsonl", "judgements/lexical/judgements.jsonl"]
)
def test_a_torn_last_line_is_made_anew(name: str, copy: Path, cli: CliServer) -> None:
    verdict, file = numbers(copy), copy / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    stage = "answer" if "answers" in name else "judge-lexical"
    (copy / f".stamps/{stage}.json").unlink()
    done = cli.run(command("run"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert f"{file.name}: the last line was torn off" in done.err
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert numbers(copy) == verdict


def test_another_probe_measures_forgetting_again_and_nothing_else(
    copy: Path, cli: CliServer
) -> None:
    """The probe is no part of what makes a run: the same folder, and only this stage and the reports."""
    verdict = numbers(copy)
    before = contents(copy)
    (copy.parent / "own.csv").write_text("question,answer\nWho are you?,A model.\nWhy?,Because.\n")
    done = cli.run(command("run", "--probe", "own.csv", "--json"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert "[forgetting] runs again: probe changed" in done.err
    assert done.err.count("runs again") == 1
    assert done.err.count("done before, nothing has changed") == 4
    lost = done.json["forgetting"]
    assert (lost["probe"]["name"], lost["questions"], lost["accuracy"]) == ("own.csv", 2, None)
    assert numbers(copy) == verdict
    after = contents(copy)
    for name in before:
        if name.startswith(("answers/", "adapter/", "split/", "checkpoints/")):
            assert after[name] == before[name], name
    assert "own.csv" in (copy / "report.md").read_text("utf-8")
    # the run's folder does not depend on it, either
    again = cli.run(["judge", "run", "--json"], cwd=copy.parent)
    assert again.json["forgetting"] == lost
    without = cli.run(command("run", "--probe", "none", "--json"), cwd=copy.parent)
    assert without.code == 0, without.err
    assert without.json["forgetting"] is None
    assert "not measured (--probe none)" in without.err


def test_a_bad_probe_is_found_before_anything_is_trained(copy: Path, cli: CliServer) -> None:
    bad = copy.parent / "bad_test.csv"
    bad.write_text("One?,a,b,c,d,A\nTwo?,a,b,c,d\nThree?,a,b,c,d,Q\n")
    done = cli.run(command("fresh", "--probe", "bad_test.csv", "--json"), cwd=copy.parent)
    assert done.code == 2
    assert len(done.json["details"]) == 2
    assert "[data]" not in done.err
    assert not (copy.parent / "fresh").exists()


def test_a_damaged_measurement_is_no_verdict(copy: Path, cli: CliServer) -> None:
    (copy / "forgetting/items.jsonl").write_text("")
    done = cli.run(["judge", "run"], cwd=copy.parent)
    assert done.code == 2
    assert "forgetting/items.jsonl was changed or damaged" in done.err


def test_a_folder_of_an_older_version_goes_on(copy: Path, cli: CliServer) -> None:
    """Before forgetting was measured there was neither its section nor its stage."""
    marker = copy / ".stamps/identity.json"
    assert "forgetting" not in json.loads(marker.read_text())
    shutil.rmtree(copy / "forgetting")
    (copy / ".stamps/forgetting.json").unlink()
    config = (copy / "config.yaml").read_text()
    head, _, tail = config.partition("forgetting:\n")
    (copy / "config.yaml").write_text(head + tail.partition("\n")[2])
    assert "probe" not in (copy / "config.yaml").read_text()
    judged = cli.run(["judge", "run", "--json"], cwd=copy.parent)
    assert judged.code == 0, judged.err
    assert judged.json["forgetting"] is None
    done = cli.run(command("run", "--json"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert done.json["forgetting"]["questions"] == 202


def test_other_answer_settings_need_another_folder(copy: Path, cli: CliServer) -> None:
    """The verdict is of the answers that were judged; they cannot be replaced under it."""
    before = (copy / "answers/test/base.jsonl").read_bytes()
    done = cli.run(["answer", "run", "--max-new-tokens", "3"], cwd=copy.parent)
    assert done.code == 2
    assert "made with other settings" in done.err
    assert (copy / "answers/test/base.jsonl").read_bytes() == before


def test_stages_one_by_one_are_the_run(place: Path, first: Done, cli: CliServer) -> None:
    argv = ["train", *command("steps")[1:]]
    done = cli.run([*argv, "--json"], cwd=place)
    assert done.code == 0, done.err
    assert (place / done.json["adapter"] / "adapter_model.safetensors").is_file()
    early = cli.run(["judge", "steps"], cwd=place)
    assert early.code == 2
    assert "gemma-lora answer steps" in early.err
    for argv in (["answer", "steps"], ["judge", "steps", "--json"]):
        done = cli.run(argv, cwd=place)
        assert done.code == 0, done.err
    assert {k: done.json[k] for k in numbers(place / "whole")} == numbers(place / "whole")


def test_questions_of_ones_own_do_not_touch_the_test_answers(copy: Path, cli: CliServer) -> None:
    before = (copy / "answers/test/tuned.jsonl").read_bytes()
    (copy.parent / "mine.csv").write_text("question\nHow do I order?\nWhere is the desk?\n")
    done = cli.run(["answer", "run", "--questions", "mine.csv", "--json"], cwd=copy.parent)
    assert done.code == 0, done.err
    assert done.json["questions"] == 2
    assert (copy / "answers/test/tuned.jsonl").read_bytes() == before


def test_chat_answers_from_a_pipe(copy: Path, cli: CliServer) -> None:
    done = cli.run(["chat", "run", "--max-new-tokens", "3"], cwd=copy.parent)  # stdin is empty
    assert done.code == 0, done.err
    assert "Traceback" not in done.err


# ---------------------------------------------------------------------- gate, quiet


def test_the_gate(copy: Path, cli: CliServer) -> None:
    found = json.loads((copy / "verdict.json").read_text())["verdict"]
    assert found != "better", "a random model learns nothing in ten steps"
    done = cli.run(command("run", "--require", "better", "--json"), cwd=copy.parent)
    assert done.code == 10
    assert done.json["verdict"] == found
    assert done.json["gate"] == {"required": "better", "met": False}
    assert "gate not met" in done.err
    judged = cli.run(["judge", "run", "--require", "better"], cwd=copy.parent)
    assert judged.code == 10
    assert "verdict:" in judged.out


@pytest.mark.parametrize("verdict", ["better", "worse", "equivalent", "inconclusive"])
def test_what_meets_the_gate(verdict: str) -> None:
    def met(wanted: str | None) -> bool:
        try:
            require({"verdict": verdict}, wanted)
        except GateNotMet:
            return False
        return True

    assert met(None)
    assert met("better") == (verdict == "better")
    assert met("not-worse") == (verdict in ("better", "equivalent"))


def test_quiet_says_warnings_and_the_result_only(copy: Path, cli: CliServer) -> None:
    shutil.rmtree(copy)
    done = cli.run(command("run", "--quiet"), cwd=copy.parent)
    assert done.code == 0, done.err
    assert all(line.startswith("warning: ") for line in done.err.splitlines() if line.strip())
    assert "verdict:" in done.out
    assert "report: run/report.html" in done.out


# ---------------------------------------------------------------------- who reads what


MAY_READ_TEST_ROWS = (
    "gemma_lora.audit",  # writes them
    "gemma_lora.answer",
    "gemma_lora.judge",
    "gemma_lora.decision",
    "gemma_lora.report",
    "gemma_lora.provenance",  # their digest
    "gemma_lora.pipeline",  # their digest, for the stamps
    "gemma_lora.continuing",
)


def test_no_choice_reads_the_test_rows(first: Done, log: Path) -> None:
    """Every `open` of the process was logged with the modules on the stack."""
    opened = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [
        row for row in opened if "split/" in row.get("path", "") and "test.jsonl" in row["path"]
    ]
    assert len(rows) >= 4, "the log works"
    for row in rows:
        readers = [name for name in row["by"] if name != "gemma_lora.rundir"]
        assert readers[0].startswith(MAY_READ_TEST_ROWS), row
        assert not any(name.startswith("gemma_lora.train") for name in row["by"]), row
    trained = [row for row in opened if any(n.startswith("gemma_lora.train") for n in row["by"])]
    assert any("split/train.jsonl" in row.get("path", "") for row in trained)
    assert any("split/validation.jsonl" in row.get("path", "") for row in trained)
    for row in trained:
        assert "answers/" not in row.get("path", "")
        assert "judgements/" not in row.get("path", "")


def test_training_without_test_rows_gives_the_same_adapter(copy: Path, cli: CliServer) -> None:
    """Test rows replaced by nonsense: the adapter keeps every bit."""
    before = (copy / "adapter/adapter_model.safetensors").read_bytes()
    for name in ("adapter", "checkpoints", "answers", "judgements"):
        shutil.rmtree(copy / name)
    (copy / "split/test.jsonl").write_text("nonsense\n")
    code = (
        "from pathlib import Path; from gemma_lora.train import train; "
        "from gemma_lora.console import Console; from gemma_lora.loading import load_config; "
        "from gemma_lora.rundir import RunDir; "
        "train(load_config(Path('run/config.yaml')), RunDir(Path('run')), Console(quiet=True))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=copy.parent, check=True)
    assert (copy / "adapter/adapter_model.safetensors").read_bytes() == before


def test_nothing_is_contacted(first: Done, log: Path) -> None:
    """A local model and the offline judge: not one connection, not one name looked up."""
    contacts = [row for row in map(json.loads, log.open("rb")) if "address" in row]
    assert contacts == []


def test_no_person_and_no_machine_in_the_provenance(first: Done, place: Path) -> None:
    import getpass
    import socket

    text = (place / "whole" / "provenance.json").read_text()
    facts = json.loads(text)
    assert facts["base"]["name"] == "tiny"
    assert facts["data"]["file"] == "rows.csv"
    assert len(facts["data"]["sha256"]) == 64
    assert str(place) not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_a_run_moved_to_another_folder_can_be_judged(copy: Path, cli: CliServer) -> None:
    (copy.parent / "rows.csv").unlink()
    moved = copy.rename(copy.with_name("moved"))
    before = json.loads((moved / "provenance.json").read_text())
    done = cli.run(["judge", "moved", "--json"], cwd=moved.parent)
    assert done.code == 0, done.err
    after = json.loads((moved / "provenance.json").read_text())
    assert after["data"] == before["data"]
    assert after["files"] == before["files"]


def test_stops_leave_no_temporary_files(place: Path, cli: CliServer, first: Done) -> None:
    cli.run(command("tidy"), cwd=place, kill=Stop("os.rename", "split/test.jsonl"))
    done = cli.run(command("tidy"), cwd=place)
    assert done.code == 0, done.err
    left = {p.relative_to(place / "tidy").as_posix() for p in (place / "tidy").rglob(".*")}
    own = {"answers/test/.inputs.json", "forgetting/.inputs.json"}
    assert left <= {".lock", ".stamps", *own}


def test_the_api_is_the_same_functions(place: Path, first: Done) -> None:
    from gemma_lora import pipeline
    from gemma_lora.loading import load_config

    config = load_config(place / "whole" / "config.yaml")
    cwd = Path.cwd()
    os.chdir(place)
    try:
        result = pipeline.run(config, Console(quiet=True), out=Path("whole"))
    finally:
        os.chdir(cwd)
    assert {k: result[k] for k in numbers(place / "whole")} == numbers(place / "whole")
