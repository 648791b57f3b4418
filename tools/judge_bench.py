"""How fast judgements can be had, against a server on this machine that takes two seconds for each.

    python tools/judge_bench.py                            ours and a thread pool, 64 and 256 in flight
    python tools/judge_bench.py --others PYTHON            also DeepEval and Inspect, from that interpreter
    python tools/judge_bench.py --memory 100000            peak memory over so many judgements, no latency
    python tools/judge_bench.py --page                     the figures into docs/judge-benchmark.md

Every contestant puts the same number of requests of the same size to the same server, in a process of
its own, one after the other; what it reads from the replies it must keep on disk. The ideal rate is
requests in flight / latency. CPU is the client's own time, user and system, for each request. Writes
build/judge-bench.json (`--memory`: build/judge-bench-memory.json). All traffic is to 127.0.0.1; the
contestants' proxies point nowhere, so nothing else could leave.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LATENCY = 2.0
WAVES = 40
"""Requests for each one in flight: 40 x 2 s is the ideal time."""
FEWER = {"deepeval": 10}
"""Of contestants whose client is at its limit of CPU: their rate is the same with fewer."""
WIDTHS = (64, 256)
SCORES = ("relevance", "accuracy", "completeness", "fluency", "usefulness", "overall")
QUESTION = "Where is my order number {i}, and when will the refund for the damaged cup arrive?"
REFERENCE = "Please send us the order number. " + "The refund takes five working days. " * 8
ANSWER = (
    "Your order {i} left our warehouse on Monday. " + "The refund has been started today. " * 12
)
REASONING = "It names the order and the refund, but not when the money arrives. " * 5


# ---------------------------------------------------------------------------------- the server


def _reply(model: str, number: int) -> bytes:
    """What each contestant's parser expects, of about the same length."""
    if model == "deepeval":
        content = json.dumps({"reason": REASONING, "score": 7})
    elif model == "inspect":
        content = f"{REASONING}\n\nGRADE: C"
    else:
        scores = {name: 1 + (number * 7 + i) % 10 for i, name in enumerate(SCORES)}
        content = json.dumps({"reasoning": REASONING, **scores})
    message = {"role": "assistant", "content": content}
    body = json.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": f"{model}-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1500, "completion_tokens": 120, "total_tokens": 1620},
        }
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server:
    """Chat completions after `latency` seconds; one line with its port on stdout."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.count = self.now = self.most = 0

    async def serve(self) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = json.loads(await reader.readexactly(int(fields.get("content-length", 0))))
                self.count, self.now = self.count + 1, self.now + 1
                self.most = max(self.most, self.now)
                number = self.count
                await asyncio.sleep(self.latency)
                self.now -= 1
                writer.write(_reply(body["model"], number))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


# ---------------------------------------------------------------------------- the contestants


def _ours(url: str, requests: int, width: int, folder: Path) -> None:
    """The judge stage as `gemma-lora judge` runs it: prompts, cache, ledger, judge.json."""
    from gemma_lora import judge
    from gemma_lora.config import Config, JudgeConfig
    from gemma_lora.console import Console
    from gemma_lora.rundir import RunDir

    settings = JudgeConfig(judge=f"{url}#ours", judge_concurrency=width, canaries=0)
    judge.judge(Config(judge=settings), RunDir(folder / "run"), Console(quiet=True))


def _prepare_ours(requests: int, folder: Path) -> None:
    from gemma_lora.records import ARMS, Answer, Message
    from gemma_lora.rundir import RunDir, write_jsonl

    for arm in ARMS:
        rows = (
            Answer(
                id=f"q{i:06d}",
                messages=(Message(role="user", content=QUESTION.format(i=i)),),
                reference=REFERENCE,
                answer=f"{arm}: {ANSWER.format(i=i)}",
                tokens=100,
                stopped_by="end",
                cluster=str(i),
            )
            for i in range(requests // 2)
        )
        write_jsonl(RunDir(folder / "run").answers(arm), rows)


def _threads(url: str, requests: int, width: int, folder: Path) -> None:
    """The usual way: as many threads as requests in flight, the blocking client, the same prompt,
    reader and record, a line flushed to the disk for each."""
    from concurrent.futures import ThreadPoolExecutor

    import openai

    from gemma_lora.judge.asking import SCHEMA, render
    from gemma_lora.judge.reading import read_verdict
    from gemma_lora.records import Message
    from gemma_lora.rundir import append_jsonl

    limits = openai.DefaultHttpxClient(trust_env=False).timeout  # the client's own defaults
    client = openai.OpenAI(
        api_key="none",
        base_url=url,
        max_retries=0,
        timeout=limits,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    form = {"type": "json_schema", "json_schema": {"name": "v", "strict": True, "schema": SCHEMA}}

    def work(i: int) -> None:
        question = (Message(role="user", content=QUESTION.format(i=i)),)
        prompt = render(question, REFERENCE, ANSWER.format(i=i))
        reply = client.chat.completions.create(
            model="ours",
            temperature=0,
            max_tokens=1024,
            response_format=form,  # type: ignore[arg-type]
            messages=[
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
        )
        verdict = read_verdict(reply.choices[0].message.content or "")
        append_jsonl(folder / "judgements.jsonl", {"id": i, **verdict.scores})

    with ThreadPoolExecutor(width) as pool:
        for _ in pool.map(work, range(requests)):
            pass


def _deepeval(url: str, requests: int, width: int, folder: Path) -> None:
    """DeepEval's G-Eval with its steps given (one request a case), asynchronously."""
    from deepeval import evaluate
    from deepeval.evaluate import AsyncConfig, CacheConfig, DisplayConfig
    from deepeval.metrics import GEval
    from deepeval.models import LocalModel
    from deepeval.test_case import LLMTestCase, LLMTestCaseParams

    params = LLMTestCaseParams
    metric = GEval(
        name="quality",
        evaluation_steps=["Judge relevance, accuracy, completeness, fluency and usefulness. " * 60],
        evaluation_params=[params.INPUT, params.ACTUAL_OUTPUT, params.EXPECTED_OUTPUT],
        model=LocalModel(model="deepeval", base_url=url, api_key="none"),
        async_mode=True,
    )
    cases = [
        LLMTestCase(
            input=QUESTION.format(i=i),
            actual_output=ANSWER.format(i=i),
            expected_output=REFERENCE,
        )
        for i in range(requests)
    ]
    result = evaluate(
        cases,
        [metric],
        async_config=AsyncConfig(run_async=True, max_concurrent=width, throttle_value=0),
        display_config=DisplayConfig(show_indicator=False, print_results=False),
        cache_config=CacheConfig(write_cache=False),
    )
    scores = [(test.metrics_data or [None])[0] for test in result.test_results]
    with (folder / "judgements.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"score": data.score}) + "\n" for data in scores if data)


def _inspect(url: str, requests: int, width: int, folder: Path) -> None:
    """Inspect's model_graded_qa over given answers (one request a sample), its log as the record."""
    from inspect_ai import Task
    from inspect_ai import eval as run
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.scorer import model_graded_qa
    from inspect_ai.solver import Generate, TaskState, solver

    os.environ["JUDGE_API_KEY"] = "none"
    grader = get_model("openai-api/judge/inspect", base_url=url)

    @solver
    def given() -> Any:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            state.output = ModelOutput.from_content("given", state.metadata["answer"])
            return state

        return solve

    template = "Judge relevance, accuracy, completeness, fluency and usefulness. " * 60
    template += "\n{question}\n{answer}\n{criterion}\n{instructions}"
    samples = [
        Sample(
            input=QUESTION.format(i=i), target=REFERENCE, metadata={"answer": ANSWER.format(i=i)}
        )
        for i in range(requests)
    ]
    logs = run(
        Task(
            dataset=MemoryDataset(samples),
            solver=given(),
            scorer=model_graded_qa(template=template, model=grader),
        ),
        model=grader,
        max_connections=width,
        max_samples=width,
        log_dir=str(folder / "logs"),
        display="none",
    )
    assert logs[0].status == "success", logs[0].error


CONTESTANTS: dict[str, Callable[[str, int, int, Path], None]] = {
    "ours": _ours,
    "threads": _threads,
    "deepeval": _deepeval,
    "inspect": _inspect,
}
PACKAGES = {"threads": "openai", "deepeval": "deepeval", "inspect": "inspect-ai"}


class Heartbeat:
    """Seconds in which this process was held up as a whole: stopped, or starved by other work."""

    def __init__(self) -> None:
        self.lost = 0.0
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            if now - last > 1.25:
                self.lost += now - last - 0.25
            last = now


def _contest(name: str, url: str, requests: int, width: int, folder: Path) -> dict[str, Any]:
    """Runs in the contestant's own process; imports are not in the figures."""
    __import__({"inspect": "inspect_ai", "deepeval": "deepeval"}.get(name, "gemma_lora.judge"))
    if name == "ours":
        _prepare_ours(requests, folder)
        import gemma_lora.judge.client  # noqa: F401
    heart = Heartbeat()
    start, cpu = time.perf_counter(), time.process_time()
    CONTESTANTS[name](url, requests, width, folder)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    package = PACKAGES.get(name)
    return {
        "name": name,
        "version": importlib.metadata.version(package) if package else None,
        "in_flight": width,
        "requests": requests,
        "seconds": wall,
        "held_up": heart.lost,
        "cpu_ms": 1000 * used / requests,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# --------------------------------------------------------------------------------- the harness


def _run(
    python: str, name: str, requests: int, width: int, latency: float, limit: float
) -> dict[str, Any]:
    """One contestant against a server of its own; a fault is a result with the reason."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(latency)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        nowhere = "http://127.0.0.1:9"
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                **{"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": "127.0.0.1"},
                **{"DEEPEVAL_TELEMETRY_OPT_OUT": "1", "GEMMA_LORA_CACHE": f"{folder}/cache"},
                **{"HOME": folder, "PYTHONPATH": str(ROOT / "src"), "ERROR_REPORTING": "0"},
                # limits of DeepEval's own that would end a long run
                **{"DEEPEVAL_DISABLE_TIMEOUTS": "1", "DEEPEVAL_RETRY_MAX_ATTEMPTS": "1"},
            }
            command = [python, __file__, "--contest", name, url, str(requests), str(width), folder]
            try:
                done = subprocess.run(
                    command,
                    env=environment,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=limit,
                )
            except subprocess.TimeoutExpired:
                return {"name": name, "in_flight": width, "skipped": f"not done in {limit:.0f} s"}
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
        if done.returncode or not lines:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            return {"name": name, "in_flight": width, "skipped": last[:200]}
        result: dict[str, Any] = json.loads(lines[-1])
        if latency:
            result["ideal_share"] = requests / result["seconds"] / (width / latency)
        return result
    finally:
        server.kill()
        server.wait()


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    pythons = {"ours": sys.executable, "threads": sys.executable}
    if options.others:
        pythons |= {"deepeval": options.others, "inspect": options.others}
    results: list[dict[str, Any]] = []
    for width in options.widths:
        limit = 60 + 6 * LATENCY * options.waves
        for name, python in pythons.items():
            if options.only and name not in options.only:
                continue
            requests = width * min(options.waves, FEWER.get(name, options.waves))
            load, result = os.getloadavg()[0], dict[str, Any]()
            for _ in range(options.tries):
                result = _run(python, name, requests, width, LATENCY, limit)
                result |= {"load_before": load}
                if "skipped" not in result and result["held_up"] < 0.01 * result["seconds"]:
                    break  # a machine that was taken away says nothing of the contestant
                print(f"{_line(result)}  (held up, or failed: once more)", flush=True)
            results.append(result)
            print(_line(result), flush=True)
    for name in () if options.others else ("deepeval", "inspect"):
        results.append({"name": name, "skipped": "no interpreter was named with --others"})
    return {"latency": LATENCY, "waves": options.waves, "about": _about(), "results": results}


def _about() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "openai": importlib.metadata.version("openai"),
        "date": time.strftime("%Y-%m-%d"),
    }


def _line(result: dict[str, Any]) -> str:
    name = f"{result['name']:<9}{result.get('in_flight', ''):>4}"
    if "skipped" in result:
        return f"{name}  skipped: {result['skipped']}"
    share = f"{100 * result['ideal_share']:5.1f} % of ideal  " if "ideal_share" in result else ""
    if result.get("held_up"):
        share += f"held up {result['held_up']:.0f} s  "
    return (
        f"{name}  {share}{result['requests'] / result['seconds']:6.1f} a second  "
        f"{result['cpu_ms']:5.2f} ms CPU a request  {result['peak_mb']:4.0f} MB"
    )


# ------------------------------------------------------------------------------------ the page

_START, _END = "<!-- figures: made by tools/judge_bench.py --page -->", "<!-- end of figures -->"


def _page(build: Path, page: Path) -> None:
    """Put the tables of both JSON files between the page's markers."""
    found = json.loads((build / "judge-bench.json").read_text())
    about = found["about"]
    lines = [
        f"{about['date']}, Python {about['python']}, openai {about['openai']}, {about['cores']} cores shared "
        f"with other work; latency {found['latency']:g} s, {found['waves']} requests for each in flight"
        + "".join(f", {count} by {name}" for name, count in FEWER.items() if count < found["waves"])
        + ".",
        "",
        "| in flight | contestant | of the ideal rate | judgements a second | client CPU, ms a request | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["results"]:
        name = row["name"] + (f" {row['version']}" if row.get("version") else "")
        if "skipped" in row:
            lines.append(
                f"| {row.get('in_flight', '')} | {name} | skipped: {row['skipped']} | | | |"
            )
            continue
        rate = row["requests"] / row["seconds"]
        lines.append(
            f"| {row['in_flight']} | {name} | {100 * row['ideal_share']:.1f} % | {rate:.1f} | "
            f"{row['cpu_ms']:.2f} | {row['peak_mb']:.0f} |"
        )
    loads = [row["load_before"] for row in found["results"] if "load_before" in row]
    lines += [
        "",
        f"Load of the machine before each contestant: {min(loads):.1f} to {max(loads):.1f}.",
    ]
    memory = build / "judge-bench-memory.json"
    if memory.exists():
        row = json.loads(memory.read_text())["results"][0]
        lines += [
            "",
            f"{row['requests']:,} judgements without latency, {row['in_flight']} in flight: peak memory "
            f"{row['peak_mb']:.0f} MB, {row['cpu_ms']:.2f} ms of client CPU a request, "
            f"{row['seconds'] / 60:.0f} minutes.",
        ]
    text = page.read_text()
    before, rest = text.split(_START)
    page.write_text(f"{before}{_START}\n\n" + "\n".join(lines) + f"\n\n{_END}{rest.split(_END)[1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--others", metavar="PYTHON", help="interpreter with deepeval and inspect-ai"
    )
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--waves", type=int, default=WAVES)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="N")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--contest", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(Server(options.serve).serve())
        return 0
    if options.contest:
        name, url, requests, width, folder = options.contest
        print(json.dumps(_contest(name, url, int(requests), int(width), Path(folder))))
        return 0
    if options.page:
        _page(options.out, ROOT / "docs" / "judge-benchmark.md")
        return 0
    options.out.mkdir(exist_ok=True)
    if options.memory:
        result = _run(sys.executable, "ours", options.memory, 64, 0.0, 3600)
        print(_line(result))
        found = {"about": _about(), "results": [result]}
        (options.out / "judge-bench-memory.json").write_text(json.dumps(found, indent=1))
        return "skipped" in result
    (options.out / "judge-bench.json").write_text(json.dumps(_compare(options), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
