"""The pace of asking: limits read from headers, a width that adapts, a pause for all."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.judge_server import Act, JudgeServer, Seen

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.limits import AUTO_MOST, Pace, retry_after, stated_limits
from gemma_lora.records import Judgement
from gemma_lora.rundir import read_jsonl


@pytest.mark.parametrize(
    ("headers", "kind", "limit", "left", "reset"),
    [
        (
            {
                "x-ratelimit-limit-requests": "500",
                "x-ratelimit-remaining-requests": "499",
                "x-ratelimit-reset-requests": "120ms",
            },
            *("requests", 500, 499, 0.12),
        ),
        (
            {
                "x-ratelimit-limit-tokens": "30000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1h6m0.5s",
            },
            *("tokens", 30000, 0, 3960.5),
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "10000",
                "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:45Z",
            },
            *("input-tokens", 40000, 10000, 45),
        ),
        (
            {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"},
            *("requests", 60, 59, None),
        ),
    ],
)
def test_headers_as_the_providers_send_them(headers, kind, limit, left, reset) -> None:
    now = 1767225600.0  # 2026-01-01T00:00:00Z
    (found,) = stated_limits(headers, now=now).items()
    assert found[0] == kind
    assert (found[1].limit, found[1].left) == (limit, left)
    assert found[1].reset == (None if reset is None else pytest.approx(reset))


@pytest.mark.parametrize("value", ["", "soon", "nan", "-5", "inf"])
def test_headers_that_cannot_be_read_limit_nothing(value: str) -> None:
    names = ("limit", "remaining", "reset")
    assert stated_limits({f"x-ratelimit-{name}-requests": value for name in names}) == {}
    assert retry_after({"retry-after": value}) in (None, 0.0, float("inf"))


def test_the_rate_is_kept_whatever_the_period(make_run, configured) -> None:
    """A server that allows 40 at once and 20 a second, by a token bucket, and refuses what is more."""
    with JudgeServer() as server:
        bucket = {"left": 40.0, "at": time.monotonic()}
        refused: list[Seen] = []

        def plan(seen: Seen) -> Act:
            now = time.monotonic()
            bucket["left"] = min(40.0, bucket["left"] + 20 * (now - bucket["at"]))
            bucket["at"] = now
            if bucket["left"] < 1:
                refused.append(seen)
                return Act(status=429)
            bucket["left"] -= 1
            headers = {
                "x-ratelimit-limit-requests": "40",
                "x-ratelimit-remaining-requests": str(int(bucket["left"])),
                "x-ratelimit-reset-requests": f"{(40 - bucket['left']) / 20:.3f}s",
            }
            return Act(headers=headers)

        server.plan = plan
        start = time.monotonic()
        config = configured(server.name, judge_concurrency=16)
        folder = judging.judge(config, make_run(60), Console(quiet=True), backoff=0.01)
        seconds = time.monotonic() - start
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert all(row.unscored_reason is None for row in rows)
    assert len(refused) <= 3, "the headers were read, not the refusals suffered"
    assert seconds >= (120 - 40) / 20 - 0.3
    assert seconds < 12, "and no slower than need be"


def test_tokens_a_minute_are_kept(make_run, configured) -> None:
    """120 tokens a judgement, 12,000 a minute... of a minute that has gone by in three seconds."""
    with JudgeServer() as server:
        start = time.monotonic()
        used = [0]

        def plan(seen: Seen) -> Act:
            used[0] += 120
            left = max(0.0, min(2400.0, 2400 + 1200 * (time.monotonic() - start) - used[0]))
            headers = {
                "x-ratelimit-limit-tokens": "2400",
                "x-ratelimit-remaining-tokens": str(int(left)),
                "x-ratelimit-reset-tokens": f"{(2400 - left) / 1200:.3f}s",
            }
            return Act(headers=headers)

        server.plan = plan
        judging.judge(configured(server.name), make_run(25), Console(quiet=True), backoff=0.01)
        rate = (50 * 120 - 2400) / (time.monotonic() - start)
    assert rate <= 1250
    assert len(server.chats) == 50


def drive(pace: Pace, latency, seconds: float) -> int:
    """Requests under way at most, while as many as may start do."""
    most = now = 0

    async def one() -> None:
        nonlocal most, now
        async with pace.slot({"requests": 1}):
            now += 1
            most = max(most, now)
            began = time.monotonic()
            await asyncio.sleep(latency(now))
            pace.replied({}, time.monotonic() - began, {}, {})
            now -= 1

    async def all_of_them() -> None:
        end = time.monotonic() + seconds

        async def worker() -> None:
            while time.monotonic() < end:
                await one()

        await asyncio.gather(*(worker() for _ in range(pace.most)))

    asyncio.run(all_of_them())
    return most


def test_auto_grows_while_the_server_keeps_up() -> None:
    assert drive(Pace(None), lambda now: 0.05, 1.0) == AUTO_MOST


def test_auto_does_not_push_a_server_that_only_queues() -> None:
    """One that works on eight at a time: more under way wait longer, and nothing is gained."""
    pace = Pace(None)
    drive(pace, lambda now: 0.02 * max(1.0, now / 8), 1.5)
    assert pace.width < 40


def test_a_number_is_kept_to() -> None:
    assert drive(Pace(5), lambda now: 0.01, 0.2) == 5


def test_the_width_falls_once_for_a_crowd_and_grows_back() -> None:
    pace = Pace(64)
    sent = time.monotonic()
    for _ in range(64):
        pace.throttled(sent)
    assert pace.width == 32
    pace.throttled(time.monotonic())
    assert pace.width == 16
    drive(pace, lambda now: 0.002, 0.5)
    assert pace.width == 64


def test_the_width_is_never_below_one() -> None:
    pace = Pace(2)
    for _ in range(5):
        pace.throttled(time.monotonic())
        time.sleep(0.001)
    assert pace.width == 1
    assert drive(pace, lambda now: 0.005, 0.1) >= 1


def test_a_storm_lowers_the_number_under_way(server: JudgeServer, make_run, configured) -> None:
    """429 whenever more than four are under way: soon there are not."""
    refused = [0]

    def plan(seen: Seen) -> Act:
        if server.now_in_flight > 4:
            refused[0] += 1
            return Act(status=429, delay=0.01)
        return Act(delay=0.03)

    server.plan = plan
    config = configured(server.name, judge_concurrency=32, judge_retries=20)
    folder = judging.judge(config, make_run(100), Console(quiet=True), backoff=0.02)
    rows = read_jsonl(folder / "judgements.jsonl", Judgement)
    assert all(row.unscored_reason is None for row in rows)
    assert refused[0] < 200, "a fixed 32 would be refused over a thousand times"


def test_a_reset_above_a_day_is_no_reset() -> None:
    """Some gateways put the Unix time there; a wait of decades would be silent."""
    stated = stated_limits(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1793000000",
        }
    )
    assert stated["requests"].reset is None


def test_a_limit_that_is_used_up_for_hours_ends_judging(
    server: JudgeServer, make_run, configured
) -> None:
    used_up = {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "23h50m0s",
    }
    server.plan = lambda seen: Act(headers=used_up)
    run = make_run(5)
    with pytest.raises(JudgeError, match=r"limit on requests .* wait 17\d\d s") as caught:
        judging.judge(configured(server.name), run, Console(quiet=True))
    assert "run it again later" in str(caught.value)
    asked = len(server.chats)
    server.plan = lambda seen: None
    judging.judge(configured(server.name), run, Console(quiet=True))
    assert len(server.chats) == 10, f"the {asked} that were paid for are kept"
