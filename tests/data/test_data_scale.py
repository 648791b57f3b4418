"""Many rows: memory grows little with them, and a million pass in three gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.many_rows import write_rows

PREPARE = """
import json, resource, sys, time
from pathlib import Path
from gemma_lora import model
from gemma_lora.audit import prepare
from gemma_lora.config import Config
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir

fmt = model.load_format(model.resolve("starter"))
config = Config.model_validate({"data": {"path": sys.argv[1]}})
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
facts = prepare(config, fmt, RunDir(Path(sys.argv[2])), Console(quiet=True))
print(json.dumps({
    "start": start / 1024, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "cpu": time.process_time(), "facts": facts,
}))
"""
AGAIN = """
import json, resource, sys, time
from pathlib import Path
from gemma_lora import model
from gemma_lora.console import Console
from gemma_lora.data.tokens import tokenised
from gemma_lora.rundir import RunDir

run = RunDir(Path(sys.argv[1]))
fmt = model.load_format(model.resolve("starter"))
before = time.process_time()
rows = tokenised(run.train_rows, fmt, max_length=1024, keep_answer=False, folder=run.tokens,
                 console=Console())
print(json.dumps({"cpu": time.process_time() - before, "rows": len(rows), "ids": rows.table[len(rows) - 1]["ids"].tolist()}))
"""


def call(script: str, *arguments: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stderr
    return json.loads(done.stdout)


def test_memory_grows_by_less_than_five_kilobytes_a_row(tmp_path: Path) -> None:
    peaks = {}
    for rows in (4_000, 16_000):
        write_rows(tmp_path / "data.csv", rows)
        found = call(PREPARE, tmp_path / "data.csv", tmp_path / f"run-{rows}")
        assert found["facts"]["rows"]["used"] == rows
        peaks[rows] = found["peak"]
    assert (peaks[16_000] - peaks[4_000]) * 2**20 / 12_000 < 5_000


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_million_rows(tmp_path: Path) -> None:
    """At most 3 GB, and 15 minutes of computing, so that other load on the machine does not count."""
    data, run = tmp_path / "data.csv", tmp_path / "run"
    write_rows(data, 1_000_000)
    assert data.stat().st_size > 300e6
    found = call(PREPARE, data, run)
    assert found["peak"] < 3000
    assert found["cpu"] < 900
    facts = found["facts"]
    assert facts["rows"]["used"] == 1_000_000
    assert facts["duplicates"]["repeated_questions"] > 60_000
    assert facts["duplicates"]["near_duplicate_clusters"] > 50_000
    assert facts["duplicates"]["largest"] > 15_000
    again = call(AGAIN, run)
    assert again["rows"] == facts["split"]["train"]
    assert again["cpu"] < 15
