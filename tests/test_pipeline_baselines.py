"""Whole runs with further arms through the command line: refused early, answered, judged, reported, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import JudgeServer
from support.processes import CliServer, Done, Stop
from support.small_runs import FAST, numbers, write_rows

from gemma_lora.judge import slug

BESIDE = ("--baseline", "few-shot,prompt:p.txt", "--aa")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    write_rows(folder / "rows.csv")
    (folder / "tiny").symlink_to(tiny_folder())
    (folder / "other").symlink_to(tiny_folder("gemma2"))
    (folder / "p.txt").write_text("You are a polite agent.")
    return folder


def command(out: str, *more: str) -> list[str]:
    return ["run", "rows.csv", "--model", "tiny", "--out", out, *FAST, *more]


@pytest.fixture(scope="module")
def first(place: Path, cli: CliServer) -> Done:
    """A run with few-shot, a prompt and the judge against itself."""
    done = cli.run(command("whole", *BESIDE, "--json"), cwd=place)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def copy(first: Done, place: Path, request: pytest.FixtureRequest) -> str:
    name = request.node.name[:50]
    shutil.copytree(place / "whole", place / name, copy_function=shutil.copy2)
    return name


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_one_command_gives_all_of_it(first: Done, place: Path) -> None:
    verdict, run = first.json, place / "whole"
    assert list(verdict["baselines"]) == ["few-shot", "prompt-p"]
    for found in verdict["baselines"].values():
        assert found["comparison"]["n"] == 8
        assert found["verdict"] in ("better", "worse", "equivalent", "inconclusive")
    assert verdict["aa"]["n"] == 8
    assert verdict["aa"]["mean_absolute"] == 0, "lexical gives the same each time"
    assert "[baselines]" in first.err
    for name in ("report.html", "report.md"):
        page = (run / name).read_text()
        for found in verdict[
            "baselines"
        ].values():  # to be read beside the others, question by question
            who = "four examples" if found["kind"] == "few-shot" else "instruction of p.txt"
            assert page.count(who) > 8, (name, who)
    kept = json.loads((run / "provenance.json").read_text())["files"]
    for arm in ("base", "tuned", "few-shot", "prompt-p"):
        assert len((run / f"answers/test/{arm}.jsonl").read_text().splitlines()) == 8
        assert f"answers/test/{arm}.jsonl" in kept
    rows = [json.loads(line) for line in (run / "judgements/lexical/judgements.jsonl").open()]
    assert len(rows) == 5 * 8
    train = {json.loads(line)["id"] for line in (run / "split/train.jsonl").open()}
    chosen = json.loads((run / "answers/test/baselines.json").read_text())["arms"]["few-shot"][
        "chosen"
    ]
    assert len(chosen) == 8
    assert all(set(names) <= train and len(names) == 4 for names in chosen.values())


@pytest.mark.full
def test_further_arms_leave_the_verdict_as_it_is(first: Done, place: Path, cli: CliServer) -> None:
    plain = cli.run(command("plain"), cwd=place)
    assert plain.code == 0, plain.err
    assert numbers(place / "plain") == numbers(place / "whole")


def test_what_cannot_be_used_is_refused_before_training_and_leaves_no_folder(
    place: Path, cli: CliServer
) -> None:
    bad = cli.run(
        command(
            "none", "--baseline", "prompt:gone.txt", "--baseline", "nobody, few-shot:0", "--json"
        ),
        cwd=place,
    )
    assert bad.code == 2
    assert len(bad.json["details"]) == 3, bad.json
    assert "[train]" not in bad.err
    assert not (place / "none").exists()


def test_the_same_command_does_nothing_again_and_another_list_only_what_is_new(
    copy: str, place: Path, cli: CliServer
) -> None:
    run = place / copy
    files = {
        arm: run / f"answers/test/{arm}.jsonl" for arm in ("base", "tuned", "few-shot", "prompt-p")
    }
    before = {arm: mtime(path) for arm, path in files.items()}
    again = cli.run(command(copy, *BESIDE), cwd=place)
    assert again.code == 0, again.err
    assert again.err.count("done before, nothing has changed") == 6
    more = cli.run(
        command(copy, "--baseline", "few-shot, prompt:p.txt, other", "--aa", "--json"), cwd=place
    )
    assert more.code == 0, more.err
    assert {arm: mtime(path) for arm, path in files.items()} == before
    assert list(more.json["baselines"]) == ["few-shot", "prompt-p", "model-other"]
    assert "40 of 48 answers are judged already" in more.err
    fewer = cli.run(command(copy, "--json"), cwd=place)
    assert fewer.code == 0, fewer.err
    assert (fewer.json["baselines"], fewer.json["aa"], fewer.json["judgements_left_out"]) == (
        {},
        None,
        0,
    )


def test_a_changed_prompt_makes_only_its_own_arm_anew(
    copy: str, place: Path, cli: CliServer, tmp_path: Path
) -> None:
    run = place / copy
    (tmp_path / "p.txt").write_text("Shout at everybody, in verse, at length.")
    shutil.copy(place / "rows.csv", tmp_path)
    (tmp_path / "tiny").symlink_to(place / "tiny")
    before = {
        arm: mtime(run / f"answers/test/{arm}.jsonl") for arm in ("base", "tuned", "few-shot")
    }
    done = cli.run(command(str(run), *BESIDE), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "runs again: baseline prompt-p changed" in done.err
    assert {arm: mtime(run / f"answers/test/{arm}.jsonl") for arm in before} == before
    changed = json.loads((run / "answers/test/baselines.json").read_text())["arms"]["prompt-p"]
    assert changed["characters"] == len("Shout at everybody, in verse, at length.")


@pytest.mark.full
def test_killed_while_a_baseline_answers_it_continues(
    first: Done, place: Path, cli: CliServer
) -> None:
    killed = cli.run(command("killed", *BESIDE), cwd=place, kill=Stop("write", "few-shot.jsonl", 5))
    assert killed.code == -9, killed.err
    assert len((place / "killed/answers/test/few-shot.jsonl").read_text().splitlines()) == 4
    done = cli.run(command("killed", *BESIDE), cwd=place)
    assert done.code == 0, done.err
    assert "few-shot answers: continuing, 4 of 8 are there" in done.err
    for arm in ("few-shot", "prompt-p"):
        name = f"answers/test/{arm}.jsonl"
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()


def test_judging_needs_no_prompt_file_once_the_answers_are_there(
    copy: str, place: Path, cli: CliServer, tmp_path: Path
) -> None:
    run = (place / copy).resolve()
    (tmp_path / "tiny").symlink_to(place / "tiny")
    done = cli.run(["judge", str(run), "--json"], cwd=tmp_path)
    assert done.code == 0, done.err
    assert list(done.json["baselines"]) == ["few-shot", "prompt-p"]
    bad = cli.run(["judge", str(run), "--baseline", "prompt:gone.txt"], cwd=tmp_path)
    assert bad.code == 2
    assert "gone.txt: there is no such file" in bad.err


def test_a_further_judge_takes_arms_of_its_own_and_pays_for_each_once(
    copy: str, place: Path, cli: CliServer, tmp_path: Path
) -> None:
    env = {"GEMMA_LORA_CACHE": str(tmp_path / "cache")}
    with JudgeServer() as server:
        judge = ("judge", copy, "--judge", server.name, "--canaries", "0")
        done = cli.run([*judge, "--baseline", "few-shot", "--no-aa", "--json"], cwd=place, env=env)
        assert done.code == 0, done.err
        assert list(done.json["baselines"]) == ["few-shot"]
        assert done.json["aa"] is None
        before = len(server.chats)
        assert before <= 1 + 3 * 8, "equal answers to one question are asked about once"
        more = cli.run([*judge, "--baseline", "few-shot", "--aa", "--json"], cwd=place, env=env)
        assert more.code == 0, more.err
        assert more.json["aa"]["n"] == 8
        assert more.json["aa"]["mean_absolute"] == 0, "this judge goes by the answer's text"
        # the probe, and the base's answers once more
        assert len(server.chats) - before == 1 + 8
    assert (place / copy / "judgements" / slug(server.name) / "report.html").is_file()
    assert list(json.loads((place / copy / "verdict.json").read_text())["baselines"]) == [
        "few-shot",
        "prompt-p",
    ]
