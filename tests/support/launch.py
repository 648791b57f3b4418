"""Several processes as a launcher starts them, forked from the test: quick, since all is imported."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gemma_lora.errors import GemmaLoraError

__all__ = ["HUNG", "Ended", "launched"]

HUNG = -99


@dataclass(frozen=True)
class Ended:
    code: int
    """Exit code; negative: the signal that ended it; `HUNG`: it did not end and was killed."""
    err: str


def launched(
    count: int, work: Callable[[int], object], folder: Path, *, patience: float = 60.0
) -> list[Ended]:
    """`work(rank)` in `count` processes that can meet; how each of them ended.

    As torchrun does, a process that lives on for `patience` seconds after one ended is killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    streams = [folder / f"rank-{rank}.err" for rank in range(count)]
    pids = [_fork(rank, count, port, work, streams[rank]) for rank in range(count)]
    codes: dict[int, int] = {}
    end = time.monotonic() + 150
    while len(codes) < count:
        late = time.monotonic() > end
        for rank, pid in enumerate(pids):
            if rank in codes:
                continue
            if late:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                codes[rank] = HUNG if late else os.waitstatus_to_exitcode(status)
                end = min(end, time.monotonic() + patience)
        time.sleep(0.01)
    return [Ended(codes[rank], streams[rank].read_text()) for rank in range(count)]


def _fork(rank: int, count: int, port: int, work: Callable[[int], object], stream: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        sys.stderr = stream.open("w", buffering=1)
        os.environ |= {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        }
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(rank)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except KeyboardInterrupt:
        code = 130
    except GemmaLoraError as error:
        sys.stderr.write(str(error))
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
