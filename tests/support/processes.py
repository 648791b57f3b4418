"""The command line in processes of its own, quickly: a server that has imported everything forks them.

    with CliServer() as cli:
        done = cli.run(["run", "rows.csv"], cwd=folder)                    # done.code, .out, .err
        cli.run([...], kill=Stop("os.rename", "verdict.json"))             # SIGKILL at that very moment
        process = cli.start([...]); os.kill(process.pid, 9); process.wait()

Each child is a real process with its own session, standard streams and signal handlers; only the
seconds of importing torch are saved. `Stop` sends a signal from an audit hook inside the child, just
before the n-th file operation on a path, so that "killed between write and rename" is exact.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class Stop:
    """Signal the process before the `count`-th `event` whose path contains `match`."""

    event: str
    """`os.rename`, `open` (reading too), or `write` (an open for writing)."""
    match: str
    count: int = 1
    signal: int = int(signal.SIGKILL)


@dataclass(frozen=True)
class Done:
    code: int
    """Exit code; negative: the signal that ended it."""
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout (anything else there is an error)."""
        return json.loads(self.out)


@dataclass
class Running:
    pid: int
    _server: CliServer
    _out: Path
    _err: Path

    def wait(self) -> Done:
        code = self._server.ask({"wait": self.pid})["code"]
        return Done(code, self._out.read_text("utf-8"), self._err.read_text("utf-8"))

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._err.read_text("utf-8")

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for `condition`; AssertionError with the process's stderr if it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.err
            time.sleep(0.005)


@dataclass
class CliServer:
    folder: Path
    """Where the streams of the children are kept."""
    _count: int = 0
    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> CliServer:
        environment = {**os.environ, **QUIET}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.processes"],
            cwd=TESTS,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(30)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        try:
            reply = self._process.stdout.readline()
        except BaseException:
            # the test's time is over: its command ends and the reply is read, so that the next test gets its own
            if "wait" in request:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(request["wait"], signal.SIGKILL)
                self._process.stdout.readline()
            raise
        if not reply:
            raise RuntimeError(
                f"the server ended with {self._process.wait(10)}; see its stderr above"
            )
        return json.loads(reply)

    def start(
        self,
        argv: Sequence[object],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        kill: Stop | None = None,
        log: Path | None = None,
        file_limit: int | None = None,
        uid: int | None = None,
    ) -> Running:
        """`log`: a file for one JSON line a file opened or address contacted; `file_limit` in bytes."""
        self._count += 1
        out, err = (self.folder / f"{self._count}.{name}" for name in ("out", "err"))
        pid = self.ask(
            {
                "argv": [str(part) for part in argv],
                "cwd": str(cwd),
                "env": dict(env or {}),
                "kill": asdict(kill) if kill else None,
                "log": str(log) if log else None,
                "file_limit": file_limit,
                "uid": uid,
                "out": str(out),
                "err": str(err),
            }
        )["pid"]
        return Running(pid, self, out, err)

    def run(self, argv: Sequence[object], *, cwd: Path, **options: Any) -> Done:
        return self.start(argv, cwd=cwd, **options).wait()


# ---------------------------------------------------------------------- in the server


def _serve() -> None:
    import gemma_lora.answer
    import gemma_lora.chat
    import gemma_lora.judge.client
    import gemma_lora.pipeline
    import gemma_lora.train  # noqa: F401 - all heavy libraries, once

    children: set[int] = set()
    reading = sys.stdin
    for line in reading:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            children.discard(request["wait"])
            reply = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _child(request)
            children.add(pid)
            reply = {"pid": pid}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _child(request: dict[str, Any]) -> None:
    code = 70
    try:
        os.setsid()
        for number, (name, flags) in enumerate(
            (
                (os.devnull, os.O_RDONLY),
                (request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                (request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            )
        ):
            handle = os.open(name, flags, 0o666)
            os.dup2(handle, number)
            os.close(handle)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` switches it off
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        if request["file_limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        if request["uid"] is not None:
            os.setgroups([])
            os.setgid(request["uid"])
            os.setuid(request["uid"])
        if request["log"] is not None:
            sys.addaudithook(_logger(request["log"], request["cwd"]))
        if request["kill"] is not None:
            sys.addaudithook(_killer(Stop(**request["kill"])))
        from gemma_lora.cli import main

        sys.argv = ["gemma-lora", *request["argv"]]
        code = main()
    except BaseException:  # noqa: BLE001 - a traceback in the child's stderr, for the test to see
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _paths(arguments: Sequence[Any]) -> str:
    texts = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
    return "\n".join(texts)


def _killer(stop: Stop) -> Callable[[str, tuple[Any, ...]], None]:
    left = stop.count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if stop.event == "write":
            if event != "open" or not _writes(arguments):
                return
        elif event != stop.event:
            return
        if left > 0 and stop.match in _paths(
            arguments[:2] if event == "os.rename" else arguments[:1]
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), stop.signal)

    return hook


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND))


def _logger(log: str, cwd: str) -> Callable[[str, tuple[Any, ...]], None]:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path = _paths(arguments[:1])
            if not path or not os.path.abspath(path).startswith(cwd):  # noqa: PTH100
                return
            facts: dict[str, Any] = {"path": path, "write": _writes(arguments)}
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            facts = {"address": repr(arguments[1:] if event == "socket.connect" else arguments)}
        else:
            return
        frame, modules = sys._getframe(1), []
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("gemma_lora") and (not modules or modules[-1] != name):
                modules.append(name)
            frame = frame.f_back
        os.write(handle, json.dumps({**facts, "event": event, "by": modules}).encode() + b"\n")

    return hook


if __name__ == "__main__":
    _serve()
