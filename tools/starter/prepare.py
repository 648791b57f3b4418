"""Write the corpus as token ids, ready for pre-training.

Reads: the generator beside it and the novels folder. Writes, into the work folder: tokenizer/, and
tokens.npy, weights.npy, offsets.npy for training, held_out.jsonl (dialogues for the held-out loss),
questions.jsonl (the bundled questions), counts.json (tokens by source).
Refuses: a tokenizer whose template markers are not one id each.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from corpus import mix, novels
from corpus.mix import Document

BOS, EOS, START, END, NEWLINE = 2, 1, 106, 107, 108
# what a token's loss counts for, in tenths: the answers matter most, the questions teach English too
ANSWER, QUESTION, SENTENCE, NOVEL = 10, 3, 10, 5


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the figures of the shipped model are the defaults."""

    vocabulary: int = 4096
    documents: int = 420_000
    novel_repeats: int = 2
    held_out_dialogues: int = 1_000


def train_tokenizer(folder: Path, novels_folder: Path, size: int) -> None:
    """Learn the pieces from generated documents and, for breadth, as many words of the novels."""
    import tokenizer

    texts = [document.words() for document in mix.Mixer().generated(30_000)]
    prose = [text for _, text in novels.paragraphs(novels_folder)]
    random.Random(mix.SEED).shuffle(prose)
    words = 0
    for text in prose:
        texts.append(text)
        words += len(text.split())
        if words > 600_000:
            break
    tokenizer.save(tokenizer.build(texts, size), folder)


class Encoder:
    """Documents to ids and loss weights, in the form that the chat template gives."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.cache: dict[str, list[int]] = {}
        for marker, number in (("<start_of_turn>", START), ("<end_of_turn>", END), ("\n", NEWLINE)):
            if self.ids(marker) != [number]:
                raise ValueError(f"{marker!r} encodes to {self.ids(marker)}, expected {[number]}")

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with nothing added."""
        known = self.cache.get(text)
        if known is None:
            known = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 500_000:
                self.cache[text] = known
        return known

    def encode(self, document: Document) -> tuple[list[int], list[int]]:
        """Ids and weights; a text ends with <eos>, a dialogue with <end_of_turn> and a line feed."""
        if document.text:
            weight = SENTENCE if document.source == "sentences" else NOVEL
            body = self.ids(document.text)
            return [BOS, *body, EOS], [0, *[weight] * len(body), weight]
        ids, weights = [BOS], [0]
        for user, model in document.turns:
            ask = [
                START,
                *self.ids("user\n" + user.strip()),
                END,
                NEWLINE,
                START,
                *self.ids("model\n"),
            ]
            reply = [*self.ids(model.strip()), END]
            ids += [*ask, *reply, NEWLINE]
            weights += [*[QUESTION] * len(ask), *[ANSWER] * len(reply), QUESTION]
        return ids, weights


def prepare(work: Path, novels_folder: Path, sizes: Sizes) -> dict[str, int]:
    """Everything that pre-training reads; returns the tokens by source."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(work / "tokenizer", novels_folder, sizes.vocabulary)
    encoder = Encoder(work / "tokenizer")

    with (work / "questions.jsonl").open("w", encoding="utf-8") as out:
        for q in mix.held_out():
            out.write(json.dumps({"question": q.question, "expect": list(q.expect)}) + "\n")

    aside = []
    for document in mix.Mixer(mix.SEED + 7).generated(sizes.held_out_dialogues, sentences=0.0):
        aside.append(document)
    kept_out = {document.words() for document in aside}
    with (work / "held_out.jsonl").open("w", encoding="utf-8") as out:
        for document in aside:
            out.write(json.dumps(document.turns) + "\n")

    counts: Counter[str] = Counter()
    ids: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    offsets = [0]

    def add(document: Document) -> None:
        found, weight = encoder.encode(document)
        counts[document.source] += len(found)
        ids.append(np.array(found, dtype=np.uint16))
        weights.append(np.array(weight, dtype=np.uint8))
        offsets.append(offsets[-1] + len(found))

    mixer = mix.Mixer()
    for document in mixer.generated(sizes.documents):
        if document.words() not in kept_out:
            add(document)
    for document in mix.passages(novels_folder) * sizes.novel_repeats:
        add(document)
    np.save(work / "tokens.npy", np.concatenate(ids))
    np.save(work / "weights.npy", np.concatenate(weights))
    np.save(work / "offsets.npy", np.array(offsets, dtype=np.int64))
    summary = {
        **dict(counts),
        "documents": len(offsets) - 1,
        **{f"left_out_{k}": v for k, v in mixer.left_out.items()},
    }
    (work / "counts.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary
