"""Tiny stories, small reading tasks, names and echoes: things that are filled in, not known.

Reads: nothing. Writes: nothing. Refuses: nothing.

They teach the model to use what the question says, which a table of facts cannot.
"""

from __future__ import annotations

import random

from .core import article, capital
from .living import ANIMALS

NAMES = [
    "Tom",
    "Anna",
    "Ben",
    "Mia",
    "Sam",
    "Lily",
    "Jack",
    "Emma",
    "Leo",
    "Nina",
    "Max",
    "Sara",
    "Paul",
    "Ella",
    "Tim",
    "Julia",
    "Peter",
    "Rosa",
    "David",
    "Kate",
    "Ali",
    "Maria",
    "Omar",
    "Lucy",
    "Finn",
    "Clara",
    "Noah",
    "Zoe",
    "Adam",
    "Eva",
    "Mark",
    "Helen",
]
_GIRLS = {
    "Anna",
    "Mia",
    "Lily",
    "Emma",
    "Nina",
    "Sara",
    "Ella",
    "Julia",
    "Rosa",
    "Kate",
    "Maria",
    "Lucy",
    "Clara",
    "Zoe",
    "Eva",
    "Helen",
}
THINGS = [
    "ball",
    "book",
    "hat",
    "car",
    "bag",
    "kite",
    "cup",
    "pen",
    "box",
    "bike",
    "coat",
    "doll",
    "lamp",
    "chair",
    "boat",
    "drum",
    "clock",
    "key",
]
COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "brown",
    "pink",
    "purple",
    "orange",
    "grey",
]
PLACES = [
    "in the garden", "in the kitchen", "at school", "in the park", "on the farm", "near the lake",
    "in the forest", "at home", "on the beach", "in the city", "in the library", "at the market",
]  # fmt: skip
FEELS = ["happy", "sad", "tired", "hungry", "cold", "proud", "angry", "glad", "afraid", "calm"]
FOODS = [
    "bread",
    "soup",
    "apples",
    "cake",
    "rice",
    "cheese",
    "fish",
    "salad",
    "eggs",
    "pears",
    "nuts",
    "honey",
]
ACTS = [
    ("reads a book", "read a book"), ("plays football", "played football"),
    ("drinks tea", "drank tea"), ("bakes a cake", "baked a cake"), ("draws a house", "drew a house"),
    ("feeds the cat", "fed the cat"), ("waters the flowers", "watered the flowers"),
    ("sings a song", "sang a song"), ("cleans the room", "cleaned the room"),
    ("writes a letter", "wrote a letter"), ("rides a bike", "rode a bike"), ("cooks soup", "cooked soup"),
    ("plays the piano", "played the piano"), ("looks for a key", "looked for a key"),
]  # fmt: skip
WORDS = [
    "apple",
    "house",
    "river",
    "table",
    "happy",
    "green",
    "window",
    "garden",
    "music",
    "winter",
    "letter",
    "friend",
    "water",
    "yellow",
    "silver",
    "paper",
    "orange",
    "pencil",
    "summer",
    "flower",
    "bread",
    "story",
    "mountain",
    "cloud",
    "candle",
    "bridge",
    "market",
]


def _he(name: str) -> str:
    return "she" if name in _GIRLS else "he"


def _his(name: str) -> str:
    return "her" if name in _GIRLS else "his"


def story(rng: random.Random) -> tuple[str, str]:
    """A request for a story and a story of three or four sentences."""
    if rng.random() < 0.5:
        row = rng.choice(ANIMALS)
        hero, a_hero = row["animal"], article(row["animal"])
        place = row["place"]
        friend = rng.choice(ANIMALS)["animal"]
        food = row["food"].removeprefix("~")
        size = rng.choice(["little", "small", "big", "young", "old", "clever", "kind", "brave"])
        request = rng.choice([
            f"Tell me a story about {a_hero}.", f"Tell me a short story about {a_hero}.",
            f"Please write a short story about {a_hero}.", f"Can you tell me a story about {a_hero}?",
            f"I want to hear a story about {a_hero}.", f"Write a tiny story about {a_hero}.",
        ])  # fmt: skip
        first = f"{rng.choice(['Once there was', 'Long ago there was'])} {article(f'{size} {hero}')}. It lived {place}."
        middle = rng.choice([
            f"One day it met {article(friend)} and they became friends.",
            f"It was hungry and looked for {food}. At last it found some.",
            "One night it could not sleep, so it looked at the stars.",
            f"One morning it helped {article(friend)} to find the way home.",
            "It wanted to see the world, so it went on a long walk.",
        ])  # fmt: skip
    else:
        name = rng.choice(NAMES)
        he, his = _he(name), _his(name)
        thing, colour = rng.choice(THINGS), rng.choice(COLOURS)
        request = rng.choice([
            "Tell me a story.", "Tell me a short story.", "Please tell me a story.", "Write a short story.",
            f"Tell me a story about {name}.", f"Write a short story about {name}.",
            "Can you tell me a story?", "I would like to hear a story.",
        ])  # fmt: skip
        first = f"One day {name} went out and lost {his} {colour} {thing}."
        middle = rng.choice([
            f"{capital(he)} looked for it {rng.choice(PLACES)}. A friend helped and they found it.",
            f"{capital(he)} was {rng.choice(['sad', 'angry', 'worried'])}, but then a dog brought it back.",
            f"A kind woman found it {rng.choice(PLACES)} and gave it to {name}.",
        ])  # fmt: skip
    end = rng.choice([
        "In the end everyone was happy.", "It was a very good day.", "Then they all went home.",
        "After that they slept well.", "That is the end of the story.",
    ])  # fmt: skip
    return request, f"{first} {middle} {end}"


def reading(rng: random.Random) -> tuple[str, str]:
    """A small text with a question, and the answer that the text holds."""
    one, two = rng.sample(NAMES, 2)
    thing, other = rng.sample(THINGS, 2)
    colour, shade = rng.sample(COLOURS, 2)
    place, there = rng.sample(PLACES, 2)
    food, meal = rng.sample(FOODS, 2)
    (act, _), (deed, _) = rng.sample(ACTS, 2)
    kind = rng.randrange(9)
    if kind == 0:
        text = f"{one} has {article(f'{colour} {thing}')}."
        return (
            f"{text} {rng.choice([f'What colour is the {thing}?', f'Which colour is the {thing}?'])}",
            rng.choice([f"The {thing} is {colour}.", f"It is {colour}."]),
        )
    if kind == 1:
        text = f"{one} has {article(thing)} and {two} has {article(other)}."
        who, what = rng.choice([(one, thing), (two, other)])
        return (
            f"{text} {rng.choice([f'What does {who} have?', f'Tell me what {who} has.'])}",
            rng.choice(
                [f"{who} has {article(what)}.", f"{capital(_he(who))} has {article(what)}."]
            ),
        )
    if kind == 2:
        text = f"{one} is {place} and {two} is {there}."
        who, where = rng.choice([(one, place), (two, there)])
        return f"{text} Where is {who}?", rng.choice(
            [f"{who} is {where}.", f"{capital(_he(who))} is {where}."]
        )
    if kind == 3:
        text = f"{one} eats {food} and {two} eats {meal}."
        who, what = rng.choice([(one, food), (two, meal)])
        if rng.random() < 0.5:
            return f"{text} Who eats {what}?", f"{who} eats {what}."
        return f"{text} What does {who} eat?", f"{who} eats {what}."
    if kind == 4:
        text = f"{one} {act} and {two} {deed}."
        who, what = rng.choice([(one, act), (two, deed)])
        if rng.random() < 0.5:
            return f"{text} Who {what}?", f"{who} {what}."
        return f"{text} What does {who} do?", f"{who} {what}."
    if kind == 5:
        feel = rng.choice(FEELS)
        text = f"{one} is {feel} because {_he(one)} lost {_his(one)} {thing}."
        if rng.random() < 0.5:
            return f"{text} How does {one} feel?", f"{one} is {feel}."
        return f"{text} What did {one} lose?", f"{one} lost {_his(one)} {thing}."
    if kind == 6:
        text = f"The {thing} is {colour} and the {other} is {shade}."
        what, hue = rng.choice([(thing, colour), (other, shade)])
        return f"{text} What colour is the {what}?", f"The {what} is {hue}."
    if kind == 7:
        n = rng.randint(2, 12)
        text = f"{one} has {n} {food if food.endswith('s') else 'apples'} {place}."
        noun = food if food.endswith("s") else "apples"
        return f"{text} How many {noun} does {one} have?", f"{one} has {n} {noun}."
    text = f"Yesterday {one} met {two} {place}."
    return rng.choice([
        (f"{text} Who met {two}?", f"{one} met {two}."),
        (f"{text} Where did {one} meet {two}?", f"{one} met {two} {place}."),
        (f"{text} Whom did {one} meet?", f"{one} met {two}."),
    ])  # fmt: skip


def echo(rng: random.Random) -> tuple[str, str]:
    """A word or a sentence to say again."""
    if rng.random() < 0.4:
        word = rng.choice(WORDS)
        return (
            rng.choice([
                f"Say the word {word}.", f"Please say {word}.", f'Repeat the word "{word}".',
                f"Can you say {word}?", f"Write the word {word}.", f"Say {word} for me, please.",
            ]),
            rng.choice([f"{capital(word)}.", f"{capital(word)}!"]),
        )  # fmt: skip
    name, thing, colour = rng.choice(NAMES), rng.choice(THINGS), rng.choice(COLOURS)
    act, past = rng.choice(ACTS)
    place = rng.choice(PLACES)
    said = rng.choice([
        f"{name} {act} {place}.", f"{name} {past} {place}.", f"The {thing} is {colour}.",
        f"{name} has {article(f'{colour} {thing}')}.", f"I like {rng.choice(FOODS)}.",
    ])  # fmt: skip
    return rng.choice(
        [f"Repeat this: {said}", f"Say this again: {said}", f"Please repeat: {said}"]
    ), said


def names(rng: random.Random) -> list[tuple[str, str]]:
    """An introduction; sometimes the name, or another thing said, is asked for later."""
    name = rng.choice(NAMES)
    hello = rng.choice(["", "Hello! ", "Hi! ", "Hi, ", "Good morning. "])
    first = (
        hello + rng.choice([f"My name is {name}.", f"I am {name}.", f"my name is {name}"])
        if not hello.endswith(", ")
        else hello + rng.choice([f"I am {name}.", f"my name is {name}."])
    )
    turns = [
        (
            first,
            rng.choice([
                f"Hello, {name}! Nice to meet you.", f"Hi, {name}! How can I help you?",
                f"Nice to meet you, {name}. I am a small demonstration model.",
            ]),
        )
    ]  # fmt: skip
    if rng.random() < 0.7:
        turns.append(
            (
                rng.choice(
                    ["What is my name?", "Do you know my name?", "Who am I?", "What am I called?"]
                ),
                rng.choice(
                    [
                        f"Your name is {name}.",
                        f"You are {name}.",
                        f"You told me that you are {name}.",
                    ]
                ),
            )
        )
    return turns


def likes(rng: random.Random) -> list[tuple[str, str]]:
    """Something the person likes or has, asked for again later."""
    food, thing, colour = rng.choice(FOODS), rng.choice(THINGS), rng.choice(COLOURS)
    city = rng.choice(
        [
            "Paris",
            "Rome",
            "London",
            "Berlin",
            "Madrid",
            "Tokyo",
            "Vienna",
            "Oslo",
            "Dublin",
            "Lisbon",
        ]
    )
    told, ask, recall = rng.choice([
        (f"I like {food}.", "What do I like?", f"You like {food}."),
        (f"I have {article(f'{colour} {thing}')}.", f"What colour is my {thing}?", f"Your {thing} is {colour}."),
        (f"I live in {city}.", "Where do I live?", f"You live in {city}."),
        (f"My favourite colour is {colour}.", "What is my favourite colour?", f"Your favourite colour is {colour}."),
        (f"I am from {city}.", "Where am I from?", f"You are from {city}."),
    ])  # fmt: skip
    reply = rng.choice(
        ["That is nice!", "That is good to know.", "How nice! Thank you for telling me."]
    )
    turns = [(told, reply)]
    if rng.random() < 0.7:
        turns.append((ask, recall))
    return turns
