"""Small numbers: sums and differences up to twenty, counting, doubles, what comes next.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from .core import Row, Topic, lines

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def _sums() -> list[Row]:
    return [
        {
            "a": str(a),
            "b": str(b),
            "A": NUMBERS[a],
            "B": NUMBERS[b],
            "c": str(a + b),
            "C": NUMBERS[a + b],
        }
        for a in range(21)
        for b in range(21 - a)
    ]


def _differences() -> list[Row]:
    return [
        {
            "a": str(a),
            "b": str(b),
            "A": NUMBERS[a],
            "B": NUMBERS[b],
            "c": str(a - b),
            "C": NUMBERS[a - b],
        }
        for a in range(21)
        for b in range(a + 1)
    ]


def _neighbours() -> list[Row]:
    return [
        {"n": str(n), "N": NUMBERS[n], "next": str(n + 1), "NEXT": NUMBERS[n + 1],
         "last": str(n - 1), "LAST": NUMBERS[n - 1]}
        for n in range(1, 20)
    ]  # fmt: skip


def _counts() -> list[Row]:
    rows = []
    for a in range(13):
        for b in range(a + 2, min(a + 9, 21)):
            digits = [str(i) for i in range(a, b + 1)]
            rows.append(
                {"a": digits[0], "b": digits[-1], "list": ", ".join(digits), "mid": digits[-2]}
            )
    return rows


def _parity() -> list[Row]:
    return [
        {"n": str(n), "N": NUMBERS[n], "kind": "even" if n % 2 == 0 else "odd"}
        for n in range(1, 21)
    ]


def _doubles() -> list[Row]:
    return [
        {"n": str(n), "N": NUMBERS[n], "d": str(2 * n), "D": NUMBERS[2 * n]} for n in range(1, 11)
    ]


def _bigger_numbers() -> list[Row]:
    rows = []
    for a in range(21):
        for b in range(21):
            if a != b:
                rows.append(
                    {"a": str(a), "b": str(b), "big": str(max(a, b)), "small": str(min(a, b))}
                )
    return rows


TOPICS = [
    Topic(
        "sum",
        _sums(),
        lines("""
        What is {a} plus {b}?
        What is {a} + {b}?
        How much is {a} plus {b}?
        How much is {a} and {b}?
        What is {A} plus {B}?
        How much is {A} and {B}?
        {a} + {b} = ?
        Add {a} and {b}.
        What do you get when you add {a} and {b}?
        What is the sum of {a} and {b}?
        I have {a} apples and get {b} more. How many do I have?
        Tom has {a} balls and Anna has {b} balls. How many balls do they have together?
        """),
        lines("""
        {a} plus {b} is {c}.
        {a} + {b} = {c}.
        It is {c}.
        The answer is {c}.
        {A:C} plus {B} is {C}.
        """),
        ["{c}/{C}"],
        statements=["{a} plus {b} is {c}.", "{A:C} and {B} make {C}."],
        follow_ups=["And {a} plus {b}?", "And {a} + {b}?"],
        weight=3.0,
    ),
    Topic(
        "difference",
        _differences(),
        lines("""
        What is {a} minus {b}?
        What is {a} - {b}?
        How much is {a} minus {b}?
        What is {A} minus {B}?
        {a} - {b} = ?
        Take {b} from {a}. What is left?
        What is left when you take {b} from {a}?
        I have {a} apples and eat {b}. How many are left?
        """),
        lines("""
        {a} minus {b} is {c}.
        {a} - {b} = {c}.
        It is {c}.
        The answer is {c}.
        {A:C} minus {B} is {C}.
        """),
        ["{c}/{C}"],
        statements=["{a} minus {b} is {c}."],
        follow_ups=["And {a} minus {b}?", "And {a} - {b}?"],
        weight=2.4,
    ),
    Topic(
        "number_next",
        _neighbours(),
        lines("""
        Which number comes after {n}?
        What number comes after {n}?
        What comes after {N}?
        What is the next number after {n}?
        Tell me the number after {N}.
        """),
        ["{next} comes after {n}.", "The number after {n} is {next}.", "It is {next}."],
        ["{next}/{NEXT}"],
        statements=["{NEXT:C} comes after {N}."],
        follow_ups=["And after {n}?"],
        weight=0.5,
    ),
    Topic(
        "number_last",
        _neighbours(),
        lines("""
        Which number comes before {n}?
        What number comes before {N}?
        What is the number before {n}?
        Tell me the number before {N}.
        """),
        ["{last} comes before {n}.", "The number before {n} is {last}.", "It is {last}."],
        ["{last}/{LAST}"],
        statements=["{LAST:C} comes before {N}."],
        follow_ups=["And before {n}?"],
        weight=0.5,
    ),
    Topic(
        "count",
        _counts(),
        lines("""
        Count from {a} to {b}.
        Please count from {a} to {b}.
        Can you count from {a} to {b}?
        Which numbers are from {a} to {b}?
        """),
        ["{list}.", "Here you are: {list}."],
        ["{mid}"],
        statements=["We count: {list}."],
        weight=0.6,
    ),
    Topic(
        "parity",
        _parity(),
        lines("""
        Is {n} even or odd?
        Is {N} an even or an odd number?
        Is the number {n} odd or even?
        Tell me if {n} is even or odd.
        """),
        ["{n} is {kind}.", "The number {n} is {kind}.", "It is {kind}."],
        ["{kind}"],
        statements=["{n} is an {kind} number."],
        follow_ups=["And {n}?"],
        weight=0.5,
    ),
    Topic(
        "double",
        _doubles(),
        lines("""
        What is double {n}?
        What is two times {n}?
        How much is twice {n}?
        What is the double of {N}?
        """),
        ["Two times {n} is {d}.", "It is {d}.", "The double of {n} is {d}."],
        ["{d}/{D}"],
        statements=["Two times {n} is {d}."],
        weight=0.4,
    ),
    Topic(
        "half",
        _doubles(),
        ["What is half of {d}?", "How much is half of {d}?", "What is {d} divided by 2?"],
        ["Half of {d} is {n}.", "It is {n}."],
        ["{n}/{N}"],
        statements=["Half of {d} is {n}."],
        weight=0.3,
    ),
    Topic(
        "bigger_number",
        _bigger_numbers(),
        lines("""
        Which number is bigger, {a} or {b}?
        Which is more, {a} or {b}?
        What is more, {a} or {b}?
        Which number is larger: {a} or {b}?
        """),
        ["{big} is more than {small}.", "{big} is bigger than {small}.", "{big} is bigger."],
        [],
        statements=["{big} is more than {small}."],
        weight=0.8,
    ),
]
