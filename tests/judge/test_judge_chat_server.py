"""Transformers' own chat server (`transformers serve`) as a judge, with tiny Gemmas, over real HTTP."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import CliServer
from support.small_runs import FAST, write_rows
from support.tiny import save_tiny
from support.tiny_judge import HIGH, LOW, save_judge

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.records import ARMS, Example, Judgement
from gemma_lora.rundir import RunDir, read_json, read_jsonl

pytestmark = pytest.mark.full
for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="`transformers serve` needs transformers[serving]")

SERVE = "from transformers.cli.transformers import main; main()"
ANSWERS = {
    "base": [f"it is number {i}" for i in range(5)],
    "tuned": [f"the refund {i} is on its way; a refund takes days" for i in range(5)],
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    command = [sys.executable, "-c", SERVE, "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.mark.parametrize("system_role", [True, False], ids=["system-role", "as-gemma-1"])
def test_a_judge_behind_it_gives_the_scores_that_it_means(
    system_role: bool, address: str, make_run, configured, tmp_path: Path
) -> None:
    """Gemma 1's template knows no system role: the server fails with a 500, and is asked without one."""
    # question and reference name it once each, the good answers twice more
    folder = save_judge(tmp_path / "judge", marker="refund", bar=4, system_role=system_role)
    stream = io.StringIO()
    config = configured(f"{address}#{folder}", canaries=4, judge_timeout=120.0)
    judging.probe(config.judge, Console(stream=stream), backoff=0.05)
    run = make_run(answers=ANSWERS)
    where = judging.judge(config, run, Console(stream=stream), backoff=0.05)
    rows = read_jsonl(where / "judgements.jsonl", Judgement)
    assert {(row.arm, row.overall) for row in rows} == {("base", LOW), ("tuned", HIGH)}
    facts = read_json(where / "judge.json")
    assert facts["snapshot"] == f"{folder}@main"
    assert facts["tokens"]["output"] == 2 * facts["requests"]
    assert facts["canaries"]["scored"] == 4
    assert ("trying without a system message" in stream.getvalue()) == (not system_role)


def test_a_whole_run_is_judged_behind_it(
    address: str, cli: CliServer, tiny_folder, tmp_path: Path
) -> None:
    """Data, training, answers, canaries, verdict and report in one command, and a second one for nothing."""
    # question and reference name the garden once each, those of other places never
    folder = save_judge(tmp_path / "judge", marker="garden", bar=2)
    data = write_rows(tmp_path / "rows.csv")
    command = ["run", data, "--model", tiny_folder(), "--judge", f"{address}#{folder}", *FAST]
    command += ["--judge-timeout", "120", "--out", tmp_path / "run", "--json"]
    done = cli.run(command, cwd=tmp_path)
    assert done.code == 0, done.err
    run, verdict = RunDir(tmp_path / "run"), done.json
    assert (verdict["questions"], verdict["pairs_lost"]) == (8, 0)
    assert verdict["judge"]["is_llm"] is True
    assert verdict["canaries"]["scored"] == 10
    rows = read_jsonl(run.judgements(verdict["judge"]["slug"]) / "judgements.jsonl", Judgement)
    asked = {row.id: row.prompt[-1].content for row in read_jsonl(run.test_rows, Example)}
    meant = {name: HIGH if "garden" in text else LOW for name, text in asked.items()}
    assert set(meant.values()) == {LOW, HIGH}
    assert {(row.id, row.arm, row.overall) for row in rows} == {
        (name, arm, score) for name, score in meant.items() for arm in ARMS
    }
    assert "judged by" in run.report_html.read_text()
    again = cli.run(command, cwd=tmp_path)
    assert again.code == 0, again.err
    assert again.json["judge"]["requests"] == verdict["judge"]["requests"]
    assert "done before, nothing has changed" in again.err.partition("[judge-")[2]


def test_babble_is_unscored_and_a_clean_error(address: str, make_run, configured, tmp_path) -> None:
    folder = save_tiny(tmp_path / "babbler", "gemma3_text")
    config = configured(f"{address}#{folder}", judge_max_tokens=64, judge_timeout=120.0)
    run = make_run(2)
    with pytest.raises(JudgeError, match="gave no usable judgement") as caught:
        judging.probe(config.judge, Console(quiet=True), backoff=0.05)
    assert caught.value.exit_code == 4
    with pytest.raises(JudgeError, match="not one base and not one tuned answer"):
        judging.judge(config, run, Console(quiet=True), backoff=0.05)
    rows = read_jsonl(
        run.judgements(judging.slug(config.judge.judge)) / "judgements.jsonl", Judgement
    )
    assert len(rows) == 4
    assert all(row.overall is None and row.unscored_reason for row in rows)


def test_a_model_that_it_cannot_load_stops_before_anything_is_judged(
    address: str, make_run, configured, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "absent", ignore_errors=True)
    config = configured(f"{address}#{tmp_path / 'absent'}", judge_timeout=60.0, judge_retries=1)
    with pytest.raises(JudgeError) as caught:
        judging.probe(config.judge, Console(quiet=True), backoff=0.05)
    assert caught.value.exit_code == 4
    assert os.fspath(tmp_path) in str(caught.value)
