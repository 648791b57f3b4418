"""Facts about words, letters, sizes and family.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from . import numbers
from .core import Row, Topic, lines, table

OPPOSITES = table(
    "one two",
    """
    big|small; hot|cold; up|down; day|night; happy|sad; fast|slow; old|young; open|closed; good|bad
    black|white; long|short; high|low; left|right; wet|dry; hard|soft; rich|poor; strong|weak
    early|late; full|empty; clean|dirty; light|dark; near|far; thick|thin; loud|quiet; inside|outside
    first|last; easy|difficult; true|false; yes|no; in|out; on|off; love|hate; friend|enemy; begin|end
    win|lose; push|pull; heavy|light; sweet|sour; new|old; right|wrong; wide|narrow; deep|shallow
    come|go; give|take; laugh|cry; sit|stand; start|stop; above|below; before|after; always|never
    more|less; many|few; north|south; east|west; summer|winter; morning|evening; boy|girl; man|woman
    brother|sister; king|queen; father|mother; awake|asleep; alive|dead; brave|afraid; sharp|blunt
    tall|short; smooth|rough; top|bottom; front|back; safe|dangerous; cheap|expensive; kind|cruel
    question|answer; remember|forget; find|lose; war|peace; tight|loose; warm|cool; polite|rude
    """,
)
# a word with two opposites above would teach two answers: accept both
_BOTH: dict[str, list[str]] = {}
for _row in OPPOSITES:
    _BOTH.setdefault(_row["one"], []).append(_row["two"])
OPPOSITES += [
    {"one": r["two"], "two": r["one"]}
    for r in OPPOSITES
    if r["two"] not in _BOTH and r["two"] not in ("light", "short", "old", "lose")
]
for _row in OPPOSITES:
    _row["key"] = "/".join(_BOTH.get(_row["one"], [_row["two"]]))

RHYMES = table(
    "one two",
    """
    cat|hat; dog|frog; house|mouse; tree|bee; car|star; sun|run; moon|spoon; fish|dish; boat|goat
    book|cook; ball|wall; day|play; night|light; king|ring; bed|red; cake|lake; rain|train; snow|go
    hand|sand; bear|chair; fox|box; pen|hen; nose|rose; door|floor; bread|head; sky|fly; key|tea
    blue|shoe; green|queen; cold|gold; town|brown; feet|street; bell|well; sing|ring; log|dog
    """,
)
RHYMES += [{"one": r["two"], "two": r["one"]} for r in RHYMES if r["two"] not in ("ring", "dog")]

PLURALS = table(
    "one many",
    """
    cat|cats; dog|dogs; mouse|mice; goose|geese; child|children; foot|feet; tooth|teeth; man|men
    woman|women; sheep|sheep; fish|fish; box|boxes; baby|babies; leaf|leaves; knife|knives; wolf|wolves
    city|cities; bus|buses; house|houses; apple|apples; person|people; berry|berries; potato|potatoes
    tomato|tomatoes; watch|watches; glass|glasses; ox|oxen; story|stories; life|lives; bird|birds
    key|keys; day|days; toy|toys; lady|ladies; brush|brushes; fox|foxes; tree|trees; friend|friends
    """,
)
PASTS = table(
    "now past",
    """
    go|went; see|saw; eat|ate; run|ran; come|came; take|took; give|gave; make|made; say|said; buy|bought
    think|thought; bring|brought; write|wrote; read|read; drink|drank; sing|sang; swim|swam; fly|flew
    know|knew; find|found; sleep|slept; sit|sat; stand|stood; fall|fell; begin|began; break|broke
    walk|walked; play|played; work|worked; help|helped; speak|spoke; teach|taught; catch|caught
    drive|drove; grow|grew; hear|heard; keep|kept; lose|lost; meet|met; tell|told; win|won; feel|felt
    """,
)

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTERS = [
    {"letter": c, "next": _ALPHABET[i + 1], "last": _ALPHABET[i - 1] if i else ""}
    for i, c in enumerate(_ALPHABET[:-1])
]
_WORDS = [
    "cat",
    "dog",
    "sun",
    "moon",
    "tree",
    "fish",
    "book",
    "hand",
    "milk",
    "bread",
    "house",
    "water",
    "apple",
    "table",
    "chair",
    "green",
    "blue",
    "red",
    "bird",
    "cow",
    "egg",
    "ice",
    "king",
    "lamp",
    "nose",
    "queen",
    "rain",
    "snow",
    "train",
    "under",
    "violin",
    "window",
    "yellow",
    "zebra",
    "door",
    "farm",
    "garden",
    "hat",
    "jam",
    "kite",
    "lemon",
    "mouse",
    "night",
    "orange",
    "pen",
    "road",
    "school",
    "tea",
    "flower",
    "happy",
    "winter",
]
SPELL = [
    {
        "word": w,
        "first": w[0].upper(),
        "last": w[-1].upper(),
        "spelt": "-".join(w),
        "n": str(len(w)),
    }
    for w in _WORDS
]

_BY_SIZE = [
    "ant",
    "bee",
    "mouse",
    "frog",
    "rabbit",
    "cat",
    "dog",
    "sheep",
    "pig",
    "lion",
    "cow",
    "horse",
    "giraffe",
    "elephant",
    "whale",
]
_BY_SPEED = [
    "snail",
    "turtle",
    "hen",
    "pig",
    "man",
    "dog",
    "rabbit",
    "horse",
    "car",
    "train",
    "plane",
    "rocket",
]
_BY_WEIGHT = [
    "feather",
    "leaf",
    "pen",
    "apple",
    "book",
    "chair",
    "table",
    "bicycle",
    "car",
    "bus",
    "train",
]


def _pairs(ordered: list[str]) -> list[Row]:
    rows = []
    for i, less in enumerate(ordered):
        for j, more in enumerate(ordered):
            if j - i >= 2:
                rows.append({"less": less, "more": more, "x": less, "y": more})
                rows.append({"less": less, "more": more, "x": more, "y": less})
    return rows


FAMILY = table(
    "who name",
    """
    mother's mother|grandmother; mother's father|grandfather; father's mother|grandmother
    father's father|grandfather; mother's sister|aunt; father's sister|aunt; mother's brother|uncle
    father's brother|uncle; uncle's child|cousin; aunt's child|cousin; sister's son|nephew
    brother's son|nephew; sister's daughter|niece; brother's daughter|niece; son's son|grandson
    daughter's daughter|granddaughter; mother's husband|father; father's wife|mother
    """,
)
CATEGORIES = table(
    "kind items key",
    """
    fruits|an apple, a banana and a pear|apple/banana/pear
    vegetables|a carrot, an onion and a potato|carrot/onion/potato
    colours|red, blue and green|red/blue/green; animals|a cat, a dog and a horse|cat/dog/horse
    farm animals|a cow, a pig and a sheep|cow/pig/sheep; birds|an owl, a swan and a duck|owl/swan/duck
    insects|an ant, a bee and a butterfly|ant/bee/butterfly
    wild animals|a lion, a bear and a wolf|lion/bear/wolf
    days of the week|Monday, Tuesday and Friday|monday/tuesday/friday
    months|January, May and July|january/may/july; seasons|spring, summer and winter|spring/summer/winter
    countries|France, Japan and Brazil|france/japan/brazil; cities|Paris, Rome and Tokyo|paris/rome/tokyo
    drinks|water, milk and tea|water/milk/tea; clothes|a shirt, a coat and a hat|shirt/coat/hat
    shapes|a circle, a square and a triangle|circle/square/triangle
    vehicles|a car, a bus and a train|car/bus/train; jobs|a teacher, a doctor and a baker|teacher/doctor/baker
    tools|a hammer, a saw and a spade|hammer/saw/spade; rooms|the kitchen, the bathroom and the bedroom|kitchen/bathroom/bedroom
    sports|football, tennis and swimming|football/tennis/swimming; toys|a ball, a doll and a kite|ball/doll/kite
    flowers|a rose, a tulip and a daisy|rose/tulip/daisy; trees|an oak, a birch and an apple tree|oak/birch/tree
    planets|Earth, Mars and Venus|earth/mars/venus; languages|English, French and Spanish|english/french/spanish
    numbers|one, two and three|one/two/three; continents|Europe, Asia and Africa|europe/asia/africa
    things in a school|a book, a pen and a ruler|book/pen/ruler; things in a kitchen|a knife, a pan and a cup|knife/pan/cup
    pets|a cat, a dog and a rabbit|cat/dog/rabbit; sweet things|honey, sugar and jam|honey/sugar/jam
    musical instruments|a piano, a violin and a drum|piano/violin/drum; body parts|the head, the arm and the leg|head/arm/leg
    """,
)

TOPICS = [
    Topic(
        "opposite",
        OPPOSITES,
        lines("""
        What is the opposite of {one}?
        What is the opposite of "{one}"?
        Which word is the opposite of {one}?
        Tell me the opposite of {one}.
        What word means the opposite of {one}?
        Give me the opposite of {one}.
        Do you know the opposite of {one}?
        Say the opposite of {one}.
        I need the opposite of the word {one}.
        """),
        lines("""
        The opposite of {one} is {two}.
        It is {two}.
        {two:C} is the opposite of {one}.
        The opposite is {two}.
        """),
        ["{key}"],
        statements=["The opposite of {one} is {two}.", "It is not {one}, it is {two}."],
        follow_ups=["And of {one}?", "And {one}?", "What about {one}?"],
        weight=1.8,
    ),
    Topic(
        "rhyme",
        RHYMES,
        lines("""
        What rhymes with {one}?
        Which word rhymes with {one}?
        Tell me a word that rhymes with {one}.
        Give me a rhyme for {one}.
        Find a word that sounds like {one}.
        Do you know a word that rhymes with {one}?
        """),
        lines("""
        {two:C} rhymes with {one}.
        The word {two} rhymes with {one}.
        A word that rhymes with {one} is {two}.
        """),
        ["{two}"],
        statements=["{one:C} rhymes with {two}."],
        follow_ups=["And with {one}?"],
        weight=0.8,
    ),
    Topic(
        "plural",
        PLURALS,
        lines("""
        What is the plural of {one}?
        What is the plural of "{one}"?
        Tell me the plural of {one}.
        How do you say more than one {one}?
        One {one}, two what?
        Which word is the plural of {one}?
        """),
        lines("""
        The plural of {one} is {many}.
        It is {many}.
        You say one {one} and two {many}.
        """),
        ["{many}"],
        statements=["The plural of {one} is {many}."],
        follow_ups=["And of {one}?"],
        weight=0.8,
    ),
    Topic(
        "past",
        PASTS,
        lines("""
        What is the past tense of {now}?
        What is the past of {now}?
        Tell me the past tense of {now}.
        Today I {now}. What did I do yesterday?
        How do you say {now} in the past?
        What is the past form of "{now}"?
        """),
        lines("""
        The past tense of {now} is {past}.
        It is {past}.
        Today I {now}, yesterday I {past}.
        """),
        ["{past}"],
        statements=["Today I {now}, but yesterday I {past}."],
        follow_ups=["And of {now}?"],
        weight=0.9,
    ),
    Topic(
        "letter_next",
        LETTERS,
        lines("""
        Which letter comes after {letter}?
        What letter comes after {letter}?
        What is the letter after {letter}?
        Tell me the letter after {letter}.
        What is the next letter after {letter}?
        """),
        ["The letter after {letter} is {next}.", "{next} comes after {letter}.", "It is {next}."],
        ["{next}"],
        statements=["The letter {next} comes after {letter}."],
        weight=0.5,
    ),
    Topic(
        "letter_first",
        SPELL,
        lines("""
        What is the first letter of {word}?
        With which letter does {word} begin?
        Which letter does the word {word} start with?
        What is the first letter in the word "{word}"?
        The word {word} starts with which letter?
        """),
        lines("""
        The first letter of {word} is {first}.
        It is {first}.
        The word {word} begins with {first}.
        """),
        ["{first}"],
        statements=["The word {word} begins with {first}."],
        weight=0.8,
    ),
    Topic(
        "spell",
        SPELL,
        lines("""
        How do you spell {word}?
        Spell the word {word}.
        Can you spell {word}?
        How is {word} spelled?
        What are the letters of {word}?
        """),
        ["{word:C} is spelled {spelt}.", "You spell it {spelt}.", "It is {spelt}."],
        ["{spelt}"],
        statements=["The word {word} is spelled {spelt}."],
        weight=0.6,
    ),
    *numbers.TOPICS,
    Topic(
        "bigger",
        _pairs(_BY_SIZE),
        lines("""
        Which is bigger, {x:a} or {y:a}?
        What is bigger, {x:a} or {y:a}?
        Is {x:a} or {y:a} bigger?
        Which animal is larger, {x:a} or {y:a}?
        Who is bigger: {x:a} or {y:a}?
        """),
        [
            "{more:A} is bigger than {less:a}.",
            "{more:A} is bigger.",
            "The {more} is bigger than the {less}.",
        ],
        [],
        statements=["{more:A} is bigger than {less:a}."],
        weight=0.9,
    ),
    Topic(
        "smaller",
        _pairs(_BY_SIZE),
        lines("""
        Which is smaller, {x:a} or {y:a}?
        What is smaller, {x:a} or {y:a}?
        Is {x:a} or {y:a} smaller?
        Which animal is smaller: {x:a} or {y:a}?
        """),
        [
            "{less:A} is smaller than {more:a}.",
            "{less:A} is smaller.",
            "The {less} is smaller than the {more}.",
        ],
        [],
        statements=["{less:A} is smaller than {more:a}."],
        weight=0.6,
    ),
    Topic(
        "faster",
        _pairs(_BY_SPEED),
        lines("""
        Which is faster, {x:a} or {y:a}?
        What is faster, {x:a} or {y:a}?
        Is {x:a} or {y:a} faster?
        What moves faster: {x:a} or {y:a}?
        """),
        [
            "{more:A} is faster than {less:a}.",
            "{more:A} is faster.",
            "The {more} is faster than the {less}.",
        ],
        [],
        statements=["{more:A} is faster than {less:a}."],
        weight=0.6,
    ),
    Topic(
        "heavier",
        _pairs(_BY_WEIGHT),
        lines("""
        Which is heavier, {x:a} or {y:a}?
        What is heavier, {x:a} or {y:a}?
        Is {x:a} or {y:a} heavier?
        What weighs more: {x:a} or {y:a}?
        """),
        [
            "{more:A} is heavier than {less:a}.",
            "{more:A} is heavier.",
            "The {more} is heavier than the {less}.",
        ],
        [],
        statements=["{more:A} is heavier than {less:a}."],
        weight=0.6,
    ),
    Topic(
        "family",
        FAMILY,
        lines("""
        Who is my {who}?
        What do I call my {who}?
        What is the name for my {who}?
        How do I call my {who}?
        What is a {who} called?
        """),
        ["Your {who} is your {name}.", "It is your {name}.", "That is your {name}."],
        ["{name}"],
        statements=["My {who} is my {name}."],
        follow_ups=["And my {who}?"],
        weight=0.7,
    ),
    Topic(
        "name_three",
        CATEGORIES,
        lines("""
        Name three {kind}.
        Tell me three {kind}.
        Can you name some {kind}?
        What are some {kind}?
        Give me examples of {kind}.
        Which {kind} do you know?
        Give me three {kind}.
        """),
        lines("""
        Three {kind} are {items}.
        Some {kind} are {items}.
        I know {items}.
        For example {items}.
        """),
        ["{key}"],
        statements=["Some {kind} are {items}."],
        weight=1.0,
    ),
]
