"""Several processes train as one does, stop as one does, and never wait for the dead.

Most launches are forked (`support.launch`): real processes, a real gloo group, no start-up. The last
tests go through torchrun and the command line.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from support.launch import HUNG, launched
from support.processes import QUIET
from support.small_runs import FAST, write_rows
from support.together import RECIPE, ROWS, assert_same, metrics_of, spoiling, work_on
from support.training import example, make_config, make_run, quiet, talking, text_of

from gemma_lora import model as models
from gemma_lora.config import Config
from gemma_lora.data.tokens import tokenise
from gemma_lora.model import fitting
from gemma_lora.preflight import outlook
from gemma_lora.rundir import RunDir, read_json
from gemma_lora.train import follow, processes, release, train
from gemma_lora.train import stage as stages
from gemma_lora.train import trainer as trainers
from gemma_lora.train.masks import Masks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def config(tiny_folder) -> Config:
    return make_config(tiny_folder("gemma"), **RECIPE)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> RunDir:
    """The training by one process."""
    run = make_run(tmp_path_factory.mktemp("alone") / "run", train=ROWS)
    train(config, run, quiet())
    return run


def rows_computed(log: Path) -> Counter[str]:
    """How often each row went through a training forward pass."""
    return Counter(line for part in log.glob("rows-*") for line in part.read_text().splitlines())


@pytest.mark.parametrize("count", [2, 3])
def test_the_loss_curve_and_the_adapter_are_those_of_one_process(config, alone, tmp_path, count):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest = trainers.nll_sum
        stream = (tmp_path / f"rows-{rank}").open("w")

        def noting(model: Any, batch: Any) -> Any:
            if torch.is_grad_enabled():
                for ids in batch.input_ids[0].split(batch.lengths):
                    print(ids.tolist(), file=stream, flush=True)
            return honest(model, batch)

        trainers.nll_sum = noting
        work_on(config, run)(rank)

    ended = launched(count, work, tmp_path / "streams")
    assert [(e.code, e.err) for e in ended] == [(0, "")] * count
    assert_same(run, alone)
    assert read_json(run.training)["processes"] == count
    # each row once an epoch, those of the small last step too, in which not every process has work
    rows = rows_computed(tmp_path)
    assert len(rows) == ROWS
    assert set(rows.values()) == {1}


def test_only_the_first_process_writes(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
            if event == "open" and isinstance(arguments[2], int):
                changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if event == "os.mkdir" and Path(arguments[0]).exists():
                return
            if changes and rank and str(run.root) in str(arguments[0]):
                sys.stderr.write(f"{event} {arguments[0]}")
                os._exit(77)

        sys.addaudithook(hook)
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [(e.code, e.err) for e in ended] == [(0, "")] * 2


def test_out_of_memory_in_one_process_halves_in_all(config, tmp_path):
    def full() -> None:
        raise torch.OutOfMemoryError("no memory left")

    runs = [make_run(tmp_path / name / "run", train=ROWS) for name in ("alone", "two")]
    with pytest.MonkeyPatch.context() as patch:  # puts back what `spoiling` replaces
        patch.setattr(trainers, "nll_sum", trainers.nll_sum)
        patch.setattr(Masks, "at", Masks.at)
        spoiling(0, 2, full, work_on(config, runs[0]))(0)
    ended = launched(2, spoiling(1, 2, full, work_on(config, runs[1])), tmp_path / "streams")
    assert [e.code for e in ended] == [0, 0]
    assert read_json(runs[1].training)["decisions"]["micro_batch_tokens"] == 30
    assert_same(runs[1], runs[0])


def test_out_of_memory_in_a_validation_of_one_process_repeats_it_in_all(config, alone, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest, calls = trainers.mean_nll, []

        def lacking(*args: Any, **kwargs: Any) -> float:
            calls.append(1)
            if rank == 1 and len(calls) == 2:
                raise torch.OutOfMemoryError("no memory left")
            return honest(*args, **kwargs)

        trainers.mean_nll = lacking
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [0, 0], ended
    result, expected = (read_json(r.training) for r in (run, alone))
    assert result["decisions"]["micro_batch_tokens"] == 30
    warning = (
        "out of memory with 60 tokens at once: the validation after step 2 is repeated with 30"
    )
    assert warning in result["warnings"]
    steps = [v["step"] for v in result["validations"]]
    assert steps == [v["step"] for v in expected["validations"]]
    for number in (0, 1):  # later steps draw other masks
        loss = expected["validations"][number]["loss"]
        assert result["validations"][number]["loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGTERM, 143, "step"), (signal.SIGINT, 130, "validation")],
)
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    config, alone, tmp_path, number, code, moment
):
    run = make_run(tmp_path / "run", train=ROWS)

    def told() -> None:
        os.kill(os.getpid(), number)

    def in_validation(rank: int) -> None:
        honest, calls = trainers.mean_nll, []

        def telling(*args: Any, **kwargs: Any) -> float:
            calls.append(1)
            if rank == 1 and len(calls) == 2:
                told()
            return honest(*args, **kwargs)

        trainers.mean_nll = telling
        work_on(config, run)(rank)

    in_step = spoiling(1, 2, told, work_on(config, run))
    ended = launched(2, in_step if moment == "step" else in_validation, tmp_path / "streams")
    assert [e.code for e in ended] == [code, code], ended
    saved = max(path.name for path in run.checkpoints.iterdir())
    assert saved == {"step": "step-00000003", "validation": "step-00000002"}[moment]
    assert not run.training.exists()
    again = {"step": 2, "validation": 3}[moment]  # the same number of processes, and another
    ended = launched(again, work_on(config, run), tmp_path / "again")
    assert [e.code for e in ended] == [0] * again
    assert_same(run, alone)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken() -> None:
    raise ValueError("a bug in one process")


@pytest.mark.parametrize(
    ("rank", "spoil", "code"),
    [(0, killed, -signal.SIGKILL), (0, broken, 99), (1, killed, -signal.SIGKILL)],
)
def test_a_dead_process_ends_the_others_with_the_cause(config, alone, tmp_path, rank, spoil, code):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(2, spoiling(rank, 3, spoil, work_on(config, run)), tmp_path / "streams")
    assert ended[rank].code == code
    assert ended[1 - rank].code == 3
    assert f"process {1 - rank} of 2: process {rank} of 2 is gone" in ended[1 - rank].err
    assert "run the same command again" in ended[1 - rank].err
    if not (rank == 0 and spoil is killed):  # the leader saves the last whole step
        assert max(path.name for path in run.checkpoints.iterdir()) == "step-00000003"
    train(config, run, quiet())
    assert_same(run, alone)


def test_a_lack_of_memory_in_the_sum_of_gradients_is_said_as_one(config, alone, tmp_path):
    """It ends the job, since the others are in the sum; nobody is called dead who is not."""
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest, calls = processes.dist.all_reduce, []

        def lacking(values: Any) -> Any:
            calls.append(1)
            if rank == 1 and len(calls) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return honest(values)

        processes.dist.all_reduce = lacking
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [3, 3]
    assert "the memory does not suffice: CUDA out of memory" in ended[1].err
    assert "gone" not in ended[1].err
    assert "process 0 of 2: process 1 of 2 is gone" in ended[0].err
    train(config, run, quiet())
    assert_same(run, alone)


def test_death_while_the_others_validate_leaves_the_step(config, alone, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest, calls = trainers.mean_nll, []

        def dying(*args: Any, **kwargs: Any) -> float:
            calls.append(1)
            if rank == 1 and len(calls) == 2:
                killed()
            return honest(*args, **kwargs)

        trainers.mean_nll = dying
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [3, -signal.SIGKILL]
    assert (run.checkpoints / "step-00000002").is_dir()
    train(config, run, quiet())
    assert_same(run, alone)


def test_a_process_that_hangs_is_not_waited_for_forever(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def stopped() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "TIMEOUT", timedelta(seconds=5))
        ended = launched(
            2, spoiling(1, 3, stopped, work_on(config, run)), tmp_path / "streams", patience=1.0
        )
    assert ended[1].code == HUNG
    assert ended[0].code == 3
    assert "process 1 of 2 is gone" in ended[0].err


def test_the_path_is_the_first_processes_choice_and_plain_dropout_follows_the_place(
    config, tmp_path
):
    runs = [make_run(tmp_path / name / "run", train=ROWS) for name in ("alone", "two")]

    def plain(rank: int, run: RunDir) -> None:
        if rank == 0:
            stages.candidates = lambda *_, **__: [stages.PATHS["plain"]]
        work_on(config, run)(rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "candidates", stages.candidates)
        plain(0, runs[0])
    ended = launched(2, lambda rank: plain(rank, runs[1]), tmp_path / "streams")
    assert [e.code for e in ended] == [0, 0], ended
    assert read_json(runs[1].training)["decisions"]["path"] == "plain"
    assert_same(runs[1], runs[0])


def test_weights_that_drift_apart_are_noticed(config, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)

    def work(rank: int) -> None:
        honest = trainers.put_gradients

        def off(parameters: Any, line: Any) -> None:
            honest(parameters, line * (1 + 1e-3 * rank))

        trainers.put_gradients = off
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [3, 3]
    assert "no longer have the same weights" in ended[0].err


def test_a_process_that_sees_other_rows_is_refused(config, tmp_path):
    run, other = (make_run(tmp_path / name / "run", train=n) for name, n in (("a", 17), ("b", 16)))

    def work(rank: int) -> None:
        if rank:
            stages.RunDir = lambda _: other
        work_on(config, run)(rank)

    ended = launched(2, work, tmp_path / "streams")
    assert [e.code for e in ended] == [3, 3]
    assert "process 1 of 2: training rows: not what process 0 has" in ended[1].err


def test_processes_end_where_there_is_nothing_to_train(tmp_path):
    ended = launched(3, lambda rank: follow() if rank else release(), tmp_path)
    assert [(e.code, e.err) for e in ended] == [(0, "")] * 3


def test_a_launch_of_one_process_is_a_plain_run(config, alone, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)
    ended = launched(1, work_on(config, run), tmp_path / "streams")
    assert [(e.code, e.err) for e in ended] == [(0, "")]
    assert_same(run, alone)
    assert read_json(run.training)["processes"] == 1


def test_the_budget_leaves_work_for_every_process(tiny_folder, tmp_path):
    run = make_run(tmp_path / "run", train=ROWS)
    config = make_config(tiny_folder("gemma"))

    def work(rank: int) -> None:
        if rank:
            return follow()
        console = talking()
        train(config, run, console)
        (tmp_path / "told").write_text(text_of(console))

    assert [e.code for e in launched(2, work, tmp_path / "streams")] == [0, 0]
    assert "2 processes share the micro-batches" in (tmp_path / "told").read_text()
    assert read_json(run.training)["decisions"]["micro_batch_tokens"] < 200


def test_the_plan_of_an_audit_is_that_of_its_launch(tiny_folder, tmp_path, monkeypatch):
    """`preflight.outlook` counts with the same share of memory and rows as training does."""
    folder = tiny_folder("gemma")
    config = make_config(folder)
    rows = tokenise(
        [example(n) for n in range(ROWS)],
        models.load_format(models.resolve(str(folder))),
        max_length=config.train.max_length,
        keep_answer=False,
    )
    monkeypatch.setattr(fitting, "free_memory", lambda device: 2**34)
    plans = []
    for size in ("1", "2"):
        with monkeypatch.context() as patch:
            patch.setenv("WORLD_SIZE", size)
            plans.append(outlook(config)(rows.lengths, rows.supervised))
    usual = config.train.batch * config.train.accumulation * float(rows.lengths.mean())
    alone, shared = (plan["micro_batch_tokens"] for plan in plans)
    assert alone >= usual
    assert shared == max(math.ceil(1.1 * usual / 2), rows.lengths.max())
    run = make_run(tmp_path / "run", train=ROWS)

    ended = launched(2, work_on(config, run), tmp_path / "streams")
    assert [e.code for e in ended] == [0, 0]
    assert read_json(run.training)["decisions"]["micro_batch_tokens"] == shared


# ---------------------------------------------------------------------- the launchers themselves


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    "fsdp": (
        *("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"),
        *("--num_processes", "2"),
    ),
}


def started(launcher: str, *arguments: object, folder: Path) -> subprocess.Popen[str]:
    """`gemma-lora ARGUMENTS` in two processes; the output goes to files out and err in `folder`."""
    environment = {**os.environ, **QUIET, "CUDA_VISIBLE_DEVICES": ""}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "gemma_lora.cli"]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(
            [*command, *map(str, arguments)], cwd=folder, env=environment, stdout=out, stderr=err
        )


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for child in map(int, children) for p in (child, *descendants(child))]


def rank_of(pid: int) -> str | None:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry).get("RANK")


def test_a_whole_run_under_torchrun_is_the_run_of_one_process(cli, tmp_path):
    data = write_rows(tmp_path / "data.csv")
    arguments = ("run", data, *FAST, "--micro-batch-tokens", "128", "--json")
    launcher = started("torchrun", *arguments, "--out", tmp_path / "two", folder=tmp_path)
    one = cli.run([*arguments, "--out", tmp_path / "one"], cwd=tmp_path)
    code = launcher.wait(200)
    err = (tmp_path / "err").read_text()
    assert (one.code, code) == (0, 0), err
    assert_same(RunDir(tmp_path / "two"), RunDir(tmp_path / "one"))
    verdict = json.loads((tmp_path / "out").read_text())  # one object: one process prints
    assert verdict["verdict"] == one.json["verdict"]
    assert err.count("[judge-") == err.count("[train]") == 1
    assert read_json(tmp_path / "two" / "training.json")["processes"] == 2
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        p.name for p in (tmp_path / "one").iterdir()
    }


@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        ("accelerate", "2 processes share the micro-batches"),
        # the same by fork in test_train_sharding.py
        pytest.param(
            "fsdp",
            "frozen weights are sharded: each of 2 processes holds",
            marks=pytest.mark.full,
        ),
    ],
    ids=["accelerate", "fsdp"],
)
def test_two_steps_under_accelerate_launch_are_those_of_one_process(launcher, told, cli, tmp_path):
    data = write_rows(tmp_path / "data.csv")
    arguments = ("train", data, *FAST, "--epochs", "0.4", "--micro-batch-tokens", "128")
    job = started(launcher, *arguments, "--out", tmp_path / "two", folder=tmp_path)
    one = cli.run([*arguments, "--out", tmp_path / "one"], cwd=tmp_path)
    code = job.wait(200)
    err = (tmp_path / "err").read_text()
    assert (one.code, code) == (0, 0), err
    assert told in err
    two = RunDir(tmp_path / "two")
    assert (read_json(two.training)["processes"], read_json(two.training)["steps_done"]) == (2, 2)
    assert_same(two, RunDir(tmp_path / "one"))


@pytest.mark.full  # the same by fork above
@pytest.mark.skipif(sys.platform != "linux", reason="finds the process through /proc")
def test_a_killed_process_under_accelerate_launch_ends_the_job_with_the_cause(cli, tmp_path):
    data, run = write_rows(tmp_path / "data.csv"), RunDir(tmp_path / "run")
    arguments = ("train", data, *FAST, "--epochs", "6", "--patience", "0", "--out", run.root)
    launcher = started("accelerate", *arguments, folder=tmp_path)
    end = time.monotonic() + 150
    while not (run.metrics.exists() and len(metrics_of(run)) > 3):
        assert launcher.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    (pid,) = [p for p in descendants(launcher.pid) if rank_of(p) == "1"]
    os.kill(pid, signal.SIGKILL)
    assert launcher.wait(100) != 0
    err = (tmp_path / "err").read_text()
    assert "process 0 of 2: process 1 of 2 is gone" in err
    assert "run the same command again" in err
    assert not run.training.exists()
    saved = max(int(path.name.removeprefix("step-")) for path in run.checkpoints.iterdir())
    assert saved == metrics_of(run)[-1]["step"]  # the last whole step
    done = cli.run(arguments, cwd=tmp_path)
    assert done.code == 0
    assert f"going on from the checkpoint of step {saved}" in done.err
    steps = [line["step"] for line in metrics_of(run)]
    assert steps == list(range(read_json(run.training)["decisions"]["steps"] + 1))
