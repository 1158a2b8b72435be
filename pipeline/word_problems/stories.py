"""Word problems that the project makes itself: 48 stories, told with ever new names and numbers.

A story is a form: a text with gaps, which numbers fit the gaps, and the steps that solve it. There are
twelve calculations of one to four steps, each told in four stories. Some stories mention a number that has
nothing to do with the question.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from pipeline.tools.calculator import calculate
from pipeline.word_problems import program

Role = Literal["demonstrated", "trained", "unseen"]
"""Demonstrated stories are told in demonstrations, training and test; trained ones in training and test;
unseen ones in the test only."""

ROLES: tuple[Role, ...] = ("demonstrated", "trained", "trained", "unseen")
"""The roles of a calculation's four stories."""

Numbers = tuple[int, int] | str | list[str]
"""What may fill a gap: a whole number from a range, the value of an expression of earlier ones, or a
number from a list."""


@dataclass(frozen=True)
class Calculation:
    """What several stories have in common."""

    steps: tuple[str, ...]  # assignments with gaps; the last one's value is the answer
    numbers: Mapping[str, Numbers]  # by gap; some gaps occur in one story only
    stories: tuple[str, str, str, str]


@dataclass(frozen=True)
class Story:
    """A form of word problem."""

    text: str
    calculation: Calculation
    role: Role


@dataclass(frozen=True)
class WordProblem:
    """A story told."""

    question: str
    steps: tuple[str, ...]
    answer: str  # as the calculator writes it

    @property
    def program(self) -> str:
        return program(self.steps)


def tell(story: Story, rng: random.Random, test: bool) -> WordProblem:
    """The story with names and numbers from `rng`; those of the test are names of its own."""
    numbers: dict[str, str] = {}
    for gap, allowed in story.calculation.numbers.items():
        if isinstance(allowed, tuple):
            numbers[gap] = str(rng.randint(*allowed))
        elif isinstance(allowed, list):
            numbers[gap] = rng.choice(allowed)
        else:
            numbers[gap] = calculate(allowed.format_map(numbers))
    steps = tuple(step.format_map(numbers) for step in story.calculation.steps)
    words = {**_people(rng, test), **_things(rng)}
    return WordProblem(story.text.format_map({**words, **numbers}), steps, _value(steps))


def _value(steps: Sequence[str]) -> str:
    """What the last step assigns, by the calculator."""
    values: dict[str, str] = {}
    for step in steps:
        name, _, expression = step.partition(" = ")
        values[name] = calculate(
            re.sub(r"[a-z_]+", lambda match: f"({values[match.group()]})", expression)
        )
    return values[name]


def _people(rng: random.Random, test: bool) -> dict[str, str]:
    """Two people: {name}, who is {she} and {She}, and {friend}."""
    women, men = ([n for n in names.split() if _for_test(n) == test] for names in (WOMEN, MEN))
    name, friend = rng.sample(women + men, 2)
    she = "she" if name in women else "he"
    return {"name": name, "friend": friend, "she": she, "She": she.title()}


def _for_test(name: str) -> bool:
    return crc32(name.encode()) % 4 == 0


def _things(rng: random.Random) -> dict[str, str]:
    """Two kinds of {things} and {others}, and {boxes} of which one is a {box}."""
    things, others = rng.sample(THINGS.split(), 2)
    boxes = rng.choice(BOXES.split())
    box = boxes.removesuffix("es") if boxes.endswith("xes") else boxes.removesuffix("s")
    return {"things": things, "others": others, "boxes": boxes, "box": box}


WOMEN = """
    Ada Agnes Alma Amina Anita Anna Beatrice Bella Carla Cecilia Chloe Clara Daisy Delia Diana Dora Edith
    Elena Elsa Emma Esther Fatima Fiona Flora Freya Gemma Grace Greta Hana Hannah Helen Ida Ines Ingrid
    Irene Iris Jana Jasmine Judith Julia Karin Kate Laila Laura Lena Lily Linda Lucia Mara Maria Maya Mei
    Mila Mina Nadia Nina Nora Olga Olive Paula Petra Priya Rita Rosa Ruth Sara Selma Sofia Tara Thea Uma
    Vera Wanda Yuki Zara Zoe
"""
MEN = """
    Abel Adam Ahmed Alan Ali Anders Anton Arjun Arthur Ben Bruno Carlos Chen Conrad Daniel David Dennis
    Diego Edgar Elias Emil Eric Ernest Felix Finn Frank Fred Gabriel George Gustav Hal Hamid Hans Harry
    Henry Hugo Ian Igor Isaac Ivan Jack Jakob Jamal Jan Joel Jonas Jose Karl Kenji Kofi Leo Liam Louis
    Luca Malik Marco Mark Martin Max Milan Nico Noah Oscar Otto Pablo Paul Pedro Peter Quentin Rafael Raj
    Robin Samuel Simon Stefan Theo Thomas Umar Victor Walter Yusuf
"""
THINGS = """
    acorns apples badges balloons bananas beads bells biscuits books bottles bows bricks brushes
    buttons cakes candles cards carrots chairs cherries clocks coins combs cookies corks crayons
    cups dolls eggs erasers feathers figs flags flowers forks hats jars keys kites ladders lamps
    lanterns leaves lemons limes magnets mangoes maps marbles masks mirrors muffins mugs nails
    notebooks nuts olives onions oranges paintings peaches pearls pears pebbles pencils pens pillows
    pins plates plums posters potatoes puppets puzzles ribbons rings rulers scarves shells socks
    spoons stamps stars stickers stones tickets tiles tokens tomatoes towels toys tulips umbrellas
    vases whistles
"""
BOXES = "bags baskets boxes crates drawers sacks trays"

CALCULATIONS = (
    Calculation(
        ("left = {a} - {b}",),
        {"b": (2, 30), "left": (3, 60), "a": "{b}+{left}"},
        (
            "{name} has {a} {things}. {She} gives {b} of them to {friend}. How many {things} does"
            " {name} have left?",
            "{name} has {a} {things}. {She} loses {b} of them on the way home. How many {things} "
            "does {name} have left?",
            "A shop has {a} {things}. It sells {b} of them in the morning. How many {things} does"
            " the shop have left?",
            "{name} has a book of {a} pages. {She} has read {b} of them. How many pages does "
            "{name} have left to read?",
        ),
    ),
    Calculation(
        ("total = {a} * {b}",),
        {"a": (3, 20), "b": (3, 30), "age": (18, 70)},
        (
            "{name}, who is {age} years old, has {a} {boxes}. In each of them are {b} {things}. "
            "How many {things} does {name} have in all?",
            "There are {a} {boxes} in a room. In each of them are {b} {things}. How many {things}"
            " are in the room in all?",
            "A house that is {age} years old has {a} rooms. In each of them are {b} {things}. How"
            " many {things} are in the house in all?",
            "A hall has {a} rows. In each of them are {b} seats. How many seats does the hall "
            "have in all?",
        ),
    ),
    Calculation(
        ("total = {a} + {b}",),
        {"a": (5, 90), "b": (5, 90), "cars": (2, 12)},
        (
            "{name} found {a} {things} in the morning and {b} in the evening. How many {things} "
            "did {she} find in all?",
            "{name} sold {a} {things} on Monday and {b} on Tuesday. How many {things} did {she} "
            "sell in all?",
            "{name} has {a} {things} and {friend} has {b}. How many {things} do they have in all?",
            "A train with {cars} cars carries {a} children and {b} adults. How many people does "
            "it carry in all?",
        ),
    ),
    Calculation(
        ("each = {a} / {b}",),
        {"b": (2, 12), "each": (2, 20), "a": "{b}*{each}", "room": (2, 99)},
        (
            "{name} shares {a} {things} equally among {b} children. How many {things} does each "
            "child get?",
            "{name} divides {a} {things} equally among {b} {boxes}. How many {things} does each "
            "{box} get?",
            "The teacher in room {room} shares {a} {things} equally among {b} groups. How many "
            "{things} does each group get?",
            "A farmer with {room} cows divides {a} buckets of oats equally among {b} horses. How "
            "many buckets does each horse get?",
        ),
    ),
    Calculation(
        (
            "used = {b} * {c}",
            "left = {a} - used",
        ),
        {"b": (2, 9), "c": (2, 12), "left": (3, 60), "a": "{b}*{c}+{left}", "members": (12, 40)},
        (
            "{name} has ${a}. {She} buys {b} {things} for ${c} each. How many dollars does {she} "
            "have left?",
            "A school has ${a}. It buys {b} chairs for ${c} each. How many dollars does it have "
            "left?",
            "A farmer has ${a}. The farmer buys {b} sheep for ${c} each. How many dollars does "
            "the farmer have left?",
            "A club with {members} members has ${a}. It buys {b} balls for ${c} each. How many "
            "dollars does it have left?",
        ),
    ),
    Calculation(
        (
            "part = {a} * {b}",
            "total = part + {c}",
        ),
        {"a": (2, 12), "b": (2, 15), "c": (3, 60), "high": (9, 60)},
        (
            "{name} buys {a} {things} for ${b} each and a sofa for ${c}. How many dollars does "
            "{she} pay in all?",
            "A school buys {a} chairs for ${b} each and a table for ${c}. How many dollars does "
            "it pay in all?",
            "A farmer buys {a} sheep for ${b} each and a goat for ${c}. How many dollars does the"
            " farmer pay in all?",
            "A hotel that is {high} meters high buys {a} beds for ${b} each and a piano for ${c}."
            " How many dollars does it pay in all?",
        ),
    ),
    Calculation(
        (
            "left = {a} - {b}",
            "total = left + {c}",
        ),
        {"b": (2, 30), "left": (3, 60), "a": "{b}+{left}", "c": (2, 50)},
        (
            "{name} had {a} {things}. {She} lost {b} of them, and then {friend} gave {name} {c} "
            "more. How many {things} does {name} have now?",
            "{name} had {a} {things}. {She} sold {b} of them, and then {she} found {c} more. How "
            "many {things} does {name} have now?",
            "A shop had {a} {things}. It sold {b} of them, and then it bought {c} more. How many "
            "{things} does the shop have now?",
            "A bus had {a} passengers. At a stop {b} of them got off, and then {c} more got on. "
            "How many passengers does the bus have now?",
        ),
    ),
    Calculation(
        (
            "total = {a} + {b}",
            "each = total / {c}",
        ),
        {"c": (2, 9), "each": (5, 15), "a": (2, 8), "b": "{c}*{each}-{a}", "long": (50, 400)},
        (
            "{name} has {a} {things} and {b} {others}. {She} shares them all equally among {c} "
            "friends. How many things does each friend get?",
            "{name} has {a} {things} and {b} {others}. {She} divides them all equally among {c} "
            "{boxes}. How many things does each {box} get?",
            "{name} has ${a} and {friend} has ${b}. They share them all equally among {c} "
            "children. How many dollars does each child get?",
            "A trip of {long} kilometers costs ${a} for tickets and ${b} for a room. The cost is "
            "shared equally among {c} people. How many dollars does each person pay?",
        ),
    ),
    Calculation(
        (
            "first = {a} * {b}",
            "second = {c} * {d}",
            "total = first + second",
        ),
        {"a": (2, 9), "b": (2, 12), "c": (2, 9), "d": (2, 12)},
        (
            "{name} buys {a} {things} for ${b} each and {c} {others} for ${d} each. How many "
            "dollars does {she} pay in all?",
            "A school buys {a} chairs for ${b} each and {c} tables for ${d} each. How many "
            "dollars does it pay in all?",
            "A farmer buys {a} sheep for ${b} each and {c} goats for ${d} each. How many dollars "
            "does the farmer pay in all?",
            "{name} works {a} hours for ${b} an hour and {c} hours for ${d} an hour. How many "
            "dollars does {she} earn in all?",
        ),
    ),
    Calculation(
        (
            "used = {b} * {c}",
            "left = {a} - used",
            "rest = left - {d}",
        ),
        {
            "b": (2, 9),
            "c": (2, 9),
            "d": (3, 40),
            "left": (3, 40),
            "a": "{b}*{c}+{d}+{left}",
            "members": (12, 40),
        },
        (
            "{name} has ${a}. {She} buys {b} {things} for ${c} each and a coat for ${d}. How many"
            " dollars does {she} have left?",
            "A school has ${a}. It buys {b} chairs for ${c} each and a table for ${d}. How many "
            "dollars does it have left?",
            "A farmer has ${a}. The farmer buys {b} sheep for ${c} each and a goat for ${d}. How "
            "many dollars does the farmer have left?",
            "A club with {members} members has ${a}. It buys {b} balls for ${c} each and a net "
            "for ${d}. How many dollars does it have left?",
        ),
    ),
    Calculation(
        (
            "total = {a} * {b}",
            "left = total - {c}",
            "each = left / {d}",
        ),
        {
            "d": ["2", "3", "4", "5"],
            "q": (2, 4),
            "b": "{d}*{q}",
            "a": (3, 9),
            "e": (1, 5),
            "c": "{d}*{e}",
        },
        (
            "{name} has {a} {boxes} with {b} {things} each. {She} keeps {c} {things} and shares "
            "the rest equally among {d} friends. How many {things} does each friend get?",
            "A shop has {a} {boxes} with {b} {things} each. It sells {c} {things} and shares the "
            "rest equally among {d} schools. How many {things} does each school get?",
            "A farmer has {a} fields with {b} sheep each. The farmer keeps {c} sheep and shares "
            "the rest equally among {d} sons. How many sheep does each son get?",
            "A library has {a} shelves with {b} books each. It sells {c} books and divides the "
            "rest equally among {d} rooms. How many books does each room get?",
        ),
    ),
    Calculation(
        (
            "first = {a} * {b}",
            "second = {c} * {d}",
            "used = first + second",
            "left = {e} - used",
        ),
        {
            "a": (2, 9),
            "b": (2, 9),
            "c": (2, 9),
            "d": (2, 9),
            "left": (2, 40),
            "e": "{a}*{b}+{c}*{d}+{left}",
            "members": (12, 40),
        },
        (
            "{name} has ${e}. {She} buys {a} {things} for ${b} each and {c} {others} for ${d} "
            "each. How many dollars does {she} have left?",
            "A school has ${e}. It buys {a} chairs for ${b} each and {c} tables for ${d} each. "
            "How many dollars does it have left?",
            "A farmer has ${e}. The farmer buys {a} sheep for ${b} each and {c} goats for ${d} "
            "each. How many dollars does the farmer have left?",
            "A club with {members} members has ${e}. It buys {a} balls for ${b} each and {c} nets"
            " for ${d} each. How many dollars does it have left?",
        ),
    ),
)

STORIES = tuple(
    Story(text, calculation, role)
    for calculation in CALCULATIONS
    for text, role in zip(calculation.stories, ROLES)
)
