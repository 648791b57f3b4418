"""The server that the tests of the command line share."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support.processes import CliServer

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "customer_service.csv"


class TimeIsOver(Exception):
    pass


def test_a_test_that_runs_out_of_time_does_not_fail_those_after_it(tmp_path: Path) -> None:
    def over(*_: object) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGUSR1, over)
    try:
        with CliServer(tmp_path) as cli:
            running = cli.start(["run", EXAMPLE, "--out", "run"], cwd=tmp_path)
            running.until(lambda: (tmp_path / "run").exists())
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(TimeIsOver):
                running.wait()
            with pytest.raises(ProcessLookupError):
                os.kill(running.pid, 0)
            done = cli.run(["--version"], cwd=tmp_path)
            assert done.code == 0
            assert "gemma-lora" in done.out
    finally:
        signal.signal(signal.SIGUSR1, before)
