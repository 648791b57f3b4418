"""Questions about countries, colours, things, places, work, weather and shapes.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from . import calendar_facts
from .core import Topic, lines
from .world_tables import (
    COLOURS,
    COUNTRIES,
    JOBS,
    LOOKS,
    MATERIAL,
    MEALS,
    MIX,
    PLACES,
    SHAPES,
    TOOLS,
    VEHICLES,
    WEATHER,
)

TOPICS = [
    Topic(
        "capital",
        COUNTRIES,
        lines("""
        What is the capital of {country}?
        Which city is the capital of {country}?
        Tell me the capital of {country}.
        What is the capital city of {country}?
        Do you know the capital of {country}?
        Name the capital of {country}.
        {country:C} has which capital?
        What is {country}'s capital?
        What city is the capital of {country}?
        I want to know the capital of {country}.
        How is the capital of {country} called?
        What do you call the capital of {country}?
        """),
        lines("""
        The capital of {country} is {capital}.
        {capital} is the capital of {country}.
        It is {capital}.
        The capital city of {country} is {capital}.
        """),
        ["{capital}"],
        extras=["It is a big city.", "Many people live there.", "{country:C} is in {continent}."],
        statements=[
            "{capital} is the capital of {country}.",
            "The capital of {country} is {capital}.",
            "She went to {capital}, the capital of {country}.",
        ],
        follow_ups=["And {country}?", "What about {country}?", "And the capital of {country}?"],
        weight=2.2,
    ),
    Topic(
        "capital_of",
        COUNTRIES,
        lines("""
        {capital} is the capital of which country?
        Of which country is {capital} the capital?
        In which country is {capital}?
        Where is {capital}?
        In what country do you find {capital}?
        Which country has the capital {capital}?
        Tell me where {capital} is.
        """),
        lines("""
        {capital} is the capital of {country}.
        {capital} is in {country}.
        It is in {country}.
        {country:C} has the capital {capital}.
        """),
        ["{country}"],
        extras=["{country:C} is in {continent}."],
        statements=["{capital} is a city in {country}."],
        follow_ups=["And {capital}?", "And where is {capital}?"],
        weight=1.4,
    ),
    Topic(
        "continent",
        [r for r in COUNTRIES if r["country"] not in ("Australia", "Russia", "Turkey")],
        lines("""
        On which continent is {country}?
        Where is {country}?
        What continent is {country} on?
        In which part of the world is {country}?
        To which continent does {country} belong?
        Which continent is {country} in?
        Tell me where {country} is.
        """),
        lines("""
        {country:C} is in {continent}.
        It is in {continent}.
        {country:C} is a country in {continent}.
        """),
        ["{continent}"],
        statements=["{country:C} is a country in {continent}."],
        follow_ups=["And {country}?", "What about {country}?"],
    ),
    Topic(
        "language",
        COUNTRIES,
        lines("""
        What language do people speak in {country}?
        Which language is spoken in {country}?
        What is the language of {country}?
        What do people speak in {country}?
        Tell me the language of {country}.
        What language would I hear in {country}?
        """),
        lines("""
        People in {country} speak {language}.
        In {country} people speak {language}.
        Many people there speak {language}.
        The language of {country} is {language}.
        """),
        ["{language}"],
        statements=["In {country} many people speak {language}."],
        follow_ups=["And in {country}?", "What about {country}?"],
    ),
    Topic(
        "colour",
        COLOURS,
        lines("""
        What colour {be} {thing}?
        What color {be} {thing}?
        What is the colour of {thing}?
        Which colour {be} {thing}?
        Tell me the colour of {thing}.
        Do you know what colour {thing} {be}?
        Name the colour of {thing}.
        """),
        lines("""
        {thing:C} {be} {colour}.
        The colour of {thing} is {colour}.
        It is {colour}.
        Usually {thing} {be} {colour}.
        """),
        ["{colour}"],
        statements=["{thing:C} {be} {colour}.", "I can see that {thing} {be} {colour}."],
        follow_ups=["And {thing}?", "What about {thing}?"],
        weight=1.2,
    ),
    Topic(
        "mix",
        MIX,
        lines("""
        What colour do you get when you mix {one} and {two}?
        What do {one} and {two} make?
        Which colour do {one} and {two} make together?
        If I mix {one} with {two}, what colour do I get?
        What happens when I mix {one} and {two} paint?
        Mix {one} and {two}. What colour is it?
        """),
        lines("""
        {one:C} and {two} make {colour}.
        You get {colour}.
        When you mix {one} and {two}, you get {colour}.
        """),
        ["{colour}"],
        statements=["{one:C} and {two} together make {colour}."],
        weight=0.5,
    ),
    *calendar_facts.TOPICS,
    Topic(
        "shape",
        SHAPES,
        lines("""
        How many sides does {shape:a} have?
        How many corners does {shape:a} have?
        How many sides are there on {shape:a}?
        Tell me how many sides {shape:a} has.
        What is {shape:a}?
        """),
        lines("""
        {shape:A} has {n} sides and {n} corners.
        {shape:A} is a shape with {n} sides.
        It has {n} sides.
        """),
        ["{n}/{d}"],
        statements=["{shape:A} has {n} sides."],
        follow_ups=["And {shape:a}?"],
        weight=0.5,
    ),
    Topic(
        "looks",
        LOOKS,
        lines("""
        What shape is {thing}?
        What is the shape of {thing}?
        Which shape does {thing} have?
        What does {thing} look like?
        """),
        ["{thing:C} is {shape}.", "It is {shape}.", "The shape is {shape}."],
        ["{shape}"],
        statements=["{thing:C} is {shape}."],
        weight=0.5,
    ),
    Topic(
        "tool_use",
        TOOLS,
        lines("""
        What is {thing:a} used for?
        What is {thing:a} for?
        What do we use {thing:a} for?
        What can I do with {thing:a}?
        What do you do with {thing:a}?
        Why do people need {thing:a}?
        What {do} {thing:a} do?
        Tell me what {thing:a} {be} for.
        How do people use {thing:a}?
        What is the use of {thing:a}?
        """),
        lines("""
        We use {thing:a} to {use}.
        {thing:A} {be} used to {use}.
        You can {use} with {thing:a}.
        People use {thing:a} to {use}.
        It is used to {use}.
        """),
        ["{key}"],
        extras=["You can find it in the {room}."],
        statements=["We use {thing:a} to {use}.", "There {be} {thing:a} in the {room}."],
        follow_ups=["And {thing:a}?", "What about {thing:a}?"],
        weight=1.6,
    ),
    Topic(
        "tool_room",
        [r for r in TOOLS if r["room"] in ("kitchen", "bathroom", "bedroom", "garage", "garden")],
        lines("""
        Where in the house do you find {thing:a}?
        In which room is {thing:a}?
        Where do people keep {thing:a}?
        Where can I find {thing:a}?
        In which room do people keep {thing:a}?
        """),
        lines("""
        You can find {thing:a} in the {room}.
        {thing:A} {be} in the {room}.
        People keep {thing:a} in the {room}.
        Look in the {room}.
        """),
        ["{room}"],
        statements=["{thing:A} {be} in the {room}."],
        follow_ups=["And {thing:a}?"],
    ),
    Topic(
        "tool_for",
        [r for r in TOOLS if r["key"] not in ("cut", "carry")],
        lines("""
        What do I need to {use}?
        What can I use to {use}?
        Which thing do we use to {use}?
        I want to {use}. What do I need?
        What helps me to {use}?
        With what can I {use}?
        """),
        lines("""
        You need {thing:a} to {use}.
        You can use {thing:a}.
        Use {thing:a} to {use}.
        You need {thing:a}.
        """),
        ["{tool}"],
        statements=["To {use} you need {thing:a}."],
        weight=1.2,
    ),
    Topic(
        "material",
        MATERIAL,
        lines("""
        What is {thing} made of?
        Of what is {thing} made?
        What material is {thing} made of?
        From what do people make {thing}?
        Tell me what {thing} is made of.
        """),
        lines("""
        {thing:C} is made of {material}.
        It is made of {material}.
        People make {thing} from {material}.
        """),
        ["{material}"],
        statements=["{thing:C} is made of {material}."],
        follow_ups=["And {thing}?", "What about {thing}?"],
    ),
    Topic(
        "job_does",
        JOBS,
        lines("""
        What does {job:a} do?
        What is the job of {job:a}?
        What is the work of {job:a}?
        What do {job:s} do?
        Who is {job:a}?
        Tell me what {job:a} does.
        How does {job:a} help people?
        What is {job:a}?
        What does {job:a} do at work?
        """),
        lines("""
        {job:A} {does}.
        {job:A} {does} and works {in}.
        It is the job of a person who {does}.
        {job:A} is a person who {does}.
        """),
        ["{keys}"],
        statements=["{job:A} {does}.", "The {job} works {in}."],
        follow_ups=["And {job:a}?", "What about {job:a}?"],
        weight=1.4,
    ),
    Topic(
        "job_place",
        JOBS,
        lines("""
        Where does {job:a} work?
        Where do {job:s} work?
        In what place does {job:a} work?
        Tell me where {job:a} works.
        What is the workplace of {job:a}?
        """),
        lines("""
        {job:A} works {in}.
        The {job} works {in}.
        {job:S} work {in}.
        """),
        ["{place}"],
        statements=["{job:A} works {in}."],
        follow_ups=["And {job:a}?"],
    ),
    Topic(
        "job_who",
        [r for r in JOBS if r["job"] not in ("nurse", "cook", "farmer", "dentist", "student")],
        lines("""
        Who {does}?
        Which person {does}?
        What do you call a person who {does}?
        What is the name for someone who {does}?
        Who is the person that {does}?
        """),
        lines("""
        {job:A} {does}.
        A person who {does} is called {job:a}.
        It is {job:a}.
        """),
        ["{job}"],
        statements=["A person who {does} is {job:a}."],
    ),
    Topic(
        "place_for",
        PLACES,
        lines("""
        Where do I go to {want}?
        Where can I {want}?
        I want to {want}. Where should I go?
        Where do people go to {want}?
        Which place is good to {want}?
        Where must I go if I want to {want}?
        Tell me where I can {want}.
        """),
        lines("""
        You can go {place} to {want}.
        Go {place}.
        People go {place} to {want}.
        You should go {place}.
        """),
        ["{key}"],
        statements=["People go {place} to {want}."],
        weight=1.2,
    ),
    Topic(
        "weather",
        WEATHER,
        lines("""
        What should I do when it is {weather}?
        It is {weather} today. What should I do?
        What do I need when the weather is {weather}?
        The weather is {weather}. Do you have a tip?
        What is good to do on a {weather} day?
        It is {weather} outside. What now?
        """),
        lines("""
        When it is {weather}, you should {advice}.
        You should {advice}.
        It is good to {advice} on a {weather} day.
        Please {advice}. Then you will be fine.
        """),
        ["{key}"],
        statements=["When it is {weather}, people {advice}."],
        weight=0.8,
    ),
    Topic(
        "meals",
        MEALS,
        lines("""
        When do people have {meal}?
        When do we eat {meal}?
        At what time of day do people eat {meal}?
        What can I eat for {meal}?
        What is good for {meal}?
        """),
        lines("""
        People eat {meal} {time}. A good idea is {example}.
        We have {meal} {time}. You can eat {example}.
        """),
        statements=["{meal:C} is {time}."],
        weight=0.4,
    ),
    Topic(
        "vehicle",
        VEHICLES,
        lines("""
        Where does {vehicle:a} go?
        Where does {vehicle:a} travel?
        How does {vehicle:a} move?
        What does {vehicle:a} do?
        Tell me where {vehicle:a} travels.
        """),
        ["{vehicle:A} {verb} {where}.", "It {verb} {where}.", "The {vehicle} {verb} {where}."],
        ["{place}"],
        statements=["{vehicle:A} {verb} {where}."],
        follow_ups=["And {vehicle:a}?"],
        weight=0.5,
    ),
]
