"""Tables of countries, colours, time, things, places, work, weather and shapes.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from .core import table

COUNTRIES = table(
    "country capital continent language",
    """
    France|Paris|Europe|French; Germany|Berlin|Europe|German; Spain|Madrid|Europe|Spanish
    Italy|Rome|Europe|Italian; England|London|Europe|English; Ireland|Dublin|Europe|English
    Portugal|Lisbon|Europe|Portuguese; Greece|Athens|Europe|Greek; Austria|Vienna|Europe|German
    Poland|Warsaw|Europe|Polish; Sweden|Stockholm|Europe|Swedish; Norway|Oslo|Europe|Norwegian
    Denmark|Copenhagen|Europe|Danish; Finland|Helsinki|Europe|Finnish; Hungary|Budapest|Europe|Hungarian
    Belgium|Brussels|Europe|Dutch; the Netherlands|Amsterdam|Europe|Dutch; Russia|Moscow|Europe|Russian
    Ukraine|Kyiv|Europe|Ukrainian; Romania|Bucharest|Europe|Romanian; Bulgaria|Sofia|Europe|Bulgarian
    Serbia|Belgrade|Europe|Serbian; Croatia|Zagreb|Europe|Croatian; Scotland|Edinburgh|Europe|English
    Japan|Tokyo|Asia|Japanese; China|Beijing|Asia|Chinese; India|New Delhi|Asia|Hindi
    Thailand|Bangkok|Asia|Thai; Vietnam|Hanoi|Asia|Vietnamese; Turkey|Ankara|Asia|Turkish
    Iran|Tehran|Asia|Persian; South Korea|Seoul|Asia|Korean; Egypt|Cairo|Africa|Arabic
    Kenya|Nairobi|Africa|Swahili; Morocco|Rabat|Africa|Arabic; Ghana|Accra|Africa|English
    Ethiopia|Addis Ababa|Africa|Amharic; Canada|Ottawa|North America|English
    Mexico|Mexico City|North America|Spanish; Cuba|Havana|North America|Spanish
    the United States|Washington|North America|English; Brazil|Brasilia|South America|Portuguese
    Argentina|Buenos Aires|South America|Spanish; Peru|Lima|South America|Spanish
    Chile|Santiago|South America|Spanish; Colombia|Bogota|South America|Spanish
    Australia|Canberra|Australia|English; New Zealand|Wellington|Oceania|English
    """,
)

COLOURS = table(
    "thing be colour",
    """
    the sky|is|blue; grass|is|green; snow|is|white; the sun|is|yellow; blood|is|red; coal|is|black
    milk|is|white; a ripe banana|is|yellow; a ripe tomato|is|red; the night|is|black; leaves|are|green
    salt|is|white; chocolate|is|brown; an elephant|is|grey; a frog|is|green; the sea|is|blue
    a polar bear|is|white; a crow|is|black; gold|is|yellow; silver|is|grey; soil|is|brown
    a fire engine|is|red; a cloud|is|white; an egg yolk|is|yellow; sand|is|yellow; sugar|is|white
    coffee|is|brown; a swan|is|white; a violet|is|purple; a flamingo|is|pink; a rose|is|red
    butter|is|yellow; paper|is|white; wood|is|brown; a mouse|is|grey; a carrot|is|orange
    """,
)
MIX = table(
    "one two colour",
    """
    blue|yellow|green; yellow|blue|green; red|yellow|orange; yellow|red|orange; red|blue|purple
    blue|red|purple; red|white|pink; white|red|pink; black|white|grey; white|black|grey
    """,
)

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_LENGTHS = ["31", "28", "31", "30", "31", "30", "31", "31", "30", "31", "30", "31"]
_SEASONS = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"]

DAYS = [
    {"day": d, "next": _DAYS[(i + 1) % 7], "last": _DAYS[i - 1], "nth": _ORDINALS[i]}
    for i, d in enumerate(_DAYS)
]
MONTHS = [
    {
        "month": m,
        "next": _MONTHS[(i + 1) % 12],
        "last": _MONTHS[i - 1],
        "nth": _ORDINALS[i],
        "n": _LENGTHS[i],
        "season": _SEASONS[i],
    }
    for i, m in enumerate(_MONTHS)
]
SEASONS = table(
    "season next last feel thing",
    """
    spring|summer|winter|warm and fresh|flowers grow; summer|autumn|spring|hot and sunny|people swim
    autumn|winter|summer|cool and windy|leaves fall; winter|spring|autumn|cold and dark|snow falls
    """,
)
UNITS = table(
    "small big n d",
    """
    days|week|seven|7; hours|day|twenty-four|24; minutes|hour|sixty|60; seconds|minute|sixty|60
    months|year|twelve|12; weeks|year|fifty-two|52; days|year|three hundred and sixty-five|365
    seasons|year|four|4; letters|alphabet|twenty-six|26; years|century|one hundred|100
    centimetres|metre|one hundred|100; metres|kilometre|one thousand|1000; eggs|dozen|twelve|12
    grams|kilogram|one thousand|1000; cents|dollar|one hundred|100; years|decade|ten|10
    wheels|car|four|4; wheels|bicycle|two|2; players|football team|eleven|11; legs|chair|four|4
    wheels|tricycle|three|3; strings|violin|four|4; days|weekend|two|2; colours|rainbow|seven|7
    """,
)
for _row in UNITS:
    _row["where"] = {"alphabet": "the English alphabet", "rainbow": "the rainbow"}.get(
        _row["big"], f"one {_row['big']}"
    )
    _row["key"] = _row["n"].split()[0]

SHAPES = table(
    "shape n d",
    """
    triangle|three|3; square|four|4; rectangle|four|4; pentagon|five|5; hexagon|six|6; octagon|eight|8
    """,
)
LOOKS = table(
    "thing shape",
    """
    a ball|round; a wheel|round; the sun|round; a coin|round; a door|a rectangle; a book|a rectangle
    a box|a cube; an egg|an oval; a plate|round; a dice|a cube; a ring|round; a window|a rectangle
    the moon|round; an orange|round; a pizza|round; a slice of pizza|a triangle; a road|long
    """,
)

TOOLS = table(
    "tool use room",
    """
    knife|cut food|kitchen; spoon|eat soup|kitchen; fork|eat food|kitchen; cup|drink tea|kitchen
    pen|write|office; pencil|draw|school; brush|paint|school; broom|sweep the floor|kitchen
    key|open a door|hall; lamp|light a room|living room; bed|sleep|bedroom; chair|sit|kitchen
    clock|tell the time|living room; towel|dry our hands|bathroom; soap|wash our hands|bathroom
    hammer|hit nails|garage; saw|cut wood|garage; needle|sew clothes|bedroom; umbrella|stay dry in the rain|hall
    fridge|keep food cold|kitchen; oven|bake bread|kitchen; phone|call people|living room
    map|find the way|car; mirror|see our face|bathroom; comb|tidy our hair|bathroom
    toothbrush|clean our teeth|bathroom; bag|carry things|hall; book|read|bedroom; camera|take pictures|living room
    pillow|rest our head|bedroom; blanket|keep warm|bedroom; spade|dig in the soil|garden
    rake|collect leaves|garden; ladder|climb up|garage; bottle|hold water|kitchen; pan|fry eggs|kitchen
    pot|cook soup|kitchen; kettle|boil water|kitchen; scissors|cut paper|office; ruler|measure a line|school
    glass|drink water|kitchen; plate|put food on|kitchen; sofa|sit and rest|living room
    torch|see in the dark|garage; rope|tie things|garage; basket|carry fruit|kitchen; iron|press clothes|bedroom
    shower|wash our body|bathroom; radio|listen to music|kitchen; piano|play music|living room
    candle|give light|living room; boat|travel on water|lake; bicycle|ride to school|garage
    """,
)
for _row in TOOLS:
    _row["key"] = _row["use"].split()[0]
    _row["thing"] = f"~{_row['tool']}" if _row["tool"] in ("scissors", "soap") else _row["tool"]
    _row["be"] = "are" if _row["tool"] == "scissors" else "is"
    _row["do"] = "do" if _row["tool"] == "scissors" else "does"

MATERIAL = table(
    "thing material",
    """
    a table|wood; a window|glass; a book|paper; a key|metal; a shirt|cotton; a bottle|glass
    a tyre|rubber; a knife|metal; a jumper|wool; a shoe|leather; a newspaper|paper; a coin|metal
    a pencil|wood; a candle|wax; a brick|clay; a snowman|snow; a sandcastle|sand; a door|wood
    a nail|metal; a toy block|wood; a mirror|glass; a belt|leather; a ring|gold
    """,
)

JOBS = table(
    "job does place key",
    """
    teacher|helps children to learn|school|learn; doctor|helps sick people|hospital|sick
    nurse|cares for sick people|hospital|sick; baker|bakes bread|bakery|bread; farmer|grows food|farm|food
    cook|makes food|kitchen|food; pilot|flies a plane|airport|plane; driver|drives a bus|city|bus
    painter|paints pictures|studio|pictures; writer|writes books|study|books; singer|sings songs|theatre|songs
    dentist|looks after teeth|clinic|teeth; vet|helps sick animals|clinic|animals
    gardener|looks after plants|garden|plants; sailor|works on a boat|sea|boat; fisherman|catches fish|sea|fish
    builder|builds houses|building site|houses; carpenter|makes things from wood|workshop|wood
    tailor|makes clothes|workshop|clothes; barber|cuts hair|barber shop|hair; butcher|sells meat|shop|meat
    firefighter|puts out fires|fire station|fires; police officer|keeps people safe|police station|safe
    musician|plays music|theatre|music; actor|acts in plays|theatre|plays; dancer|dances|theatre|dances
    waiter|brings food to the table|restaurant|food; mechanic|repairs cars|garage|cars
    librarian|looks after books|library|books; astronaut|travels into space|space|space
    judge|decides what is fair|court|fair; artist|makes art|studio|art; student|learns|school|learns
    """,
)
for _row in JOBS:
    _row["in"] = {
        "airport": "at an airport",
        "farm": "on a farm",
        "sea": "on the sea",
        "city": "in the city",
        "space": "in space",
        "kitchen": "in the kitchen",
        "garden": "in the garden",
    }.get(_row["place"], f"in a {_row['place']}")
    _row["keys"] = _row["key"] + "/" + _row["key"].rstrip("s")

PLACES = table(
    "want place key",
    """
    buy bread|to a bakery|bakery; borrow a book|to a library|library; see a doctor|to a hospital|hospital
    learn to read|to school|school; catch a train|to the station|station; catch a plane|to the airport|airport
    swim|to a pool|pool; see a film|to the cinema|cinema; see animals|to the zoo|zoo; play outside|to the park|park
    eat dinner|to a restaurant|restaurant; buy fruit|to the market|market; see old things|to a museum|museum
    post a letter|to the post office|post office; get medicine|to the pharmacy|pharmacy
    see a play|to the theatre|theatre; sleep when you travel|to a hotel|hotel; build a sandcastle|to the beach|beach
    get your hair cut|to a barber|barber; pick flowers|to the garden|garden; buy meat|to a butcher|butcher
    ski|to the mountains|mountains; keep your money safe|to a bank|bank; watch football|to the stadium|stadium
    """,
)

WEATHER = table(
    "weather advice key",
    """
    rainy|take an umbrella|umbrella; sunny|wear a hat|hat; cold|wear a warm coat|coat; snowy|wear warm boots|boots
    windy|hold on to your hat|hat; hot|drink a lot of water|water; foggy|drive slowly|slowly; icy|walk slowly|slowly
    stormy|stay inside|inside; wet|wear a raincoat|raincoat; freezing|wear gloves and a scarf|gloves
    """,
)
MEALS = table(
    "meal time example",
    """
    breakfast|in the morning|bread and tea; lunch|at noon|soup and salad; dinner|in the evening|rice and vegetables
    a snack|in the afternoon|an apple
    """,
)
VEHICLES = table(
    "vehicle where verb place",
    """
    car|on the road|drives|road; train|on rails|runs|rails; plane|in the air|flies|air; boat|on the water|sails|water
    bus|on the road|drives|road; bicycle|on the road|rolls|road; ship|on the sea|sails|sea; tram|on rails|runs|rails
    rocket|into space|flies|space; helicopter|in the air|flies|air; submarine|under the water|dives|water
    """,
)
