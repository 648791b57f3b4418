"""What judging costs is said beforehand, shown live, and never above --max-cost."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal

import pytest
from pydantic import ValidationError
from support.judge_server import Act, JudgeServer, Seen, completion, good_reply

from gemma_lora import judge as judging
from gemma_lora.config import JudgeConfig
from gemma_lora.console import Console
from gemma_lora.errors import JudgeError
from gemma_lora.judge.budget import Budget, most_tokens
from gemma_lora.judge.items import Usage
from gemma_lora.judge.ledger import UsageLine
from gemma_lora.loading import dump
from gemma_lora.records import Judgement
from gemma_lora.rundir import RunDir, read_json, read_jsonl, write_text

PRICES = {"price_input": 100.0, "price_output": 1000.0}
EACH = (100 * 100 + 20 * 1000) / 1e6
"""Dollars that the test server's reply costs at these prices: 0.03."""


def folder_of(run: RunDir, server: JudgeServer):
    return run.judgements(judging.slug(server.name))


def spent(run: RunDir, server: JudgeServer) -> float:
    lines = read_jsonl(folder_of(run, server) / "usage.jsonl", UsageLine)
    return sum(line.input * 100 + line.output * 1000 for line in lines) / 1e6


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_limit_is_never_exceeded_and_what_was_paid_is_kept(
    concurrency: int, server: JudgeServer, make_run, configured
) -> None:
    run = make_run(200)
    config = configured(server.name, max_cost=6.0, judge_concurrency=concurrency, **PRICES)
    server.plan = lambda seen: Act(delay=0.005)
    with pytest.raises(JudgeError, match=r"--max-cost \$6 is reached") as caught:
        judging.judge(config, run, Console(quiet=True))
    assert caught.value.exit_code == 4
    assert "raise --max-cost and run the same command again" in str(caught.value)
    total = spent(run, server)
    assert total == pytest.approx(len(server.chats) * EACH), "every reply that came is counted"
    assert 6.0 - 2.0 < total <= 6.0, "and not far below it either: one request may cost 1.6"
    kept = read_jsonl(folder_of(run, server) / "judgements.jsonl", Judgement)
    assert len(kept) == len(server.chats)
    before = len(server.chats)
    with pytest.raises(JudgeError, match="is reached"):
        judging.judge(config, run, Console(quiet=True))
    assert len(server.chats) == before, "spent is spent, in the next call, too"
    judging.judge(configured(server.name, max_cost=50.0, **PRICES), run, Console(quiet=True))
    assert len(server.chats) == 400, "nothing is asked twice"
    assert read_json(folder_of(run, server) / "judge.json")["cost"] == pytest.approx(400 * EACH)


def test_a_reply_that_was_paid_but_not_usable_is_counted(
    server: JudgeServer, make_run, configured
) -> None:
    """The re-ask may find the money gone; the first reply was paid all the same."""
    server.plan = lambda seen: Act(content="no") if seen.number >= 60 else None
    run = make_run(100)
    config = configured(server.name, max_cost=4.0, judge_concurrency=8, **PRICES)
    with pytest.raises(JudgeError, match="is reached"):
        judging.judge(config, run, Console(quiet=True))
    assert spent(run, server) == pytest.approx(len(server.chats) * EACH)
    assert spent(run, server) <= 4.0


def test_lost_replies_count_at_their_most(server: JudgeServer, make_run, configured) -> None:
    server.plan = lambda seen: Act(cut=30) if seen.number % 2 else None
    run = make_run(100)
    config = configured(server.name, max_cost=20.0, judge_concurrency=4, **PRICES)
    with pytest.raises(JudgeError, match="lost replies counted at the most") as caught:
        judging.judge(config, run, Console(quiet=True), backoff=0.01)
    lost = int(re.search(r"(\d+) lost replies", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert lost >= 3
    assert len(server.chats) < 40, "a storm of broken replies is not a way round the limit"
    lines = read_jsonl(folder_of(run, server) / "usage.jsonl", UsageLine)
    assert sum(line.lost for line in lines) == lost


@pytest.mark.parametrize("kind", ["no usage", "damaged"])
def test_replies_that_do_not_say_what_they_took_count_in_the_next_call_too(
    kind: str, server: JudgeServer, make_run, configured
) -> None:
    def plan(seen: Seen) -> Act:
        if kind == "damaged":
            return Act(body="<p>busy</p>", headers={"content-type": "text/html"})
        body = completion("m", good_reply(seen))
        del body["usage"]
        return Act(body=body)

    server.plan = plan
    run = make_run(40)
    config = configured(server.name, max_cost=6.0, judge_concurrency=2, **PRICES)
    for call in range(2):
        with pytest.raises(JudgeError, match="is reached"):
            judging.judge(config, run, Console(quiet=True))
        if call == 0:
            first = len(server.chats)
    assert len(server.chats) == first, "what may be spent is spent, in the next call, too"
    lines = read_jsonl(folder_of(run, server) / "usage.jsonl", UsageLine)
    assert sum(line.uncounted for line in lines) == sum(line.requests for line in lines) == first
    most = sum(line.most_input * 100 + line.most_output * 1000 for line in lines) / 1e6
    assert 6.0 - 2.0 < most <= 6.0
    if kind == "no usage":
        server.plan = lambda seen: None
        stream = io.StringIO()
        judging.judge(configured(server.name, **PRICES), run, Console(stream=stream))
        known = read_json(folder_of(run, server) / "judge.json")
        assert known["requests_uncounted"] == first
        assert known["cost"] == pytest.approx((80 - first) * EACH)
        assert known["cost_at_most"] == pytest.approx(known["cost"] + most)
        assert f"{first} replies did not say what they took" in stream.getvalue()


def test_what_was_paid_under_other_settings_stays_paid(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(5)
    judging.judge(configured(server.name, **PRICES), run, Console(quiet=True))
    other = configured(server.name, judge_max_tokens=2048, **PRICES)
    server.plan = lambda seen: Act(body=completion("newer", good_reply(seen)))
    judging.judge(other, run, Console(quiet=True))
    assert len(server.chats) == 20
    known = read_json(folder_of(run, server) / "judge.json")
    assert known["cost"] == pytest.approx(20 * EACH)
    assert known["requests"] == 20
    assert known["snapshot"] == "newer-2026-11-01", "who replied before is no judge of these"
    assert not known["warnings"]
    tight = configured(server.name, judge_max_tokens=512, max_cost=20.5 * EACH, **PRICES)
    with pytest.raises(JudgeError, match=r"is reached: \$0.6000 are spent"):
        judging.judge(tight, run, Console(quiet=True))
    assert len(server.chats) == 20


def test_prices_are_needed() -> None:
    with pytest.raises(ValidationError, match="--max-cost needs --price-input and --price-output"):
        JudgeConfig(judge="openai:m", max_cost=1.0, price_input=1.0)


def test_the_estimate_comes_before_the_first_request(
    server: JudgeServer, make_run, configured
) -> None:
    stream = io.StringIO()
    told: list[str] = []

    def plan(seen: Seen) -> None:
        told.append(stream.getvalue())

    server.plan = plan
    run = make_run(20)
    config = configured(server.name, max_cost=0.5, **PRICES)
    with pytest.raises(JudgeError):
        judging.judge(config, run, Console(stream=stream))
    judging.judge(configured(server.name, **PRICES), run, Console(stream=stream))
    first = re.search(
        r"to ask: 40 requests, about ([\d,]+) \+ 10,000 tokens, about \$([\d.]+) ",
        stream.getvalue(),
    )
    assert first
    assert all("to ask: " in text for text in told)
    prompt = len(server.chats[0].system) + len(server.chats[0].user)
    assert int(first[1].replace(",", "")) == pytest.approx(40 * prompt / 4, rel=0.02)
    assert "likely more than --max-cost $0.5 allows" in stream.getvalue()


def test_the_estimate_learns_from_what_was_judged(
    server: JudgeServer, make_run, configured
) -> None:
    run = make_run(20)
    server.plan = lambda seen: Act(status=402) if seen.number >= 10 else None
    config = configured(server.name, judge_concurrency=1, **PRICES)
    with pytest.raises(JudgeError):
        judging.judge(config, run, Console(quiet=True))
    server.plan = lambda seen: None
    stream = io.StringIO()
    judging.judge(config, run, Console(stream=stream, interval=0.0))
    assert "to ask: 30 requests, about 3,000 + 600 tokens, about $0.90 " in stream.getvalue()
    assert re.search(r"\$0\.\d+ so far · about \$1\.20 in all", stream.getvalue())


def test_the_live_line_goes_on_from_what_earlier_calls_took(
    server: JudgeServer, make_run, configured
) -> None:
    """Half was judged for $0.60: the line speaks of $1.20 in all, as judge.json and --max-cost do."""
    run = make_run(20)
    server.plan = lambda seen: Act(status=402) if seen.number >= 20 else None
    config = configured(server.name, judge_concurrency=1, **PRICES)
    with pytest.raises(JudgeError):
        judging.judge(config, run, Console(quiet=True))
    server.plan = lambda seen: None
    stream = io.StringIO()
    folder = judging.judge(config, run, Console(stream=stream, interval=0.0))
    lines = [line for line in re.split(r"[\r\n]+", stream.getvalue()) if "so far" in line]
    first = next(line for line in lines if "judged 21 of 40" in line)
    assert "2,100 + 420 tokens · $0.6300 so far · about $1.20 in all" in first
    assert "4,000 + 800 tokens · $1.2000 so far" in lines[-1]
    assert read_json(folder / "judge.json")["cost"] == pytest.approx(1.2)
    assert set(re.findall(r"about \$([\d.]+) in all", stream.getvalue())) == {"1.20"}


def claimed(run: RunDir, config) -> RunDir:
    """The run with its config.yaml, as a command leaves it before judging."""
    write_text(run.config, dump(config))
    return run


def test_the_probe_is_in_the_account_and_under_the_limit(
    server: JudgeServer, make_run, configured
) -> None:
    config = configured(server.name, max_cost=6.0, judge_concurrency=4, **PRICES)
    run = claimed(make_run(200), config)
    for number in range(1, 6):
        assert judging.probe(config.judge, Console(quiet=True), run) == Usage(), "it is written"
        assert spent(run, server) == pytest.approx(number * EACH)
    with pytest.raises(JudgeError, match="is reached"):
        judging.judge(config, run, Console(quiet=True))
    total = spent(run, server)
    assert total == pytest.approx(len(server.chats) * EACH)
    assert 4.0 < total <= 6.0
    with contextlib.suppress(JudgeError):
        for _ in range(100):  # its prompt is shorter, so that a few still fit
            judging.probe(config.judge, Console(quiet=True), run)
    assert spent(run, server) == pytest.approx(len(server.chats) * EACH)
    assert spent(run, server) <= 6.0
    asked = len(server.chats)
    with pytest.raises(JudgeError, match=r"--max-cost \$6 is reached: "):
        judging.probe(config.judge, Console(quiet=True), run)
    assert len(server.chats) == asked, "not even a probe is sent"
    probes = sum(seen.field("QUESTION") == "What is 2 + 2?" for seen in server.chats)
    judging.judge(configured(server.name, **PRICES), run, Console(quiet=True))
    facts = read_json(folder_of(run, server) / "judge.json")
    assert facts["requests"] == len(server.chats) == 400 + probes
    assert facts["cost"] == pytest.approx((400 + probes) * EACH)
    assert facts["rungs"] == {"json_schema": 400}, "of the judgements alone"


def test_a_probe_that_fails_is_paid_all_the_same(server: JudgeServer, make_run, configured) -> None:
    server.plan = lambda seen: Act(content="8 of 10")
    config = configured(server.name, **PRICES)
    run = claimed(make_run(3), config)
    with pytest.raises(JudgeError, match="asked 12 times"):
        judging.probe(config.judge, Console(quiet=True), run)
    assert spent(run, server) == pytest.approx(12 * EACH)
    limited = configured(server.name, max_cost=12 * EACH + 1.75, **PRICES)
    with pytest.raises(JudgeError, match="--max-cost"):
        judging.probe(limited.judge, Console(quiet=True), run)
    assert 12 * EACH < spent(run, server) <= 12 * EACH + 1.75
    assert spent(run, server) == pytest.approx(len(server.chats) * EACH)


def test_a_probe_before_there_is_a_folder_hands_on_what_it_took(
    server: JudgeServer, make_run, configured
) -> None:
    config = configured(server.name, **PRICES)
    run = make_run(2)
    took = judging.probe(config.judge, Console(quiet=True), run)
    assert took == Usage(1, 100, 20)
    assert not folder_of(run, server).exists()
    judging.charge_probe(config.judge, run, took)
    judging.judge(config, run, Console(quiet=True))
    facts = read_json(folder_of(run, server) / "judge.json")
    assert (facts["requests"], facts["cost"]) == (5, pytest.approx(5 * EACH))
    none = configured(server.name, max_cost=0.5, **PRICES).judge
    with pytest.raises(JudgeError, match=r"--max-cost \$0.5 is reached: \$0.0000 are spent"):
        judging.probe(none, Console(quiet=True), make_run(2, folder="new"))
    assert len(server.chats) == 5


def test_an_interrupted_probe_is_in_the_account(server: JudgeServer, make_run, configured) -> None:
    def plan(seen: Seen) -> Act:
        os.kill(os.getpid(), signal.SIGINT)
        return Act(delay=0.3)

    server.plan = plan
    config = configured(server.name, **PRICES)
    run, stream = claimed(make_run(2), config), io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        judging.probe(config.judge, Console(stream=stream), run)
    assert "waiting for the requests under way, which are paid for" in stream.getvalue()
    assert spent(run, server) == pytest.approx(EACH)
    assert judging.spent(config.judge, run) == pytest.approx(EACH)


def test_a_probe_whose_reply_was_lost_counts_at_its_most(
    server: JudgeServer, make_run, configured
) -> None:
    server.plan = lambda seen: Act(cut=30) if seen.number == 0 else None
    config = configured(server.name, **PRICES)
    run = claimed(make_run(2), config)
    judging.probe(config.judge, Console(quiet=True), run, backoff=0.01)
    judging.judge(config, run, Console(quiet=True))
    facts = read_json(folder_of(run, server) / "judge.json")
    assert (facts["requests"], facts["requests_lost"]) == (5, 1)
    assert facts["cost_at_most"] > facts["cost"] + 1.0


def test_a_lost_request_before_a_refusal_is_in_the_account(
    server: JudgeServer, make_run, configured
) -> None:
    """The try whose reply broke off may have been charged, whatever became of the next one."""

    refused: list[str] = []

    def plan(seen: Seen) -> Act | None:
        if seen.number == 1:
            refused.append(seen.answer)
            return Act(cut=30)
        return Act(status=400, body={"error": "filtered"}) if seen.answer in refused else None

    server.plan = plan
    config = configured(server.name, judge_concurrency=1, **PRICES)
    run = make_run(2)
    with contextlib.suppress(JudgeError):  # of an arm that stays without a score
        judging.judge(config, run, Console(quiet=True), backoff=0.01)
    assert sum(one.answer in refused for one in server.seen) == 2, "broken off, then refused"
    lines = read_jsonl(folder_of(run, server) / "usage.jsonl", UsageLine)
    assert sum(line.lost for line in lines) == 1


def test_the_bound_is_above_what_any_tokenizer_makes() -> None:
    from gemma_lora import model

    fmt = model.load_format(model.resolve("starter"))
    for text in ("Guten Tag", "订单在哪里", "\u200b\U0001f600" * 9, "a" * 100, "<<<>>>\n\t"):
        assert len(fmt.tokenizer.encode(text)) <= most_tokens(text)


def test_a_server_that_counts_more_than_was_sent_is_believed() -> None:
    import asyncio

    async def go() -> None:
        budget = Budget(10.0, (100.0, 100.0), Usage())
        held = await budget.hold(100, 100)
        budget.settle(held, 100, Usage(1, 10_000, 100))  # a gateway with a long prompt of its own
        assert budget.spent == pytest.approx(1.01)
        assert await budget.hold(100, 100) == pytest.approx(1.01)

    asyncio.run(go())


def test_rounding_does_not_make_the_last_request_wait_for_ever() -> None:
    import asyncio
    import random

    async def go(seed: int) -> None:
        draw = random.Random(seed)
        budget, held = Budget(1e6, (1e6, 0.0), Usage()), []
        for _ in range(20_000):
            if len(held) == 256:
                budget.settle(held.pop(draw.randrange(256)), 1, Usage(1))
            held.append(await budget.hold(draw.uniform(0.05, 1.5), 0))  # type: ignore[arg-type]
        for one in held:
            budget.settle(one, 1, Usage(1))
        with pytest.raises(JudgeError, match="is reached"):
            await asyncio.wait_for(budget.hold(2_000_000, 0), 5)
        assert await budget.hold(999_999, 0) == 999_999

    for seed in range(3):
        asyncio.run(go(seed))
