"""Facts about animals, plants, the body and food.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from .core import Topic, lines, table

# young, sound verb, legs, home, food, kind, cover, one thing to say about it
ANIMALS = table(
    "animal young sound legs home food kind cover trait",
    """
    cat|kitten|meows|four|house|~meat and fish|mammal|fur|It likes to sleep and to play.
    dog|puppy|barks|four|house|~meat|mammal|fur|It is a good friend to people.
    cow|calf|moos|four|farm|~grass|mammal|hair|It gives us milk.
    horse|foal|neighs|four|stable|~grass and hay|mammal|hair|People can ride on it.
    sheep|lamb|bleats|four|farm|~grass|mammal|wool|It gives us wool.
    goat|kid|bleats|four|farm|~grass and leaves|mammal|hair|It can climb well.
    pig|piglet|oinks|four|farm|~corn and roots|mammal|skin|It likes mud.
    duck|duckling|quacks|two|pond|~plants and insects|bird|feathers|It can swim and fly.
    hen|chick|clucks|two|farm|~seeds|bird|feathers|It lays eggs.
    goose|gosling|honks|two|pond|~grass|bird|feathers|It has a long neck.
    lion|cub|roars|four|grassland|~meat|mammal|fur|It is very strong.
    tiger|cub|roars|four|forest|~meat|mammal|fur|It has black stripes.
    bear|cub|growls|four|forest|~fish and berries|mammal|fur|It sleeps in the winter.
    wolf|pup|howls|four|forest|~meat|mammal|fur|It lives in a group.
    fox|cub|barks|four|forest|~mice and berries|mammal|fur|It has a long red tail.
    mouse|pup|squeaks|four|hole|~seeds and cheese|mammal|fur|It is very small.
    frog|tadpole|croaks|four|pond|~insects|amphibian|skin|It can jump far.
    bee|larva|buzzes|six|hive|~nectar|insect|hair|It makes honey.
    owl|owlet|hoots|two|tree|~mice|bird|feathers|It can see well at night.
    snake|snakelet|hisses|no|hole|~mice and eggs|reptile|scales|It has a long body.
    elephant|calf|trumpets|four|grassland|~leaves and grass|mammal|skin|It has a long nose called a trunk.
    monkey|infant|chatters|four|jungle|~fruit|mammal|fur|It likes to climb trees.
    rabbit|kit|squeaks|four|burrow|~grass and carrots|mammal|fur|It has long ears.
    bird|chick|sings|two|nest|~seeds and worms|bird|feathers|It has two wings.
    spider|spiderling||eight|web|~insects|arachnid|hair|It can make a web.
    ant|larva||six|nest|~seeds and sugar|insect|skin|It works very hard.
    fish|fry||no|water|~plants and insects|fish|scales|It can swim very well.
    whale|calf|sings|no|sea|~small sea animals|mammal|skin|It is the biggest animal.
    dolphin|calf|clicks|no|sea|~fish|mammal|skin|It is very clever.
    shark|pup||no|sea|~fish|fish|skin|It has many sharp teeth.
    penguin|chick|honks|two|ice|~fish|bird|feathers|It can swim but it cannot fly.
    camel|calf|grunts|four|desert|~dry plants|mammal|hair|It can live a long time without water.
    giraffe|calf|hums|four|grassland|~leaves|mammal|hair|It has a very long neck.
    zebra|foal|barks|four|grassland|~grass|mammal|hair|It has black and white stripes.
    kangaroo|joey|grunts|two|grassland|~grass|mammal|fur|It jumps on its strong legs.
    butterfly|caterpillar||six|garden|~nectar|insect|scales|It has beautiful wings.
    crow|chick|caws|two|tree|~seeds and insects|bird|feathers|It is black and clever.
    donkey|foal|brays|four|stable|~grass and hay|mammal|hair|It has long ears.
    turkey|poult|gobbles|two|farm|~seeds|bird|feathers|It is a big bird.
    eagle|eaglet|screams|two|mountain|~fish and small animals|bird|feathers|It can see very far.
    crocodile|hatchling|growls|four|river|~meat and fish|reptile|scales|It has a big mouth.
    turtle|hatchling||four|sea|~plants and small animals|reptile|shell|It is slow on land.
    snail|hatchling||no|garden|~leaves|mollusc|shell|It is very slow.
    bat|pup|squeaks|two|cave|~insects|mammal|fur|It flies at night.
    squirrel|kit|chatters|four|tree|~nuts|mammal|fur|It hides nuts for the winter.
    hedgehog|hoglet|snuffles|four|garden|~insects and worms|mammal|spines|It rolls up like a ball.
    parrot|chick|talks|two|jungle|~fruit and nuts|bird|feathers|It can learn words.
    swan|cygnet|hisses|two|lake|~water plants|bird|feathers|It is big and white.
    deer|fawn|bellows|four|forest|~grass and leaves|mammal|hair|It can run very fast.
    worm|larva||no|soil|~dead leaves|worm|skin|It is good for the garden.
    """,
)
for _row in ANIMALS:
    _sound = _row["sound"]
    _stem = _sound[:-1] if _sound.endswith("s") else _sound
    _row["stem"] = {"hisses": "hiss", "buzzes": "buzz"}.get(_sound, _stem)

_PLACES = {
    "house": "in a house",
    "farm": "on a farm",
    "stable": "in a stable",
    "pond": "near a pond",
    "grassland": "in the grassland",
    "forest": "in the forest",
    "hole": "in a hole",
    "hive": "in a hive",
    "tree": "in a tree",
    "jungle": "in the jungle",
    "burrow": "in a burrow",
    "nest": "in a nest",
    "web": "in a web",
    "water": "in the water",
    "sea": "in the sea",
    "ice": "on the ice",
    "desert": "in the desert",
    "garden": "in the garden",
    "mountain": "in the mountains",
    "river": "in a river",
    "cave": "in a cave",
    "lake": "on a lake",
    "soil": "in the soil",
}
for _row in ANIMALS:
    _row["place"] = _PLACES[_row["home"]]

CAN = table(
    "animal verb yes no",
    """
    bird|fly|yes|; eagle|fly|yes|; bee|fly|yes|; butterfly|fly|yes|; bat|fly|yes|; owl|fly|yes|
    crow|fly|yes|; duck|swim|yes|; fish|swim|yes|; whale|swim|yes|; dolphin|swim|yes|; frog|jump|yes|
    kangaroo|jump|yes|; penguin|swim|yes|; monkey|climb|yes|; cat|climb|yes|; goat|climb|yes|
    horse|run|yes|; dog|run|yes|; parrot|fly|yes|; duck|fly|yes|; swan|swim|yes|; frog|swim|yes|
    dog|swim|yes|; penguin|fly||no; dog|fly||no; cat|fly||no; cow|fly||no; pig|fly||no; fish|walk||no
    elephant|fly||no; horse|fly||no; snake|walk||no; fish|climb||no; cow|climb||no; sheep|fly||no
    whale|walk||no; elephant|jump||no; worm|fly||no; snail|run||no; shark|walk||no; mouse|fly||no
    """,
)

BODY = table(
    "part verb count",
    """
    ~eyes|see|two; ~ears|hear|two; nose|smell|one; mouth|eat and speak|one; ~hands|hold things|two
    ~feet|stand|two; ~legs|walk|two; ~teeth|chew|many; tongue|taste|one; heart|pump blood|one
    ~lungs|breathe|two; brain|think|one; skin|feel|one; ~fingers|touch things|ten; stomach|digest food|one
    ~arms|lift things|two; ~bones|stand up straight|many; ~muscles|move|many
    """,
)
for _row in BODY:
    _row["be"] = "are" if _row["part"].startswith("~") else "is"
    _row["do"] = "do" if _row["part"].startswith("~") else "does"
    _row["thing"] = f"our {_row['part'].removeprefix('~')}"
    _row["helps"] = "help" if _row["part"].startswith("~") else "helps"
    _row["key"] = _row["verb"].split()[0]

COUNT_BODY = table(
    "part n d",
    """
    fingers|ten|10; toes|ten|10; eyes|two|2; ears|two|2; hands|two|2; feet|two|2; legs|two|2
    arms|two|2; noses|one|1; mouths|one|1; hearts|one|1; knees|two|2; elbows|two|2; thumbs|two|2
    """,
)

FOOD = table(
    "food kind colour taste",
    """
    apple|fruit|red or green|sweet; banana|fruit|yellow|sweet; lemon|fruit|yellow|sour
    orange|fruit|orange|sweet; cherry|fruit|red|sweet; strawberry|fruit|red|sweet
    grape|fruit|green or purple|sweet; pear|fruit|green|sweet; plum|fruit|purple|sweet
    peach|fruit|orange|sweet; lime|fruit|green|sour; pineapple|fruit|yellow|sweet
    carrot|vegetable|orange|sweet; potato|vegetable|brown|mild; onion|vegetable|white|strong
    cabbage|vegetable|green|mild; pea|vegetable|green|sweet; bean|vegetable|green|mild
    cucumber|vegetable|green|fresh; radish|vegetable|red|hot; beetroot|vegetable|dark red|sweet
    mango|fruit|orange|sweet; melon|fruit|green|sweet; blueberry|fruit|blue|sweet
    raspberry|fruit|red|sweet; leek|vegetable|green|mild; turnip|vegetable|white|mild
    """,
)
TASTE = table(
    "food taste",
    """
    sugar|sweet; honey|sweet; salt|salty; vinegar|sour; chocolate|sweet; coffee|bitter; a lemon|sour
    candy|sweet; jam|sweet; sea water|salty; pepper|hot; cake|sweet; a lime|sour; ice cream|sweet
    """,
)
ORIGIN = table(
    "food source verb",
    """
    milk|~cows|come; honey|~bees|come; eggs|~hens|come; wool|~sheep|come; bread|~flour|come
    cheese|~milk|come; butter|~milk|come; wine|~grapes|come; apples|~trees|come; flour|~wheat|come
    paper|~wood|come; wood|~trees|come; chocolate|~cocoa beans|come; silk|~silkworms|come
    rain|~clouds|come; jam|~fruit|come; cream|~milk|come; glass|~sand|come; chips|~potatoes|come
    sugar|~sugar cane|come; leather|~animal skin|come; cotton|~a plant|come; raisins|~grapes|come
    """,
)
for _row in ORIGIN:
    _row["come"] = "come" if _row["food"].endswith("s") and _row["food"] != "glass" else "comes"
    _row["do"] = "do" if _row["come"] == "come" else "does"
    _row["be"] = "are" if _row["come"] == "come" else "is"
    _row["key"] = _row["source"].removeprefix("~").split()[-1].rstrip("s")

PLANTS = table(
    "part job",
    """
    the roots|take water from the soil; the leaves|make food from light; the flower|makes seeds
    the stem|holds the plant up; a seed|grows into a new plant; the bark|protects the tree
    """,
)

_has_sound = [row for row in ANIMALS if row["sound"]]

TOPICS = [
    Topic(
        "animal_sound",
        _has_sound,
        lines("""
        What sound does {animal:a} make?
        What noise does {animal:a} make?
        Which sound does {animal:a} make?
        How does {animal:a} sound?
        What does {animal:a} do to make a sound?
        What is the sound of {animal:a}?
        Tell me what sound {animal:a} makes.
        Name the sound that {animal:a} makes.
        What sound do {animal:s} make?
        What noise do {animal:s} make?
        Do you know what sound {animal:a} makes?
        What do you hear when {animal:a} makes a sound?
        """),
        lines("""
        {animal:A} {sound}.
        The {animal} {sound}.
        {animal:A} {sound} when it makes a sound.
        The sound of {animal:a} is easy to know. It {sound}.
        It {sound}.
        """),
        ["{sound}/{stem}/{stem}ing"],
        extras=["{trait}"],
        statements=["{animal:A} {sound}.", "The {animal} {sound} in the morning."],
        follow_ups=["And {animal:a}?", "What about {animal:a}?", "And what does {animal:a} do?"],
        weight=1.2,
    ),
    Topic(
        "animal_legs",
        ANIMALS,
        lines("""
        How many legs does {animal:a} have?
        How many legs do {animal:s} have?
        What number of legs does {animal:a} have?
        Tell me how many legs {animal:a} has.
        {animal:A} has how many legs?
        Count the legs of {animal:a}.
        Do you know how many legs {animal:a} has?
        How many legs are there on {animal:a}?
        """),
        lines("""
        {animal:A} has {legs} legs.
        It has {legs} legs.
        The {animal} has {legs} legs.
        """),
        ["{legs}"],
        extras=["{trait}"],
        statements=["{animal:A} has {legs} legs.", "All {animal:s} have {legs} legs."],
        follow_ups=["And {animal:a}?", "What about {animal:a}?"],
        weight=1.2,
    ),
    Topic(
        "animal_home",
        ANIMALS,
        lines("""
        Where does {animal:a} live?
        Where do {animal:s} live?
        What is the home of {animal:a}?
        Where can I find {animal:a}?
        Where is the home of {animal:a}?
        Tell me where {animal:a} lives.
        In what place does {animal:a} live?
        Do you know where {animal:a} lives?
        Where would you look for {animal:a}?
        Where can you see {animal:a}?
        """),
        lines("""
        {animal:A} lives {place}.
        The {animal} lives {place}.
        It lives {place}.
        You can find {animal:a} {place}.
        The home of {animal:a} is {place}.
        """),
        ["{home}/{home}s"],
        extras=["{trait}"],
        statements=["{animal:A} lives {place}.", "There is {animal:a} {place}."],
        follow_ups=["And {animal:a}?", "What about {animal:a}?", "Where does {animal:a} live?"],
        weight=1.2,
    ),
    Topic(
        "animal_young",
        [r for r in ANIMALS if r["young"] not in ("larva", "infant", "hatchling", "snakelet")],
        lines("""
        What is a baby {animal} called?
        What do you call a baby {animal}?
        What is the name for a young {animal}?
        What do we call the young of {animal:a}?
        What is the baby of {animal:a} called?
        How do you call a young {animal}?
        Tell me the word for a baby {animal}.
        What is a young {animal}?
        Which word means a baby {animal}?
        """),
        lines("""
        A baby {animal} is called {young:a}.
        A young {animal} is called {young:a}.
        It is called {young:a}.
        The young of {animal:a} is {young:a}.
        We call it {young:a}.
        """),
        ["{young}"],
        statements=["A baby {animal} is {young:a}.", "The {young} will grow into {animal:a}."],
        follow_ups=["And a baby {animal}?", "What about a young {animal}?"],
    ),
    Topic(
        "animal_food",
        ANIMALS,
        lines("""
        What does {animal:a} eat?
        What do {animal:s} eat?
        What is the food of {animal:a}?
        What can I give {animal:a} to eat?
        Tell me what {animal:a} eats.
        What does {animal:a} like to eat?
        What kind of food does {animal:a} eat?
        What do {animal:s} like to eat?
        """),
        lines("""
        {animal:A} eats {food}.
        The {animal} eats {food}.
        It eats {food}.
        {animal:S} eat {food}.
        {animal:A} likes to eat {food}.
        """),
        extras=["{trait}"],
        statements=["{animal:A} eats {food}.", "{animal:S} like to eat {food}."],
        follow_ups=["And {animal:a}?", "What about {animal:a}?"],
    ),
    Topic(
        "animal_kind",
        [r for r in ANIMALS if r["animal"] not in ("bird", "fish", "worm", "snail")],
        lines("""
        What is {animal:a}?
        What kind of animal is {animal:a}?
        What type of animal is {animal:a}?
        Tell me about the {animal}.
        Is {animal:a} a mammal, a bird, a fish or an insect?
        To which group of animals does {animal:a} belong?
        Tell me something about {animal:s}.
        What do you know about {animal:s}?
        Please describe {animal:a}.
        Can you tell me about {animal:s}?
        """),
        lines("""
        {animal:A} is {kind:a}. {trait}
        The {animal} is {kind:a}. {trait}
        {animal:A} is an animal. It is {kind:a} and it lives {place}.
        {animal:A} is {kind:a} that lives {place}.
        It is {kind:a}. {trait}
        {animal:A} is {kind:a}. It lives {place} and eats {food}.
        """),
        ["{kind}"],
        statements=["{animal:A} is {kind:a}. {trait}", "{animal:S} live {place}. {trait}"],
        follow_ups=["And {animal:a}?", "What about {animal:a}?"],
        weight=1.5,
    ),
    Topic(
        "animal_cover",
        [r for r in ANIMALS if r["cover"] in ("fur", "feathers", "scales", "wool", "shell")],
        lines("""
        What covers the body of {animal:a}?
        What is on the body of {animal:a}?
        Does {animal:a} have fur, feathers or scales?
        What does {animal:a} have on its body?
        """),
        lines("""
        {animal:A} has {cover}.
        The body of {animal:a} has {cover}.
        It has {cover}.
        """),
        ["{cover}"],
        statements=["{animal:A} has {cover} on its body."],
        weight=0.5,
    ),
    Topic(
        "animal_can_yes",
        [r for r in CAN if r["yes"]],
        lines("""
        Can {animal:a} {verb}?
        Can {animal:s} {verb}?
        Is {animal:a} able to {verb}?
        Do you think {animal:a} can {verb}?
        Are {animal:s} able to {verb}?
        """),
        lines("""
        Yes, {animal:a} can {verb}.
        Yes, it can {verb}.
        Yes. {animal:S} can {verb} well.
        """),
        ["yes"],
        statements=["{animal:A} can {verb}."],
        weight=0.6,
    ),
    Topic(
        "animal_can_no",
        [r for r in CAN if r["no"]],
        lines("""
        Can {animal:a} {verb}?
        Can {animal:s} {verb}?
        Is {animal:a} able to {verb}?
        Do you think {animal:a} can {verb}?
        Are {animal:s} able to {verb}?
        """),
        lines("""
        No, {animal:a} cannot {verb}.
        No, it cannot {verb}.
        No. {animal:S} cannot {verb}.
        """),
        ["no"],
        statements=["{animal:A} cannot {verb}."],
        weight=0.6,
    ),
    Topic(
        "body_use",
        BODY,
        lines("""
        What do we use {thing} for?
        What {be} {thing} for?
        What {do} {thing} do?
        Why do we have {thing}?
        What can we do with {thing}?
        What do people do with {thing}?
        How {do} {thing} help us?
        """),
        lines("""
        We use {thing} to {verb}.
        {thing:C} {helps} us to {verb}.
        With {thing} we can {verb}.
        We need {thing} to {verb}.
        """),
        ["{key}"],
        statements=["We use {thing} to {verb}."],
        follow_ups=["And {thing}?", "What about {thing}?"],
    ),
    Topic(
        "body_with",
        [r for r in BODY if r["part"] not in ("~bones", "~muscles")],
        lines("""
        What do we {verb} with?
        What do you use to {verb}?
        Which part of the body do we use to {verb}?
        What part of your body helps you to {verb}?
        With what do people {verb}?
        """),
        lines("""
        We {verb} with {thing}.
        We use {thing} to {verb}.
        You {verb} with your {part}.
        People use their {part} to {verb}.
        """),
        ["{part}"],
        statements=["People {verb} with their {part}."],
    ),
    Topic(
        "body_count",
        COUNT_BODY,
        lines("""
        How many {part} does a person have?
        How many {part} do people have?
        How many {part} do you find on a person?
        What number of {part} does a person have?
        How many {part} do I have?
        Tell me how many {part} a person has.
        """),
        lines("""
        A person has {n} {part}.
        Most people have {n} {part}.
        People have {n} {part}.
        """),
        ["{n}/{d}"],
        statements=["A person has {n} {part}."],
        follow_ups=["And how many {part}?", "And {part}?"],
        weight=0.7,
    ),
    Topic(
        "food_kind",
        FOOD,
        lines("""
        Is {food:a} a fruit or a vegetable?
        What is {food:a}?
        Is {food:a} a vegetable or a fruit?
        Are {food:s} fruits or vegetables?
        What kind of food is {food:a}?
        What type of food is {food:a}?
        Tell me about {food:s}.
        Tell me if {food:a} is a fruit or a vegetable.
        """),
        lines("""
        {food:A} is a {kind}.
        It is a {kind}.
        {food:A} is a {kind}. It is {colour}.
        {food:A} is a {colour} {kind}.
        {food:S} are {kind}s. They taste {taste}.
        """),
        ["{kind}/{kind}s"],
        statements=["{food:A} is a {kind}. It is {colour} and it tastes {taste}."],
        follow_ups=["And {food:a}?", "What about {food:a}?"],
    ),
    Topic(
        "food_colour",
        FOOD,
        lines("""
        What colour is {food:a}?
        What color is {food:a}?
        Which colour does {food:a} have?
        What is the colour of {food:a}?
        What colour are {food:s}?
        Tell me the colour of {food:a}.
        Do you know the colour of {food:a}?
        """),
        lines("""
        {food:A} is {colour}.
        It is {colour}.
        {food:S} are {colour}.
        The colour of {food:a} is {colour}.
        """),
        ["{colour_key}"],
        statements=["{food:S} are {colour}."],
        follow_ups=["And {food:a}?", "What about {food:a}?"],
    ),
    Topic(
        "food_taste",
        TASTE,
        lines("""
        How does {food} taste?
        What does {food} taste like?
        What is the taste of {food}?
        Is {food} sweet, sour, salty or bitter?
        Tell me how {food} tastes.
        What taste does {food} have?
        """),
        lines("""
        {food:C} tastes {taste}.
        It tastes {taste}.
        The taste of {food} is {taste}.
        {food:C} has a {taste} taste.
        """),
        ["{taste}"],
        statements=["{food:C} tastes {taste}."],
        follow_ups=["And {food}?", "How about {food}?"],
        weight=0.7,
    ),
    Topic(
        "origin",
        ORIGIN,
        lines("""
        Where {do} {food} come from?
        What {be} {food} made from?
        From what do we get {food}?
        What gives us {food}?
        How do we get {food}?
        Tell me where {food} {come} from.
        Where do we get {food} from?
        Do you know where {food} {come} from?
        """),
        lines("""
        {food:C} {come} from {source}.
        We get {food} from {source}.
        We get it from {source}.
        """),
        ["{key}/{key}s"],
        statements=["{food:C} {come} from {source}.", "People get {food} from {source}."],
        follow_ups=["And {food}?", "What about {food}?"],
    ),
    Topic(
        "plants",
        PLANTS,
        lines("""
        What do {part} of a plant do?
        What is the job of {part}?
        Why does a plant need {part}?
        What happens with {part} of a plant?
        """),
        ["{part:C} {job}."],
        statements=["{part:C} {job}."],
        weight=0.3,
    ),
]
for _row in FOOD:
    _row["colour_key"] = "/".join(w for w in _row["colour"].split() if w not in ("or", "dark"))
