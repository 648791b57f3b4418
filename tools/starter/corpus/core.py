"""Topics: small tables of facts with many ways to ask and to answer, and how one is filled in.

Reads: nothing. Writes: nothing. Refuses: a table row with the wrong number of cells, and a template
that names an unknown slot (both are mistakes in the tables).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field

Row = dict[str, str]

_VOWEL_SOUND = re.compile(r"^(?:[aeiou]|hour|honest)", re.IGNORECASE)
_NOT_VOWEL_SOUND = re.compile(r"^(?:uni|use|eu|one)", re.IGNORECASE)


def article(noun: str) -> str:
    """The noun with "a" or "an"; plurals and mass nouns are marked with a leading "~" in the tables."""
    if noun.startswith("~"):
        return noun[1:]
    vowel = _VOWEL_SOUND.match(noun) and not _NOT_VOWEL_SOUND.match(noun)
    return f"{'an' if vowel else 'a'} {noun}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def plural(noun: str) -> str:
    """The English plural of a noun of the tables."""
    irregular = {
        "mouse": "mice",
        "goose": "geese",
        "sheep": "sheep",
        "fish": "fish",
        "deer": "deer",
        "wolf": "wolves",
        "knife": "knives",
        "tooth": "teeth",
        "foot": "feet",
        "child": "children",
        "man": "men",
        "woman": "women",
        "leaf": "leaves",
        "person": "people",
        "ox": "oxen",
        "loaf": "loaves",
        "shelf": "shelves",
    }
    if noun.startswith("~"):
        return noun[1:]
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("potato", "tomato")):
        return noun + "es"
    return noun + "s"


class _Filler(string.Formatter):
    """Slots: {x} as written, {x:a} with its article, {x:A} the same capitalised, {x:C} capitalised,
    {x:s} plural, {x:S} plural capitalised."""

    def format_field(self, value: str, format_spec: str) -> str:
        if format_spec == "a":
            return article(value)
        if format_spec == "A":
            return capital(article(value))
        if format_spec == "C":
            return capital(value.removeprefix("~"))
        if format_spec == "s":
            return plural(value)
        if format_spec == "S":
            return capital(plural(value))
        return value.removeprefix("~")


_FILLER = _Filler()


def fill(template: str, row: Row) -> str:
    """The template with its slots taken from the row."""
    return _FILLER.format(template, **row)


def table(columns: str, text: str) -> list[Row]:
    """Rows from "a|b; c|d" text; the columns are named in one string."""
    names = columns.split()
    rows = []
    for entry in re.split(r"[;\n]", text):
        if not entry.strip():
            continue
        cells = [cell.strip() for cell in entry.split("|")]
        if len(cells) != len(names):
            raise ValueError(f"{entry.strip()!r} has {len(cells)} cells, expected {names}")
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def lines(text: str) -> list[str]:
    """The non-empty lines of a block, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Topic:
    """One kind of question. `expect` are words of which a right answer holds at least one; an empty
    `expect` means that the topic is never used for the held-out questions."""

    name: str
    rows: list[Row]
    questions: list[str]
    answers: list[str]
    expect: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    follow_ups: list[str] = field(default_factory=list)
    weight: float = 1.0
    plain: bool = False  # greetings and the like: no "Can you tell me" in front of them

    def expected(self, row: Row) -> list[str]:
        """The acceptable words for a row, in lower case."""
        words: list[str] = []
        for template in self.expect:
            for word in fill(template, row).lower().split("/"):
                if word.strip() and word.strip() not in words:
                    words.append(word.strip())
        return words
