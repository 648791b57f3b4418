"""German and Chinese rows: they reach the judge as they are, and overlap means in them what it means in English."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from support.judge_server import Act, JudgeServer, verdict_text
from support.messages_server import MessagesServer

from gemma_lora import judge as judging
from gemma_lora.console import Console
from gemma_lora.judge.items import Item, Outcome
from gemma_lora.judge.lexical import LexicalScorer
from gemma_lora.records import ARMS, Answer, Judgement, Message
from gemma_lora.rundir import RunDir, read_jsonl, write_jsonl

DATA = Path(__file__).parents[3] / "shared" / "data" / "multilingual"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/multilingual is not here")

# question, reference, as good in other words, in part, about something else
ROWS = [
    (
        "Wie lange dauert die Rückerstattung für meine Bestellung?",
        "Die Rückerstattung dauert fünf Werktage, nachdem die Rücksendung bei uns eingegangen ist.",
        "Nachdem Ihre Rücksendung eingegangen ist, dauert die Rückerstattung fünf Werktage.",
        "Die Rückerstattung dauert etwas.",
        "Unser Café öffnet um acht Uhr; der Kuchen schmeckt großartig.",
    ),
    (
        "Kann ich die Größe meiner Jacke noch ändern?",
        "Ja, solange das Paket unser Lager nicht verlassen hat. Nennen Sie uns bitte die neue Größe.",
        "Solange das Paket das Lager nicht verlassen hat, ja: bitte nennen Sie uns die neue Größe.",
        "Ja, nennen Sie uns die Größe.",
        "Die Alpen sind ein Gebirge in Europa.",
    ),
    (
        "我的订单什么时候到？",
        "您的订单已经发货，预计三个工作日内送达。如果没有收到，请随时联系我们。",
        "订单已经发货，预计三个工作日内送达；没有收到请联系我们。",
        "订单已经发货。",
        "今天的天气很好，我们去公园散步吧。",
    ),
    (
        "怎样才能退款？",
        "请提供您的订单号，退款将在五个工作日内退回原支付账户。",
        "请提供订单号，五个工作日内退款退回原支付账户。",
        "请提供订单号。",
        "长江是中国最长的河流。",
    ),
]


def lexical(question: str, reference: str, answer: str) -> Outcome:
    turns = (Message(role="user", content=question),)
    return asyncio.run(LexicalScorer().score(Item("q", "base", 0, turns, reference, answer)))


@pytest.mark.parametrize("row", ROWS, ids=["de-1", "de-2", "zh-1", "zh-2"])
def test_overlap_falls_with_meaning(row: tuple[str, ...]) -> None:
    question, reference, *answers = row
    same, *others = (lexical(question, reference, answer) for answer in (reference, *answers))
    assert same.overall == 10
    totals = [10.0, *(outcome.overall or 0 for outcome in others)]
    assert all(before > after + 0.5 for before, after in pairwise(totals)), totals
    reworded, part, unrelated = others
    assert (reworded.overall or 0) > 7
    assert (part.scores["completeness"] or 0) < 6
    assert (part.scores["relevance"] or 0) >= 7, "what it says belongs to the question"
    assert (unrelated.overall or 0) < 2.5


@needs_data
@pytest.mark.parametrize("language", ["de", "zh"])
def test_on_published_rows_the_right_answer_stands_above_anothers(language: str) -> None:
    """GermanDPR instructions and XQuAD passages: to each row its own text, half of it, and the next row's."""
    if language == "de":
        with (DATA / "InstructGermanDPR_v1_test.csv").open(encoding="utf-8", newline="") as stream:
            pairs = [(row["input"], row["output"]) for row in csv.DictReader(stream)][:60]
    else:
        articles = json.loads((DATA / "xquad.zh.json").read_text("utf-8"))["data"]
        parts = [part for article in articles for part in article["paragraphs"]][:120:2]
        pairs = [(part["qas"][0]["question"], part["context"]) for part in parts]
    pairs = [(question, text) for question, text in pairs if len(text) > 20]
    assert len(pairs) >= 30
    own, half, other = [], [], []
    for (question, text), (_, stranger) in pairwise(pairs):
        own.append(lexical(question, text, text).overall)
        half.append(lexical(question, text, text[: len(text) // 2]).overall)
        other.append(lexical(question, text, stranger).overall)
    assert set(own) == {10.0}
    assert 5 < fmean(half) < 9.5
    assert fmean(other) < 4
    assert fmean(h > o for h, o in zip(half, other, strict=True)) > 0.85


@pytest.mark.parametrize("kind", [JudgeServer, MessagesServer], ids=["chat", "messages"])
def test_the_judge_reads_the_rows_as_they_are_and_may_answer_in_their_language(
    kind: type[JudgeServer], tmp_path: Path, configured
) -> None:
    run = RunDir(tmp_path / "run")
    for arm, place in zip(ARMS, (4, 2), strict=True):
        rows = [
            Answer(id=f"q{i}", messages=(Message(role="user", content=row[0]),), reference=row[1],
                   answer=row[place], tokens=3, stopped_by="end", cluster=f"c{i}")
            for i, row in enumerate(ROWS)
        ]  # fmt: skip
        write_jsonl(run.answers(arm), rows)
    said = "回答正确，「退款」说明完整 — größtenteils richtig."
    scores = dict.fromkeys(
        ("relevance", "accuracy", "completeness", "fluency", "usefulness", "overall"), 7
    )
    with kind() as server:
        server.plan = lambda seen: Act(content=verdict_text(scores, said))
        folder = judging.judge(
            configured(server.name), run, Console(quiet=True, stream=io.StringIO())
        )
        prompts = {(seen.field("QUESTION"), seen.answer): seen for seen in server.chats}
    assert len(prompts) == 8
    for row in ROWS:
        for place in (4, 2):
            seen = prompts[row[0], row[place]]
            # readable, not \u escapes: a judge that reads escapes badly would read all of it badly
            for text in (row[0], row[1], row[place]):
                assert text in seen.user
            assert "in the language of the question" in seen.system
    assert {row.reasoning for row in read_jsonl(folder / "judgements.jsonl", Judgement)} == {said}
    assert said in (folder / "judgements.jsonl").read_text("utf-8"), "readable on the disk, too"
