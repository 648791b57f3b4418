"""The corpus as a stream of documents, and the questions held out of it.

Reads: the tables beside it; the novels folder given by the caller. Writes: nothing.
Refuses: a document that asks a held-out question or speaks of customer service (it is left out and
counted, so that the corpus holds none of either by construction).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from . import living, novels, stories, talk, words, world
from .core import Row, Topic, capital, fill

SEED = 20
TOPICS: list[Topic] = [*living.TOPICS, *world.TOPICS, *words.TOPICS]

# words of customer service: no document of the corpus holds one of them
FORBIDDEN = re.compile(
    r"\b(?:order(?:s|ed|ing)?|refund\w*|deliver\w*|invoice\w*|account(?:s|ed)?|return(?:s|ed|ing)?|"
    r"complain\w*|shipp\w*|shipment\w*|customer\w*|purchas\w*|parcel\w*|track(?:ing|ed)|warrant\w*|"
    r"payment\w*|subscri\w*|password\w*|cancel\w*|receipt\w*|exchang\w*|discount\w*|voucher\w*|"
    r"courier\w*|bill(?:s|ed|ing)?)\b",
    re.IGNORECASE,
)

Turn = tuple[str, str]


@dataclass(frozen=True)
class Document:
    """Either turns of a dialogue or a plain text; `source` says where it comes from."""

    source: str
    turns: tuple[Turn, ...] = ()
    text: str = ""

    def words(self) -> str:
        """All its text, for the checks."""
        return self.text or " ".join(part for turn in self.turns for part in turn)


@dataclass(frozen=True)
class Question:
    """A held-out question: its text, the acceptable words, and where it was taken from."""

    question: str
    expect: tuple[str, ...]
    source: str


def normalise(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and spelling variants, for comparing questions."""
    text = text.lower().replace("color", "colour").replace("favorite", "favourite")
    return tuple(w for w in re.findall(r"[a-z0-9+=']+|-", text) if w != "please")


def _shingles(text: str) -> set[str]:
    joined = " ".join(normalise(text))
    return {joined[i : i + 5] for i in range(max(1, len(joined) - 4))}


def similar(one: str, two: str) -> bool:
    """Near-identical: Jaccard of five-character shingles of 0.8 or more."""
    a, b = _shingles(one), _shingles(two)
    return len(a & b) >= 0.8 * len(a | b)


_TALK_QUOTA = [("general", talk.GENERAL, 16), ("feeling", talk.FEELINGS, 7), ("how_to", talk.HOW_TO, 8),
               ("problem", talk.PROBLEMS, 3), ("small_talk", talk.SMALL_TALK, 2)]  # fmt: skip


@cache
def held_out(count: int = 100) -> tuple[Question, ...]:
    """The bundled questions: known facts in a wording that the corpus never shows for that fact."""
    rng = random.Random(SEED + 1)
    chosen: list[Question] = []
    for name, entries, quota in _TALK_QUOTA:
        pool = [e for e in entries if e.expect and len(e.questions) >= 3]
        for entry in rng.sample(pool, quota):
            form = rng.choice(
                [q for q in entry.questions if len(q.split()) >= 3] or entry.questions
            )
            chosen.append(Question(form, tuple(w.lower() for w in entry.expect), name))
    topics = [t for t in TOPICS if t.expect and len(t.questions) >= 4]
    while len(chosen) < count:
        for topic in sorted(topics, key=lambda t: -t.weight):
            if len(chosen) == count:
                break
            row = rng.choice(topic.rows)
            text = fill(rng.choice(topic.questions), row)
            chosen.append(Question(capital(text), tuple(topic.expected(row)), topic.name))
    return tuple(chosen)


class HeldOut:
    """Tells whether a text asks one of the held-out questions, anywhere in it."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        self.keys = {normalise(q.question) for q in questions}
        self.lengths = sorted({len(key) for key in self.keys})
        self.texts: dict[str, list[str]] = {}
        for q in questions:
            self.texts.setdefault(q.source, []).append(q.question)

    def asked_in(self, text: str) -> bool:
        """True when the words of a held-out question stand in the text."""
        found = normalise(text)
        for size in self.lengths:
            for start in range(len(found) - size + 1):
                if found[start : start + size] in self.keys:
                    return True
        return False


_SAFE_LOWER = {
    "What",
    "Which",
    "How",
    "Where",
    "Who",
    "Why",
    "When",
    "Is",
    "Are",
    "Do",
    "Does",
    "Can",
    "Tell",
    "Name",
    "Give",
    "In",
    "On",
    "At",
    "Of",
    "From",
    "With",
    "Today",
    "If",
    "Count",
    "Add",
    "Take",
    "Say",
    "Spell",
    "Find",
    "To",
    "Please",
    "Mix",
}
_PREFIXES = [
    "Hello! ", "Hi! ", "Hi, ", "Please tell me: ", "I have a question. ", "Quick question: ",
    "Can you help me? ", "Good morning! ", "Hey, ", "Tell me, please: ", "Please help me. ",
    "One question: ", "I would like to know: ", "Sorry, ", "Well, ", "Now tell me: ", "Okay, ",
]  # fmt: skip
_SUFFIXES = [
    " Please tell me.",
    " Thank you.",
    " Thanks!",
    " Please.",
    " I want to know.",
    " Do you know?",
]


def _lower_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first in _SAFE_LOWER else text


def roughen(text: str, rng: random.Random) -> str:
    """The question as people type it: greetings before it, no capital, no question mark."""
    draw = rng.random()
    if draw < 0.55:
        return text
    if draw < 0.72:
        prefix = rng.choice(_PREFIXES)
        return prefix + (_lower_first(text) if prefix.rstrip()[-1] in ":," else text)
    if draw < 0.80:
        return text + rng.choice(_SUFFIXES)
    if draw < 0.88:
        return text.rstrip("?.")
    if draw < 0.96:
        return text.lower() if rng.random() < 0.5 else text.lower().rstrip("?.")
    return text.rstrip("?.") + rng.choice([" ?", "??", "!", " please?", " please"])


@dataclass
class Mixer:
    """Draws documents; one generator, one seed, the same stream each time."""

    seed: int = SEED
    left_out: dict[str, int] = field(default_factory=lambda: {"held_out": 0, "forbidden": 0})

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.check = HeldOut(held_out())
        self.weights = [t.weight * min(3.0, len(t.rows) * len(t.questions) / 60) for t in TOPICS]
        self.excluded: dict[tuple[str, int], set[int]] = {}
        for topic in TOPICS:
            for text in self.check.texts.get(topic.name, []):
                for r, row in enumerate(topic.rows):
                    for f, form in enumerate(topic.questions):
                        if similar(capital(fill(form, row)), text) and self._same_row(
                            topic, row, text
                        ):
                            self.excluded.setdefault((topic.name, r), set()).add(f)
        self.talk = {
            name: [
                (
                    e,
                    [
                        q
                        for q in e.questions
                        if not any(similar(q, t) for t in self.check.texts.get(name, []))
                    ],
                )
                for e in entries
            ]
            for name, entries, _ in _TALK_QUOTA
        }

    def _same_row(self, topic: Topic, row: Row, text: str) -> bool:
        """Whether the held-out text is one of the row's own questions."""
        key = normalise(text)
        return any(normalise(fill(form, row)) == key for form in topic.questions)

    def fact(self, topic: Topic | None = None) -> tuple[Turn, Topic, Row]:
        """A question on a fact and its answer."""
        rng = self.rng
        topic = topic or rng.choices(TOPICS, self.weights)[0]
        r = rng.randrange(len(topic.rows))
        row = topic.rows[r]
        barred = self.excluded.get((topic.name, r), set())
        forms = [form for f, form in enumerate(topic.questions) if f not in barred]
        question = roughen(capital(fill(rng.choice(forms), row)), rng)
        return (question, self.answer(topic, row)), topic, row

    def answer(self, topic: Topic, row: Row) -> str:
        """One of the answers, sometimes with one more thing to say."""
        rng = self.rng
        # the first wordings are the fullest: they are drawn a little more often
        count = len(topic.answers)
        weights = [2.0 if i < (count + 1) // 2 else 1.0 for i in range(count)]
        text = capital(fill(rng.choices(topic.answers, weights)[0], row))
        if topic.extras and rng.random() < 0.3:
            more = capital(fill(rng.choice(topic.extras), row))
            if more not in text:
                text = f"{text} {more}"
        return text

    def chat(self, name: str) -> Turn:
        """A question from the small-talk, advice, how-to and general blocks."""
        rng = self.rng
        entry, questions = rng.choice([pair for pair in self.talk[name] if pair[1]])
        question = rng.choice(questions)
        if question.endswith(("?", ".", "!")) and name != "small_talk":
            question = roughen(question, rng)
        return question, rng.choice(entry.answers)

    def single(self) -> list[Turn]:
        """A question and its answer, or the few turns of an introduction."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.60:
            return [self.fact()[0]]
        if draw < 0.72:
            return [self.chat("general")]
        if draw < 0.78:
            return [self.chat("how_to")]
        if draw < 0.83:
            return [self.chat("feeling")]
        if draw < 0.85:
            return [self.chat("problem")]
        if draw < 0.88:
            return [self.chat("small_talk")]
        if draw < 0.91:
            return [stories.story(rng)]
        if draw < 0.96:
            return [stories.reading(rng)]
        if draw < 0.98:
            return [stories.echo(rng)]
        return stories.names(rng) if rng.random() < 0.5 else stories.likes(rng)

    def dialogue(self) -> Document:
        """One to five turns."""
        rng = self.rng
        turns: list[Turn] = []
        if rng.random() < 0.06:
            turns.append(self.chat("small_talk"))
        if rng.random() < 0.16:
            first, topic, _ = self.fact(rng.choice([t for t in TOPICS if t.follow_ups]))
            turns.append(first)
            for _ in range(rng.randint(1, 3)):
                row = rng.choice(topic.rows)
                form = rng.choice(topic.follow_ups)
                turns.append((capital(fill(form, row)), self.answer(topic, row)))
        else:
            turns += self.single()
            while rng.random() < 0.22 and len(turns) < 4:
                turns += self.single()
        if rng.random() < 0.07:
            turns.append(self.chat("small_talk"))
        return Document("dialogue", turns=tuple(turns))

    def sentences(self) -> Document:
        """A plain text: some sentences made of the facts of one or several topics."""
        rng = self.rng
        parts: list[str] = []
        one = rng.choices([t for t in TOPICS if t.statements])[0] if rng.random() < 0.4 else None
        for _ in range(rng.randint(3, 8)):
            topic = one or rng.choice([t for t in TOPICS if t.statements])
            parts.append(capital(fill(rng.choice(topic.statements), rng.choice(topic.rows))))
        if rng.random() < 0.25:
            parts = [stories.story(rng)[1]]
        return Document("sentences", text=" ".join(parts))

    def allowed(self, document: Document) -> bool:
        """False, and counted, where a document may not stand in the corpus."""
        if FORBIDDEN.search(document.words()):
            self.left_out["forbidden"] += 1
            return False
        if any(self.check.asked_in(user) for user, _ in document.turns):
            self.left_out["held_out"] += 1
            return False
        return True

    def generated(self, count: int, sentences: float = 0.06) -> Iterator[Document]:
        """The generated documents of the corpus."""
        made = 0
        while made < count:
            document = self.sentences() if self.rng.random() < sentences else self.dialogue()
            if self.allowed(document):
                made += 1
                yield document


def passages(folder: Path) -> list[Document]:
    """Simple paragraphs of the novels, in their own wording, without the forbidden words."""
    found = [Document(stem, text=text) for stem, text in novels.simple(novels.paragraphs(folder))]
    return [document for document in found if not FORBIDDEN.search(document.text)]
