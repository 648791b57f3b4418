"""The customer service example: its form, its house style and its one policy."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DATA = EXAMPLES / "customer_service.csv"

ORDER_NUMBER = re.compile(r"\b\d{5}\b")
ASKS = "your order number"
THANKS = "Thank you for the order number"
CLOSERS = (
    "Please let me know if I can help with anything else.",
    "Is there anything else I can help you with?",
    "I am happy to help with any other question.",
    "I am here to help if you need anything else.",
    "Thank you for your patience.",
    "Thank you for shopping with us.",
    "Have a lovely day.",
)

# topic: (pattern that the questions show, rows at least)
TOPICS = {
    "order status": (r"status|where is my order|my order", 10),
    "changing an order": (r"\b(change|add|swap|remove|upgrade)\b", 15),
    "cancelling": (r"cancel", 10),
    "delivery time": (r"how long|when (will|should)|arrive|fastest|next day|by friday", 15),
    "tracking": (r"track", 10),
    "address": (r"address|moved|house number", 12),
    "late or missing": (r"\b(late|missing|lost|never (arrived|received)|stole)\b", 8),
    "damaged or wrong": (r"broken|damaged|crack|scrach|wrong|faulty|leaked", 12),
    "refund": (r"refund|refnd|money back", 12),
    "return": (r"\breturn|send it back|send back|sending back", 12),
    "exchange": (r"exchang|swap", 8),
    "password and login": (r"pass?word|log ?in|sign in|locked|reset", 10),
    "account": (r"account", 12),
    "invoice": (r"invoi?ce|receipt", 12),
    "payment": (r"\bpay|card|charged", 25),
    "voucher and discount": (r"voucher|discount|discont|\bsale\b|price", 12),
    "gift card": (r"gift card", 8),
    "warranty and repair": (r"warranty|repair|stopped working", 8),
    "availability": (r"stock|sold out|available|left", 6),
    "sizes": (r"\bsize|\bfit\b", 12),
    "newsletter and subscription": (r"newsletter|subscri", 9),
    "complaint": (r"complain|terrible|angry|worst|rude|not happy|unhappy|acceptable", 6),
    "a person and hours": (r"person|human|agent|manager|phone|call|open", 10),
    "shipping cost": (
        r"(cost|charge|free|pay).*(deliver|ship)|(deliver|ship|shiping).*(cost|free|fee)",
        8,
    ),
    "international": (r"countr|abroad|canada|germany|brasil|france|spain|customs|euros", 8),
    "privacy": (r"\bdata\b|cookies|stored", 6),
    "thanks": (r"thank|thanks|thx|happy|great|love", 6),
    "vague": (r"need some help|problem with my order|does not work|question about", 4),
}

# questions about one parcel or item of the customer's: no help is possible without the order
NEEDS_ORDER = re.compile(
    r"^(where is my order|my parcel is late|i want to cancel my order|i received the wrong|i have received the wrong"
    r"|there is a problem with my order)"
    r"|arrived broken|never arrived|damaged and|is empty|was empty|a big scrach|have not received anything"
    r"|one item is missing|parts are missing|stole my package|still no money|havnt got my refnd"
    r"|stopped working\b|charged twice|wrong house number|company name|moved last week|does not turn on"
    r"|wheres my ordr|still says processing|has not moved|suposed to come|has not come|broke after"
    r"|ordered a red one|exchange my shoes|cancel my ordr|ordered the same thing twice|nobody has it",
    re.IGNORECASE,
)

UNIT = r"(?:working days?|days?|hours?|minutes?|weeks?|years?|percent|dollars?|countries|pieces)"
FIGURE = re.compile(rf"\b(\d+(?: to \d+)? (?:more )?{UNIT})\b")
CLOCK = re.compile(r"\b(\d+ (?:am|pm))\b")

# in a sentence that matches the first pattern, every match of the second is one of the values
POLICY = [
    (r"refund.*working day|working day.*refund", r"(?<!takes up to )\b(\d+) working days?", {"5"}),
    (r"standard delivery.*working day", r"(\d+ to \d+) working days", {"3 to 5"}),
    (r"international delivery.*working day", r"(\d+ to \d+) working days", {"7 to 14"}),
    (r"international delivery.*costs", r"costs (\d+) dollars", {"15"}),
    (r"^express delivery.*costs", r"^express delivery.*?costs (\d+) dollars", {"9"}),
    (r"^standard delivery.*costs", r"^standard delivery.*?costs (\d+) dollars", {"4"}),
    (r"free (for orders of|from) ", r"free (?:for orders of|from) (\d+) dollars", {"50"}),
    (r"search.*takes", r"takes up to (\d+) working days", {"3"}),
    (r"repair takes", r"up to (\d+) working days", {"10"}),
    (r"manager.*working day", r"within (\d+) working days", {"2"}),
    (r"warranty of", r"warranty of (\d+) years", {"2"}),
    (r"(return|exchange).*within \d+ days", r"within (\d+) days", {"30"}),
    (r"photo of.*within \d+ days", r"within (\d+) days", {"14"}),
    (r"gift card.*years|valid for 3 years", r"(\d+) years", {"3"}),
    (r"pick-up point.*\d+ days", r"for (\d+) days", {"7"}),
    (r"next parcel is due", r"at least (\d+) days", {"3"}),
    (r"in stock within", r"within (\d+ to \d+) weeks", {"2 to 4"}),
    (r"erase", r"within (\d+) days", {"30"}),
    (r"emails stop", r"(\d+) working days", {"2"}),
    (r"gift wrap costs", r"gift wrap costs (\d+) dollars", {"3"}),
]


def read() -> list[tuple[str, str]]:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    assert rows[0] == ["question", "answer"]
    assert all(len(row) == 2 for row in rows)
    return [(row[0], row[1]) for row in rows[1:]]


ROWS = read()


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def shingles(text: str) -> frozenset[str]:
    text = " ".join(text.lower().split())
    return frozenset(text[i : i + 5] for i in range(max(1, len(text) - 4)))


def customer_section() -> str:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    section = text.split("## customer_service.csv", 1)[1].split("\n## ", 1)[0]
    return " ".join(section.split())


def test_enough_rows_and_the_readme_says_how_many() -> None:
    assert len(ROWS) >= 320
    assert f"{len(ROWS)} questions" in customer_section()


def test_the_file_is_plain_text() -> None:
    raw = DATA.read_bytes()
    raw.decode("ascii")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == len(ROWS) + 1, "a row is one line"


@pytest.mark.parametrize("column", [0, 1], ids=["question", "answer"])
def test_cells_are_clean_and_unlike(column: int) -> None:
    cells = [row[column] for row in ROWS]
    for cell in cells:
        assert cell, "empty cell"
        assert cell == " ".join(cell.split()), cell
        assert not re.search(r"[*_`#<>|@]|https?:|www\.", cell), cell
    repeated = [text for text, count in Counter(map(plain, cells)).items() if count > 1]
    assert not repeated


def test_lengths() -> None:
    for question, answer in ROWS:
        assert 5 <= len(question.split()) <= 40, question
        assert 25 <= len(answer.split()) <= 60, answer
    assert sum(len(question.split()) >= 20 for question, _ in ROWS) >= 40, "long questions"
    assert sum(len(question.split()) <= 8 for question, _ in ROWS) >= 60, "short questions"


def test_near_duplicate_questions_are_rare() -> None:
    sets = [shingles(question) for question, _ in ROWS]
    near: set[int] = set()
    for i, one in enumerate(sets):
        for j in range(i):
            if len(one & sets[j]) >= 0.8 * len(one | sets[j]):
                near |= {i, j}
    assert len(near) < 0.03 * len(ROWS), [ROWS[i][0] for i in sorted(near)]


@pytest.mark.parametrize("topic", TOPICS)
def test_topic_is_covered(topic: str) -> None:
    pattern, least = TOPICS[topic]
    found = sum(bool(re.search(pattern, question, re.IGNORECASE)) for question, _ in ROWS)
    assert found >= least


def test_closes_politely() -> None:
    used = Counter(sentences(answer)[-1] for _, answer in ROWS)
    assert set(used) <= set(CLOSERS)
    assert max(used.values()) <= 0.4 * len(ROWS), "one closer should not drown the others"


def test_no_order_number_is_asked_for_twice() -> None:
    given = 0
    for question, answer in ROWS:
        if ORDER_NUMBER.search(question):
            given += 1
            assert ASKS not in answer, question
            assert answer.startswith(THANKS), question
        else:
            assert THANKS not in answer, question
        assert not ORDER_NUMBER.search(answer), "an answer repeats no number"
    assert given >= 20


def test_order_number_is_asked_for_where_it_is_needed() -> None:
    needing = [(q, a) for q, a in ROWS if NEEDS_ORDER.search(q) and not ORDER_NUMBER.search(q)]
    assert len(needing) >= 20
    for question, answer in needing:
        assert ASKS in answer, question
    assert sum(ASKS in answer for _, answer in ROWS) >= 0.3 * len(ROWS)


@pytest.mark.parametrize(("where", "figure", "allowed"), POLICY, ids=[rule[0] for rule in POLICY])
def test_one_policy(where: str, figure: str, allowed: set[str]) -> None:
    seen = 0
    for _, answer in ROWS:
        for sentence in sentences(answer):
            lower = sentence.lower()
            if re.search(where, lower):
                for value in re.findall(figure, lower):
                    seen += 1
                    assert value in allowed, sentence
    assert seen, "the rule matches no sentence"


def test_opening_hours_are_always_the_same() -> None:
    hours = "Monday to Friday from 8 am to 6 pm and Saturday from 9 am to 1 pm"
    said = [answer for _, answer in ROWS if "8 am to 6 pm" in answer or "Saturday from" in answer]
    assert len(said) >= 10
    for answer in said:
        assert hours in answer, answer


def test_every_figure_is_in_the_readme() -> None:
    section = customer_section()
    policy = set(FIGURE.findall(section)) | set(CLOCK.findall(section))
    # said for one case only: an example, a difference, advice
    policy |= {"5 dollars", "10 am"}
    for _, answer in ROWS:
        for figure in FIGURE.findall(answer) + CLOCK.findall(answer):
            assert figure in policy, f"{figure}: {answer}"
