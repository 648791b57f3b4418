"""A seeded CSV file of any size that looks like customer service: about 300 bytes a row.

Of the questions, 60 % are free text (words by Zipf's law), 20 % templates with names and order
numbers, 8 % repeat an earlier one, 10 % are an earlier one with small changes, and 2 % are nearly
the same sentence. `python tests/support/many_rows.py ROWS FILE [SEED]` writes one.
"""

from __future__ import annotations

import csv
import random
import sys
from itertools import accumulate
from pathlib import Path

TEMPLATES = (
    "Hello, my name is {name} and my order {number} from {city} has not arrived, can you check where it is?",
    "I was charged twice for invoice {number}. Please refund the second payment to {name}.",
    "How do I change the delivery address of order {number} to {city}?",
    "The {thing} in my parcel {number} is broken; {name} said you would send a new one.",
)
NEARLY = "Good morning, I cannot sign in to my account since the update of last night, please help me with this{}"


def _words(generator: random.Random, count: int) -> list[str]:
    parts = [
        c + v
        for c in [
            "b",
            "c",
            "d",
            "f",
            "g",
            "h",
            "k",
            "l",
            "m",
            "n",
            "p",
            "r",
            "s",
            "t",
            "v",
            "w",
            "st",
            "tr",
            "pl",
            "gr",
        ]
        for v in "aeiou"
    ]
    return [
        "".join(generator.choices(parts, k=generator.choice((1, 2, 2, 3, 3, 4))))
        for _ in range(count)
    ]


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write a header and `rows` rows; the same bytes for the same arguments."""
    generator = random.Random(seed)
    vocabulary = _words(generator, 20_000)
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    names = [word.title() for word in _words(generator, 500)]
    recent: list[str] = []

    def text(low: int, high: int) -> str:
        chosen = generator.choices(vocabulary, cum_weights=weights, k=generator.randint(low, high))
        return " ".join(chosen).capitalize()

    def question() -> str:
        kind = generator.random()
        if kind < 0.08 and recent:
            return generator.choice(recent)
        if kind < 0.18 and recent:
            words = generator.choice(recent).split(" ")
            at = generator.randrange(len(words))
            words[at] = generator.choice((words[at] + ",", words[at].upper(), words[at] + "s"))
            return " ".join(words)
        if kind < 0.20:
            return NEARLY.format(
                generator.choice((".", "!", f" ({generator.randint(0, 9999)})", " - thanks 😀"))
            )
        if kind < 0.40:
            return generator.choice(TEMPLATES).format(
                name=generator.choice(names), city=generator.choice(names),
                thing=generator.choice(vocabulary), number=generator.randint(10**7, 10**8),
            )  # fmt: skip
        return text(8, 24) + "?"

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question", "answer"])
        for number in range(rows):
            asked = question()
            if len(recent) < 5000:
                recent.append(asked)
            else:
                recent[number % 5000] = asked
            writer.writerow([asked, text(14, 46) + ".\n" + text(4, 12) + "."])


if __name__ == "__main__":
    write_rows(Path(sys.argv[2]), int(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
