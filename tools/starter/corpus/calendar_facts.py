"""Questions about days, months, seasons and measures.

Reads: nothing. Writes: nothing. Refuses: nothing.
"""

from __future__ import annotations

from .core import Topic, lines
from .world_tables import DAYS, MONTHS, SEASONS, UNITS

TOPICS = [
    Topic(
        "day_next",
        DAYS,
        lines("""
        What day comes after {day}?
        Which day is after {day}?
        What is the day after {day}?
        Today is {day}. What day is tomorrow?
        If today is {day}, what day is it tomorrow?
        Which day follows {day}?
        Tell me the day after {day}.
        What is the next day after {day}?
        """),
        lines("""
        The day after {day} is {next}.
        {next} comes after {day}.
        It is {next}.
        After {day} comes {next}.
        """),
        ["{next}"],
        statements=["{next} comes after {day}.", "Today is {day}, so tomorrow is {next}."],
        follow_ups=["And after {day}?"],
        weight=0.7,
    ),
    Topic(
        "day_last",
        DAYS,
        lines("""
        What day comes before {day}?
        Which day is before {day}?
        What is the day before {day}?
        Today is {day}. What day was yesterday?
        If today is {day}, what day was it yesterday?
        Tell me the day before {day}.
        """),
        lines("""
        The day before {day} is {last}.
        {last} comes before {day}.
        It is {last}.
        Before {day} comes {last}.
        """),
        ["{last}"],
        statements=["{last} comes before {day}."],
        follow_ups=["And before {day}?"],
        weight=0.7,
    ),
    Topic(
        "month_next",
        MONTHS,
        lines("""
        What month comes after {month}?
        Which month is after {month}?
        What is the month after {month}?
        Which month follows {month}?
        Tell me the month after {month}.
        If it is {month} now, what is the next month?
        """),
        lines("""
        The month after {month} is {next}.
        {next} comes after {month}.
        It is {next}.
        After {month} comes {next}.
        """),
        ["{next}"],
        statements=["{next} comes after {month}."],
        follow_ups=["And after {month}?"],
        weight=0.7,
    ),
    Topic(
        "month_last",
        MONTHS,
        lines("""
        What month comes before {month}?
        Which month is before {month}?
        What is the month before {month}?
        Tell me the month before {month}.
        """),
        lines("""
        The month before {month} is {last}.
        {last} comes before {month}.
        It is {last}.
        """),
        ["{last}"],
        statements=["{last} comes before {month}."],
        follow_ups=["And before {month}?"],
        weight=0.5,
    ),
    Topic(
        "month_days",
        MONTHS,
        lines("""
        How many days are in {month}?
        How many days does {month} have?
        How long is {month}?
        Tell me how many days {month} has.
        What number of days does {month} have?
        """),
        lines("""
        {month} has {n} days.
        There are {n} days in {month}.
        It has {n} days.
        """),
        ["{n}"],
        statements=["{month} has {n} days."],
        follow_ups=["And {month}?", "What about {month}?"],
        weight=0.6,
    ),
    Topic(
        "month_number",
        MONTHS,
        lines("""
        What is the {nth} month of the year?
        Which month is the {nth} month?
        Name the {nth} month of the year.
        """),
        lines("""
        The {nth} month is {month}.
        {month} is the {nth} month of the year.
        It is {month}.
        """),
        ["{month}"],
        statements=["{month} is the {nth} month of the year."],
        weight=0.5,
    ),
    Topic(
        "month_season",
        MONTHS,
        lines("""
        In which season is {month}?
        What season is it in {month}?
        Which season is {month} in?
        What is the season in {month}?
        Is {month} in spring, summer, autumn or winter?
        """),
        lines("""
        {month} is in {season}.
        It is {season} in {month}.
        In the north, {month} is in {season}.
        """),
        ["{season}"],
        statements=["In {month} it is {season}."],
        follow_ups=["And {month}?"],
        weight=0.5,
    ),
    Topic(
        "season",
        SEASONS,
        lines("""
        What is {season} like?
        How is the weather in {season}?
        What happens in {season}?
        Tell me about {season}.
        """),
        lines("""
        In {season} it is {feel}.
        {season:C} is {feel}. In {season} {thing}.
        It is {feel}, and {thing}.
        """),
        statements=["In {season} {thing}.", "{season:C} is {feel}."],
        weight=0.4,
    ),
    Topic(
        "season_next",
        SEASONS,
        lines("""
        Which season comes after {season}?
        What season follows {season}?
        What comes after {season}?
        What is the season after {season}?
        """),
        ["{next:C} comes after {season}.", "After {season} comes {next}.", "It is {next}."],
        ["{next}"],
        statements=["After {season} comes {next}."],
        weight=0.3,
    ),
    Topic(
        "units",
        UNITS,
        lines("""
        How many {small} are in {where}?
        How many {small} does {where} have?
        How many {small} are there in {where}?
        What number of {small} is in {where}?
        Tell me how many {small} {where} has.
        Do you know how many {small} {where} has?
        """),
        lines("""
        There are {n} {small} in {where}.
        {where:C} has {n} {small}.
        It has {n} {small}.
        There are {d} {small}.
        """),
        ["{key}/{d}"],
        statements=["{where:C} has {n} {small}."],
        follow_ups=["And how many {small} in {where}?"],
    ),
]
