"""A made run folder: what a run leaves behind, without training anything.

`make_run(folder)` writes 80 test questions (among them hostile markup, German, Chinese, code, very
long words), answers of both arms, judgements, loss curves, audit and provenance, all from one seed.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from gemma_lora.config import Config, DataConfig, JudgeConfig, ModelConfig
from gemma_lora.loading import dump
from gemma_lora.records import DIMENSIONS, Answer, Example, Judgement, Message, ProbeResult
from gemma_lora.rundir import RunDir, write_json, write_jsonl, write_text

__all__ = ["NASTY", "SLUG", "make_config", "make_run"]

SLUG = "openai-gpt-5"

NASTY: tuple[str, ...] = (
    "<script>window.pwned = 1; document.title = 'pwned'</script>",
    "</script><script>window.pwned = 2</script><style>body{display:none}</style>",
    "<svg onload=\"window.pwned = 3\"><circle r=9></circle></svg><img src=x onerror='window.pwned=4'>",
    '[click](javascript:window.pwned=5) <a href="javascript:window.pwned=6">here</a>',
    "\"quoted\" 'single' `back` & &amp; &lt;b&gt; {{ 7 * 7 }} {% raw %} {# c #} ${7*7} <%= 1 %>",
    "]]> --> <!-- <iframe src='https://example.com/steal'></iframe> <link rel=stylesheet href=//e.com/x>",
    "| pipe | table |\n| --- | --- |\n```\nfence ```` inside\n```\n# heading\n- list",
    "null\x00byte, bell\x07, escape \x1b[31mred\x1b[0m, bidi \u202egnirts\u202c, zero\u200bwidth, \ufeffBOM",
    "</textarea></title></div></table></details>" * 3,
    "Donaudampfschifffahrtsgesellschaftskapitänswitwenrentenauszahlungsstelle" * 6,
)

_PLAIN = (
    ("Where is my order {n}?", "Thank you for the order number. Order {n} left our warehouse yesterday and will arrive within 3 working days. Please let me know if I can help with anything else."),
    ("How do I return the shoes from order {n}?", "A return is free within 30 days. I have emailed you a label for order {n}; please put it on the box and hand it in at any post office."),
    ("Wie lange dauert die Rückerstattung für Bestellung {n}?", "Die Rückerstattung für Bestellung {n} dauert bis zu 5 Werktage, nachdem die Rücksendung bei uns eingegangen ist. Gern helfe ich Ihnen weiter."),
    ("我的订单 {n} 什么时候到?我已经等了一个多星期了,物流信息一直没有更新。", "您的订单 {n} 已经发货,预计三个工作日内送达。如果到时还没有收到,请随时联系我们,我们会为您重新安排配送。"),
    ("How do I reverse a list of {n} items in Python?", "Use slicing for a copy or `list.reverse()` in place:\n\n```python\nitems = list(range({n}))\nbackwards = items[::-1]      # a new list\nitems.reverse()              # the same list, changed\nfor item in reversed(items): # no copy at all\n    print(item)\n```\n\nBest practice: `reversed()` where you only iterate."),
    ("Can I change the delivery address of order {n}? I moved last week and forgot to tell you.", "Of course. Please send me the new address with the postcode, and I will change order {n} as long as it has not left the warehouse."),
    ("I never got an invoice for {n}.", "I am sorry about that. I have sent the invoice for order {n} to your email address again."),
)  # fmt: skip

_BASE = (
    "I do not know.",
    "The order is a big order and the order is a big order and the order is a big order and",
    "You can go to the shop and ask the man in the shop.",
    "Python is a snake. It is green and long.",
    "Yes, it is good.",
)


def make_config(*, judge: str = "openai:gpt-5", model: str = "google/gemma-2b-it") -> Config:
    return Config(
        data=DataConfig(path="support.csv"),
        model=ModelConfig(model=model),
        judge=JudgeConfig(judge=judge),
        seed=7,
    )


def make_run(
    folder: Path,
    *,
    config: Config | None = None,
    questions: int = 80,
    gain: float = 2.6,
    seed: int = 0,
    unscored: bool = True,
    lexical: bool = False,
) -> tuple[RunDir, Config]:
    """Write the folder; the tuned arm gains about `gain` points, and some questions get worse."""
    config = config or make_config()
    run = RunDir(folder)
    rng = random.Random(seed)
    examples = [_example(i, rng) for i in range(questions)]
    write_text(run.config, dump(config))
    write_jsonl(run.test_rows, examples)
    write_jsonl(run.train_rows, [_example(1000 + i, rng, plain=True) for i in range(20)])
    for arm in ("base", "tuned"):
        write_jsonl(run.answers(arm), [_answer(row, arm, i, rng) for i, row in enumerate(examples)])
    rows: list[Judgement] = []
    for i, row in enumerate(examples):
        start = min(9.0, max(1.0, rng.gauss(3.5, 1.3)))
        for arm, level in (("base", start), ("tuned", start + rng.gauss(gain, 1.6))):
            missing = unscored and (i, arm) in {(5, "base"), (17, "tuned"), (18, "tuned")}
            rows.append(_judgement(row.id, arm, level, i, rng, missing=missing, lexical=lexical))
    target = run.judgements("lexical" if lexical else SLUG)
    write_jsonl(target / "judgements.jsonl", rows)
    write_json(target / "judge.json", _judge_facts(lexical, config))
    _training(run, rng)
    _audit_and_provenance(run, config)
    _forgetting(run, random.Random(seed + 1))
    return run, config


_CATEGORIES = {
    "geography": (22, 0.05), "science": (24, 0.02), "arithmetic": (26, 0.1), "language": (39, -0.03),
    "code": (24, 0.04), "safety": (18, 0.1), "refusals": (16, 0.9), "own <b>&</b> odd": (12, 0.0),
}  # fmt: skip
"""Questions of each category, and how many nats a token their answers become less likely."""


def _forgetting(run: RunDir, rng: random.Random) -> None:
    """A probe of which the tuned model forgot little, but for refusals."""
    rows: list[ProbeResult] = []
    for category, (count, rise) in _CATEGORIES.items():
        for number in range(count):
            tokens, options = rng.randint(3, 14), category != "refusals"
            loss, change = rng.uniform(0.6, 2.2), rng.gauss(rise, 0.12)
            base = rng.random() < 0.62
            tuned = base if rng.random() < 0.96 else not base
            rows.append(
                ProbeResult(
                    id=f"{category}-{number}", category=category, cluster=f"{category}-{number}", tokens=tokens,
                    base_nll=loss * tokens, tuned_nll=(loss + change) * tokens, kl=abs(change) * 0.4 * tokens,
                    options=4 if options else None, right="B" if options else None,
                    base_choice=("B" if base else "D") if options else None,
                    tuned_choice=("B" if tuned else "A") if options else None,
                )
            )  # fmt: skip
    write_jsonl(run.forgetting / "items.jsonl", rows)
    write_json(
        run.forgetting / "forgetting.json",
        {
            "schema_version": 1,
            "probe": {"name": "general", "kind": "bundled", "sha256": "0f" * 32, "items": len(rows),
                      "with_options": sum(row.options is not None for row in rows)},
            "train_sample": {"rows": 20, "tokens": 900, "loss": 0.98},
            "decisions": {"device": "cpu", "precision": "fp32"},
            "seconds": 4.2,
            "warnings": [],
        },
    )  # fmt: skip


def _example(i: int, rng: random.Random, *, plain: bool = False) -> Example:
    question, answer = (text.format(n=40000 + 37 * i) for text in _PLAIN[i % len(_PLAIN)])
    if not plain and i % 8 == 3:
        nasty = NASTY[(i // 8) % len(NASTY)]
        question, answer = f"{question} {nasty}", f"{nasty}\n{answer}"
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    if i % 11 == 6:
        messages.insert(
            0, Message(role="system", content="You are a polite assistant <b>of a shop</b>.")
        )
    if i % 13 == 9:
        earlier = [
            Message(role="user", content="Hello, are you a person?"),
            Message(role="assistant", content="Hello! I am an assistant. How can I help?"),
        ]
        messages[-2:-2] = earlier
    return Example(
        id=f"{rng.getrandbits(64):016x}",
        messages=tuple(messages),
        cluster=f"c{i if i % 20 or i >= 1000 else 0}",
        line=i + 2,
    )


def _answer(row: Example, arm: str, i: int, rng: random.Random) -> Answer:
    if arm == "tuned":
        text = row.reference if i % 9 else "Please send me your order number and I will check it."
    else:
        text = _BASE[i % len(_BASE)]
    if i % 16 == 11:
        text = NASTY[(i // 16) % len(NASTY)] + "\n" + text
    if i == 40 and arm == "base":
        text = ""
    return Answer(
        id=row.id,
        messages=row.prompt,
        reference=row.reference,
        answer=text,
        tokens=max(1, len(text) // 4),
        stopped_by="limit" if arm == "base" and i % 5 == 1 else "end",
        cluster=row.cluster,
    )


def _judgement(
    name: str,
    arm: str,
    level: float,
    i: int,
    rng: random.Random,
    *,
    missing: bool,
    lexical: bool,
) -> Judgement:
    if missing:
        empty: dict[str, float | None] = dict.fromkeys(DIMENSIONS)
        return Judgement(
            id=name, arm=arm, repeat=0, scores=empty, overall=None, reasoning="",
            unscored_reason="the reply is not valid JSON: `<script>window.pwned = 9</script>`",
        )  # fmt: skip
    scores: dict[str, float | None] = {}
    for dimension in DIMENSIONS:
        value = min(10.0, max(1.0, level + rng.gauss(0.6 if dimension == "fluency" else 0, 0.8)))
        scores[dimension] = round(value, 3) if lexical else float(round(value))
    if lexical:
        scores["fluency"] = scores["usefulness"] = None
    known = [value for value in scores.values() if value is not None]
    overall = sum(known) / len(known)
    reasoning = NASTY[i % len(NASTY)] if i % 10 == 4 else (
        "The answer gives the delivery time and offers further help, as the reference does."
        if level > 5 else "The answer does not address the question and repeats itself."
    )  # fmt: skip
    return Judgement(
        id=name,
        arm=arm,
        repeat=0,
        scores=scores,
        overall=overall if lexical else float(round(overall)),
        reasoning="" if lexical else reasoning,
        unscored_reason=None,
        flags=("repeats a phrase",) if arm == "base" and i % 5 == 1 else (),
    )


def _judge_facts(lexical: bool, config: Config) -> dict[str, Any]:
    if lexical:
        return {"name": "lexical", "kind": "lexical", "is_llm": False, "snapshot": None, "tokens": None,
                "cost": None, "cached": 0, "prompt_hash": None, "warnings": []}  # fmt: skip
    return {
        "name": config.judge.judge,
        "kind": "openai",
        "is_llm": True,
        "snapshot": "gpt-5-2026-08-07",
        "tokens": {"input": 123456, "output": 23456},
        "cost": 0.42,
        "cached": 3,
        "prompt_hash": "0f" * 32,
        "warnings": [],
    }


def _training(run: RunDir, rng: random.Random) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 61):
        row: dict[str, Any] = {
            "step": step,
            "epoch": step / 20,
            "loss": 0.8 + 2.4 * math.exp(-step / 14) + rng.uniform(-0.08, 0.08),
            "lr": 2e-4 * (1 - step / 61),
            "grad_norm": rng.uniform(0.4, 1.4),
            "tokens_per_second": 950.0,
        }
        lines.append(row)
        if step % 5 == 0:
            loss = 1.0 + 2.1 * math.exp(-step / 15) + max(0, step - 45) * 0.006
            lines.append({"step": step, "epoch": step / 20, "validation_loss": loss})
    write_text(run.metrics, "".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        run.training,
        {
            "schema_version": 1,
            "decisions": {"precision": "bf16", "device": "cpu", "learning_rate": 2e-4},
            "trainable_parameters": 19611648,
            "steps_done": 60,
            "best_step": 45,
            "saved_step": 45,
            "stopped_early": False,
            "train_loss_first": 3.021,
            "train_loss_last": 0.842,
            "validation_loss_before": 3.31,
            "validation_loss_best": 1.104,
            "validations": [{"step": 45, "loss": 1.104}],
            "seconds": 512.4,
            "tokens_per_second": 951.2,
            "warnings": [
                "the validation loss rose again after step 45; the checkpoint of step 45 is kept"
            ],
        },
    )


def _audit_and_provenance(run: RunDir, config: Config) -> None:
    write_json(
        run.audit,
        {
            "schema_version": 1,
            "source": {"file": "support.csv", "sha256": "ab" * 32, "bytes": 104270, "format": "csv",
                       "encoding": "utf-8", "encoding_found": "valid UTF-8", "delimiter": ",",
                       "header_line": 1, "notes": []},
            "columns": {"recognised": {"question": {"name": "instruction<b>", "how": "by its name"},
                                       "answer": {"name": "response", "how": "by its name"}},
                        "unused": ["<script>window.pwned = 7</script>"]},
            "example_rows": [],
            "rows": {"read": 420, "blank": 0, "used": 417, "dropped": 3, "truncated": 0,
                     "dropped_by_reason": [{"reason": "empty answer", "count": 3, "lines": [5, 9, 88]}],
                     "cells_trimmed": 2, "control_text": 1},
            "test_file": None,
            "duplicates": {"repeated_rows": 2, "repeated_questions": 4, "near_duplicate_clusters": 5,
                           "rows_in_them": 11, "largest": 4, "largest_share": 0.0095},
            "answers": {"different": 410, "most_common_count": 3},
            "leaks": None,
            "split": {"train": 280, "validation": 57, "test": 80, "seed": 7, "near_duplicate": 0.8,
                      "clusters": {"train": 275, "validation": 57, "test": 77}},
            "tokens": {"max_length": 1024, "total": 33482, "carrying_loss": 22818, "loss_share": 0.6815,
                       "shortest": 31, "median": 90, "mean": 91.5, "p95": 207, "p99": 314, "longest": 388,
                       "histogram": [{"from": 31 + 40 * i, "to": 70 + 40 * i, "rows": n}
                                     for i, n in enumerate((96, 180, 82, 30, 16, 8, 3, 1, 1))]},
            "rendered": {"id": "b68c", "line": 146, "ids": [2, 106], "loss": [0, 1],
                         "runs": [["<bos><start_of_turn>user\nI changed my email <b>address</b>.<end_of_turn>\n"
                                   "<start_of_turn>model\n", False],
                                  ["I am sorry about that. Please click the link we sent.<end_of_turn>", True]]},
            "warnings": ["2 rows have cells with surrounding spaces, which the template trims <i>"],
        },
    )  # fmt: skip
    write_json(
        run.provenance,
        {
            "schema_version": 1,
            "gemma_lora": "0.1.0",
            "seed": config.seed,
            "data": {"file": "support.csv", "sha256": "ab" * 32},
            "files": {"split/test.jsonl": "cd" * 32},
            "base": {"name": config.model.model, "kind": "hub", "family": "gemma", "parameters": 2506172416,
                     "revision": "ef" * 20, "licence": "gemma"},
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
            "git": {"commit": "12" * 20, "dirty": False},
            "host": {"python": "3.11.2", "system": "Linux", "cores": 2},
        },
    )  # fmt: skip
