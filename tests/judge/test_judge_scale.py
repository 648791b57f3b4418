"""The load benchmark works, and a hundred thousand judgements fit into memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bench(out: Path, *options: str) -> dict:
    command = [sys.executable, str(ROOT / "tools" / "judge_bench.py"), "--out", str(out), *options]
    subprocess.run(command, check=True, cwd=out, timeout=3500)
    (found,) = out.glob("*.json")
    return json.loads(found.read_text())


@pytest.mark.full
def test_the_benchmark_compares_the_same_number_of_requests(tmp_path: Path) -> None:
    found = bench(tmp_path, "--waves", "2", "--widths", "8", "--only", "ours", "threads")
    ours, threads = (row for row in found["results"] if "skipped" not in row)
    assert (ours["name"], threads["name"]) == ("ours", "threads")
    for row in (ours, threads):
        assert row["requests"] == 16
        assert 0 < row["ideal_share"] <= 1, "nobody is faster than the server"
        assert row["cpu_ms"] > 0


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_judgements_take_less_than_500_mb(tmp_path: Path) -> None:
    (row,) = bench(tmp_path, "--memory", "100000")["results"]
    assert row["requests"] == 100_000
    assert row["peak_mb"] < 500
