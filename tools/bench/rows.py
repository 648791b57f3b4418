"""The rows that every contestant trains on, and the tokenizer made for them.

`prepare` reads GPTeacher's code instructions and Bitext's customer service (half of each, a seeded
sample) or, where `sources` is the example file, that; trains a tokenizer in Gemma's layout on all of
their texts (tools/starter's trainer, kept by the digest of the texts), and writes a folder with
split/train.jsonl for us, tokens.json with the same rows as token ids and labels for the others, and
facts.json. Rows over `longest` tokens and rows without an answer are left out, and counted.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lora.records import Example, Message
from gemma_lora.rundir import RunDir, digest, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
PROGRAMMING = "programming/gpteacher_codegen_instruct.json"
SERVICE = "customer_service/bitext_customer_support_4514.csv"
EXAMPLE = ROOT / "examples" / "customer_service.csv"
IGNORED = -100
Pair = tuple[str, str]


@dataclass(frozen=True)
class Wanted:
    """Which rows: how many, how long at most, by which seed."""

    count: int
    longest: int
    seed: int


def read_sources(data: Path | None) -> dict[str, list[Pair]]:
    """Questions and answers by source; the example file where `data` is None."""
    if data is None:
        with EXAMPLE.open(encoding="utf-8-sig", newline="") as stream:
            return {
                EXAMPLE.stem: [_pair(row, "question", "answer") for row in csv.DictReader(stream)]
            }
    programming = json.loads((data / PROGRAMMING).read_text(encoding="utf-8"))
    with (data / SERVICE).open(encoding="utf-8", newline="") as stream:
        service = [_pair(row, "instruction", "response") for row in csv.DictReader(stream)]
    return {
        "GPTeacher code instructions": [
            (f"{row['instruction']}\n\n{row['input']}".strip(), row["response"].strip())
            for row in programming
        ],
        "Bitext customer service": service,
    }


def _pair(row: dict[str, str], question: str, answer: str) -> Pair:
    return row[question].strip(), row[answer].strip()


def make_tokenizer(sources: dict[str, list[Pair]], size: int, folder: Path) -> Path:
    """A tokenizer of exactly `size` pieces, Gemma's special pieces and ids among them."""
    from starter import tokenizer as trainer

    texts = [text for pairs in sources.values() for pair in pairs for text in pair]
    made = folder / f"tokenizer-{size}-{digest(texts)[:12]}"
    if not (made / "tokenizer_config.json").exists():
        built = trainer.build(texts, size)
        # where the texts have too few words: pieces that no text contains, so that the size is right
        built.add_tokens([f"<extra{n}>" for n in range(size - built.get_vocab_size())])
        trainer.save(built, made)
    return made


def prepare(
    sources: dict[str, list[Pair]], model: Path, wanted: Wanted, folder: Path
) -> dict[str, Any]:
    """Write the rows into `folder`; returns what is in facts.json."""
    from gemma_lora import model as models

    fmt = models.load_format(models.resolve(str(model)))
    rows: list[Example] = []
    tokens: list[dict[str, list[int]]] = []
    left_out = 0
    share = wanted.count // len(sources)
    for source, pairs in sources.items():
        taken = 0
        for question, answer in random.Random(wanted.seed).sample(pairs, len(pairs)):
            if taken == share:
                break
            messages = (
                Message(role="user", content=question),
                Message(role="assistant", content=answer),
            )
            encoded = fmt.example(messages) if question and answer else None
            if encoded is None or len(encoded.ids) > wanted.longest:
                left_out += 1
                continue
            labels = [
                i if m else IGNORED for i, m in zip(encoded.ids, encoded.supervised, strict=True)
            ]
            tokens.append({"input_ids": list(encoded.ids), "labels": [IGNORED, *labels[1:]]})
            number = len(rows)
            rows.append(
                Example(
                    id=f"{number:016x}", messages=messages, cluster=str(number), line=number + 2
                )
            )
            taken += 1
        if taken < share:
            raise ValueError(f"{source} has {taken} fitting rows, {share} are wanted")
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(RunDir(folder).train_rows, rows)
    (folder / "tokens.json").write_text(json.dumps(tokens))
    facts = _facts(list(sources), tokens, left_out, wanted)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))
    return facts


def _facts(
    sources: list[str], tokens: list[dict[str, list[int]]], left_out: int, wanted: Wanted
) -> dict[str, Any]:
    lengths = sorted(len(row["input_ids"]) for row in tokens)
    return {
        "sources": sources,
        "rows": len(tokens),
        "tokens": sum(lengths),
        "supervised": supervised(tokens),
        "shortest": lengths[0],
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "limit": wanted.longest,
        "left_out": left_out,
        "seed": wanted.seed,
    }


def supervised(tokens: Iterable[dict[str, list[int]]]) -> int:
    """Tokens that carry loss."""
    return sum(label != IGNORED for row in tokens for label in row["labels"])


def read_tokens(folder: Path) -> list[dict[str, list[int]]]:
    """Rows as `input_ids` and `labels`."""
    return json.loads((folder / "tokens.json").read_text())
