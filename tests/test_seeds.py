"""`run --seeds`: whole runs through the command line, with a real judge server on loopback."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import JudgeServer
from support.processes import CliServer, Stop
from support.small_runs import FAST, contents, finished, numbers, write_rows

from gemma_lora.judge import slug


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_rows(folder / "rows.csv")
    shutil.copytree(tiny_folder(), folder / "tiny")
    return folder


def command(out: str, *more: str) -> list[str]:
    return ["run", "rows.csv", "--model", "tiny", "--out", out, *FAST, *more]


@pytest.fixture(scope="module")
def whole(place: Path, cli: CliServer) -> Path:
    done = cli.run(command("whole", "--seeds", "3", "--json"), cwd=place)
    assert done.code == 0, done.err
    assert done.json["seeds"]["count"] == 3
    (place / "whole.err").write_text(done.err)
    return place / "whole"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "whole", copy_function=shutil.copy2)
    shutil.copy(whole.parent / "rows.csv", tmp_path)
    shutil.copytree(whole.parent / "tiny", tmp_path / "tiny")
    return tmp_path / "whole"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_runs_share_all_but_the_training_seed(whole: Path) -> None:
    runs = [whole / "seeds" / str(seed) for seed in range(3)]
    for name in ("split/train.jsonl", "split/test.jsonl", "audit.json", "answers/test/base.jsonl"):
        assert len({(run / name).read_bytes() for run in runs}) == 1, name
    told = (whole.parent / "whole.err").read_text()
    assert told.count("base answers 8/8") == 1, "made once and copied"
    assert told.count("tuned answers 8/8") == 3
    assert told.count("[data] done before") == 2
    assert len({adapter(run) for run in runs}) == 3
    assert [json.loads((run / "provenance.json").read_text())["training_seed"] for run in runs] == [
        *range(3)
    ]
    for run in runs:
        for name in ("verdict.json", "report.html", "metrics.jsonl", ".stamps/judge-lexical.json"):
            assert (run / name).is_file(), name


def test_a_run_of_several_is_what_it_is_alone(whole: Path, place: Path, cli: CliServer) -> None:
    """The same adapter, answers and verdict as `--train-seed 2` by itself; seed 0 is the usual run."""
    for seed, more in ((2, ("--train-seed", "2")), (0, ())):
        done = cli.run(command(f"alone-{seed}", *more), cwd=place)
        assert done.code == 0, done.err
        alone, child = place / f"alone-{seed}", whole / "seeds" / str(seed)
        assert adapter(alone) == adapter(child)
        for name in ("split/test.jsonl", "answers/test/base.jsonl", "answers/test/tuned.jsonl"):
            assert (alone / name).read_bytes() == (child / name).read_bytes()
        assert numbers(alone) == numbers(child)


def test_the_same_command_repeats_nothing(copy: Path, cli: CliServer) -> None:
    before = {run.name: finished(run) for run in (copy / "seeds").iterdir()}
    verdict = numbers(copy)
    again = cli.run(command("whole", "--seeds", "3"), cwd=copy.parent)
    assert again.code == 0, again.err
    assert again.err.count("done before, nothing has changed") == 15
    assert {run.name: finished(run) for run in (copy / "seeds").iterdir()} == before
    assert numbers(copy) == verdict


KILLS = {
    "first run's start": Stop("os.rename", "seeds/0/.stamps/identity.json"),
    "copying the split": Stop("write", "seeds/1/split/test.jsonl"),
    "copying the base answers": Stop("os.rename", "seeds/1/answers/test/base.jsonl"),
    "training of the second": Stop("write", "seeds/1/metrics.jsonl", 4),
    "answers of the second": Stop("write", "seeds/1/answers/test/tuned.jsonl", 3),
    "the recipe's report": Stop("os.rename", "killed/report.md"),
}


@pytest.mark.full
@pytest.mark.parametrize("when", KILLS)
def test_killed_then_continued(
    when: str, whole: Path, place: Path, cli: CliServer, tmp_path: Path
) -> None:
    shutil.copy(place / "rows.csv", tmp_path)
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    argv = command("killed", "--seeds", "3")
    killed = cli.run(argv, cwd=tmp_path, kill=KILLS[when])
    assert killed.code == -signal.SIGKILL, killed.err
    first = tmp_path / "killed" / "seeds" / "0"
    before = finished(first) if (first / ".stamps" / "answer.json").exists() else None
    done = cli.run(argv, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    if before is not None:
        assert finished(first) == before, "a finished run is left as it is"
    if when == "training of the second":
        assert "going on from the checkpoint of step" in done.err
    assert numbers(tmp_path / "killed") == numbers(whole)
    for seed in range(3):
        child = Path("seeds") / str(seed)
        assert adapter(tmp_path / "killed" / child) == adapter(whole / child)


def test_base_answers_are_judged_once(whole: Path, copy: Path, cli: CliServer, tmp_path) -> None:
    """Through `judge` for the whole folder; the server counts every request."""
    env = {"GEMMA_LORA_CACHE": str(tmp_path / "cache")}
    with JudgeServer() as server:
        argv = ["judge", "whole", "--judge", server.name, "--canaries", "0", "--json"]
        done = cli.run(argv, cwd=copy.parent, env=env)
        assert done.code == 0, done.err
        asked = Counter((str(seen.field("QUESTION")), seen.answer) for seen in server.chats)
        paid = len(server.chats)
        again = cli.run(argv, cwd=copy.parent, env=env)
        assert again.code == 0, again.err
        assert len(server.chats) == paid, "nothing is asked a second time"
    asked = +Counter({k: n for k, n in asked.items() if k[0] != "What is 2 + 2?"})
    runs = [copy / "seeds" / str(seed) for seed in range(3)]
    texts = {
        (row["messages"][-1]["content"], row["answer"])
        for run in runs
        for arm in ("base", "tuned")
        for row in lines(run / "answers" / "test" / f"{arm}.jsonl")
    }
    assert asked.keys() == texts
    assert set(asked.values()) == {1}
    folder = Path("judgements") / slug(server.name)
    for run in runs[1:]:
        used = [row for row in lines(run / folder / "usage.jsonl") if row["arm"] == "base"]
        assert len(used) == 8
        assert all(row["cached"] and row["requests"] == 0 for row in used)
    assert done.json["judge"]["is_llm"] is True
    assert json.loads((copy / "verdict.json").read_text())["judge"]["kind"] == "lexical"
    html = (copy / folder / "report.html").read_text("utf-8")
    assert f'href="../../seeds/1/{folder.as_posix()}/report.html"' in html
    assert (
        contents(whole / "seeds" / "0" / "adapter").keys() == contents(runs[0] / "adapter").keys()
    )


def test_max_cost_is_for_all_runs_together(copy: Path, cli: CliServer, tmp_path: Path) -> None:
    env = {"GEMMA_LORA_CACHE": str(tmp_path / "cache")}
    prices = ("--price-input", "1000", "--price-output", "1000")  # $0.12 a request
    with JudgeServer() as server:
        argv = ["judge", "whole", "--judge", server.name, *prices, "--judge-max-tokens", "64"]
        argv += ["--canaries", "0"]
        done = cli.run([*argv, "--max-cost", "8"], cwd=copy.parent, env=env)
        spent = 0.12 * len(server.chats)
    assert done.code == 4, done.err
    assert "--max-cost" in done.err
    assert 0 < spent <= 8, "the probes are among them, and one request may cost about 6"
    files = (copy / "seeds").glob(f"*/judgements/{slug(server.name)}/**/usage.jsonl")
    account = [row for file in files for row in lines(file)]
    assert sum(row["requests"] for row in account) == len(server.chats)
    assert any(row["id"] == "probe" for row in account)


def test_more_seeds_may_be_added_and_none_left_out(copy: Path, cli: CliServer) -> None:
    before = {run.name: finished(run) for run in (copy / "seeds").iterdir()}
    fewer = cli.run(command("whole", "--seeds", "2"), cwd=copy.parent)
    assert fewer.code == 2
    assert "over 3 training seeds" in fewer.err
    more = cli.run(command("whole", "--seeds", "4", "--json"), cwd=copy.parent)
    assert more.code == 0, more.err
    assert more.json["seeds"]["count"] == 4
    assert more.json["seeds"]["grown_from"] == [3]
    assert {name: finished(copy / "seeds" / name) for name in before} == before
    one = cli.run(command("whole"), cwd=copy.parent)
    assert one.code == 2
    assert "made from another configuration" in one.err


def test_the_gate_works_on_the_recipe(copy: Path, cli: CliServer) -> None:
    word = json.loads((copy / "verdict.json").read_text())["verdict"]
    done = cli.run(
        command("whole", "--seeds", "3", "--require", "better", "--json"), cwd=copy.parent
    )
    assert done.code == (0 if word == "better" else 10)
    assert done.json["gate"] == {"required": "better", "met": word == "better"}


def test_commands_on_one_run_name_the_runs(copy: Path, cli: CliServer) -> None:
    for name in ("answer", "chat"):
        done = cli.run([name, "whole"], cwd=copy.parent)
        assert done.code == 2, done.err
        for seed in range(3):
            assert f"gemma-lora {name} whole/seeds/{seed}" in done.err


def test_what_trains_one_run_refuses_several(place: Path, cli: CliServer) -> None:
    (place / "several.yaml").write_text("seeds: 3\n")
    argv = ["train", "rows.csv", "--model", "tiny", "--config", "several.yaml", "--out", "refused"]
    done = cli.run(argv, cwd=place)
    assert done.code == 2
    assert "--train-seed" in done.err
    assert not (place / "refused").exists()
    launched = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    done = cli.run(command("refused", "--seeds", "2"), cwd=place, env=launched)
    assert done.code == 2, done.err
    assert "--train-seed 1 --out refused/seeds/1" in done.err
    assert not (place / "refused").exists()


def test_a_judge_that_cannot_be_reached_leaves_no_folder(place: Path, cli: CliServer) -> None:
    argv = command("nobody", "--seeds", "2", "--judge", "http://127.0.0.1:9/v1#m")
    done = cli.run([*argv, "--judge-retries", "0"], cwd=place)
    assert done.code == 4, done.err
    assert not (place / "nobody").exists()
