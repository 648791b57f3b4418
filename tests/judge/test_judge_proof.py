"""The whole of it at once: a server that misbehaves in every way, and SIGKILLs in between.

Nothing that was recorded is lost or asked for again, no failure becomes a score, and what is asked
twice is at most what was under way at the kills. 500 judgements here, 10,000 with `make test-full`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.judge_server import Act, JudgeServer, Seen, right_scores, verdict_text

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.judge.ledger import UsageLine
from gemma_lora.records import DIMENSIONS, Judgement
from gemma_lora.rundir import read_json, read_jsonl

WIDTH = 16
PROGRAM = f"""
import sys
from pathlib import Path
from gemma_lora import judge
from gemma_lora.config import Config, JudgeConfig
from gemma_lora.console import Console
from gemma_lora.rundir import RunDir
config = Config(judge=JudgeConfig(
    judge=sys.argv[2], judge_concurrency={WIDTH}, judge_retries=20, judge_timeout=5, canaries=0))
judge.judge(config, RunDir(Path(sys.argv[1])), Console(quiet=True), backoff=0.02)
"""
ALL = (*DIMENSIONS, "overall")

STORM: list[Act | None] = [
    Act(status=429, headers={"retry-after-ms": "40"}),
    Act(status=429),
    Act(status=500),
    Act(status=502, body="<html>bad gateway</html>", headers={"content-type": "text/html"}),
    Act(status=529),
    Act(reset=True),
    Act(cut=60, break_off=True),  # in mid-body
    Act(cut=0),
    Act(drip=0.001),
    Act(twice=True),
    Act(status=503, twice=True),
    Act(body="ok", headers={"content-type": "text/plain"}),
    Act(body="<html>login</html>", headers={"content-type": "text/html"}),
    Act(body="[]"),
    Act(body='{"choices": [{"message": {"content": "{'),
    Act(content=verdict_text(dict.fromkeys(ALL, 11))),
    Act(content=verdict_text(dict.fromkeys(ALL, 0))),
    Act(content=verdict_text(dict.fromkeys(ALL, "8/10"))),
    Act(content=verdict_text(dict.fromkeys(DIMENSIONS, 10))),
    Act(content=verdict_text(dict.fromkeys(ALL, 10)), finish="length"),
    Act(content="I would say 9/10."),
    Act(content=""),
]


def storm(seen: Seen) -> Act:
    """By the number of the request: bursts of 429, one in five a fault, the rest right but out of order."""
    if seen.number % 400 in range(380, 400):
        return Act(status=429, headers={"retry-after-ms": "50"})
    draw = hashlib.sha256(str(seen.number).encode()).digest()
    if draw[0] < 51:
        return STORM[draw[1] % len(STORM)] or Act()
    return Act(delay=draw[2] / 255 * 0.04)  # later questions are answered before earlier ones


def answer_to(row: Judgement) -> str:
    return f"{row.arm[0]} answer {int(row.id[1:])}"


@pytest.mark.parametrize(
    ("judgements", "kills"),
    [
        (500, 2),
        pytest.param(10_000, 10, marks=[pytest.mark.full, pytest.mark.timeout(3600)]),
    ],
)
def test_storms_and_kills(
    judgements: int, kills: int, make_run, configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMMA_LORA_CACHE", os.devnull)  # resuming must not lean on the cache
    with JudgeServer() as server:
        server.plan = storm
        run = make_run(judgements // 2)
        path = run.judgements(judging.slug(server.name)) / "judgements.jsonl"
        recorded: dict[str, Judgement] = {}
        again: list[str] = []
        step = judgements // (kills + 1)
        for _ in range(kills):
            begun = len(server.chats)
            process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run.root), server.name])
            while len(server.seen) < begun + step and process.poll() is None:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            again += [seen.answer for seen in server.chats[begun:] if seen.answer in recorded]
            recorded = whole_lines(path)
        begun = len(server.chats)
        config = configured(
            server.name, judge_concurrency=WIDTH, judge_retries=20, judge_timeout=5.0
        )
        folder = judging.judge(config, run, Console(quiet=True), backoff=0.02)
        again += [seen.answer for seen in server.chats[begun:] if seen.answer in recorded]
    assert again == [], "no recorded reply is asked for again"
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert len({(row.id, row.arm) for row in rows}) == len(rows) == judgements
    final = {answer_to(row): row for row in rows}
    assert all(final[answer] == row for answer, row in recorded.items()), "none is lost or changed"
    for answer, row in final.items():
        if row.unscored_reason is None:
            right = right_scores(answer)
            assert row.scores | {"overall": row.overall} == right, "no failure became a score"
        else:
            assert row.overall is None
            assert set(row.scores.values()) == {None}
    scored = [answer for answer, row in final.items() if row.unscored_reason is None]
    assert len(scored) > 0.95 * judgements
    right_replies = Counter(seen.answer for seen in server.chats if is_right(storm(seen)))
    copies = sum(storm(seen).twice for seen in server.chats)
    repeated = sum(right_replies[answer] - 1 for answer in scored)
    assert repeated <= WIDTH * kills + 2 * copies, "at most what was under way is asked twice"
    lines = read_jsonl(folder / "usage.jsonl", UsageLine)
    known = read_json(folder / "judge.json")
    assert known["requests"] == sum(line.requests for line in lines)
    assert known["unscored"]["base"] + known["unscored"]["tuned"] == judgements - len(scored)


def is_right(act: Act) -> bool:
    return (
        act.status == 200
        and act.body is None
        and act.content is None
        and act.cut is None
        and not act.reset
    )


def whole_lines(path: Path) -> dict[str, Judgement]:
    """What is recorded and final; without a reply is asked again, and that is right."""
    text = path.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    rows = [Judgement.model_validate_json(line) for line in lines]
    last = {answer_to(row): row for row in rows}
    return {
        answer: row
        for answer, row in last.items()
        if not (row.unscored_reason or "").startswith("no reply")
    }
