"""Word problems that the project makes itself: 48 stories, told with ever new names and numbers.

A story is a form: a text with gaps, which numbers fit the gaps, and the steps that solve it. There are
six calculations of one to four steps, each told in eight stories. Some stories mention a number that has
nothing to do with the question.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from pipeline.tasks.program_task import write_program
from pipeline.tools.calculator import calculate

Role = Literal["demonstrated", "trained", "unseen"]
"""Demonstrated stories are told in demonstrations, training and test; trained ones in training and test;
unseen ones in the test only."""

ROLES: tuple[Role, ...] = (
    *("demonstrated", "demonstrated"),
    *("trained", "trained", "trained", "trained"),
    *("unseen", "unseen"),
)
"""The roles of a calculation's stories."""

Numbers = tuple[int, int] | str | list[str]
"""What may fill a gap: a whole number from a range, the value of an expression of earlier ones, or a
number from a list."""


@dataclass(frozen=True)
class Calculation:
    """What several stories have in common."""

    steps: tuple[str, ...]  # assignments with gaps; the last one's value is the answer
    numbers: Mapping[str, Numbers]  # by gap; some gaps occur in one story only
    stories: tuple[str, ...]  # one for each of ROLES


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
        return write_program(self.steps)


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
        {"b": (2, 30), "left": (3, 60), "a": "{b}+{left}", "age": (18, 70)},
        (
            "{name} has {a} {things}. {She} gives {b} of them to {friend}. How many {things} does"
            " {name} have left?",
            "A shop has {a} {things}. It sells {b} of them in the morning. How many {things} does"
            " the shop have left?",
            "{name} has {a} {things}. {She} loses {b} of them on the way home. How many {things} "
            "does {name} have left?",
            "{name} has {a} {things}. {friend} borrows {b} of them. How many {things} does {name}"
            " have left?",
            "A school has {a} {things}. It gives {b} of them to the children. How many {things} "
            "does the school have left?",
            "A farmer has {a} {things}. The farmer sells {b} of them at the market. How many "
            "{things} does the farmer have left?",
            "{name}, who is {age} years old, has {a} {things}. {She} throws {b} of them away. How "
            "many {things} does {name} have left?",
            "{name} has a book of {a} pages. {She} has read {b} of them. How many pages does "
            "{name} have left to read?",
        ),
    ),
    Calculation(
        ("total = {a} * {b}",),
        {"a": (3, 20), "b": (3, 30), "age": (18, 70)},
        (
            "{name} has {a} {boxes}. In each of them are {b} {things}. How many {things} does "
            "{name} have in all?",
            "There are {a} {boxes} in a room. In each of them are {b} {things}. How many {things}"
            " are in the room in all?",
            "{name}, who is {age} years old, finds {a} {boxes}. In each of them are {b} {things}. "
            "How many {things} does {name} find in all?",
            "A shop sells {a} {boxes}. In each of them are {b} {things}. How many {things} does "
            "the shop sell in all?",
            "A school has {a} rooms. In each of them are {b} {things}. How many {things} does the "
            "school have in all?",
            "A farmer has {a} {boxes}. In each of them are {b} {things}. How many {things} does "
            "the farmer have in all?",
            "A house that is {age} years old has {a} rooms. In each of them are {b} {things}. How"
            " many {things} are in the house in all?",
            "A hall has {a} rows. In each of them are {b} seats. How many seats does the hall "
            "have in all?",
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
            "{name} has ${a}. {She} gives {b} children ${c} each. How many dollars does {she} "
            "have left?",
            "A hotel has ${a}. It buys {b} beds for ${c} each. How many dollars does it have left?",
            "{name} and {friend} have ${a}. They buy {b} tickets for ${c} each. How many dollars "
            "do they have left?",
            "A club with {members} members has ${a}. It buys {b} balls for ${c} each. How many "
            "dollars does it have left?",
            "{name} has {a} {things}. {She} puts {c} of them into each of {b} {boxes}. How many "
            "{things} does {she} have left?",
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
            "A school has {a} chairs and {b} tables. It shares them all equally among {c} rooms. "
            "How many things does each room get?",
            "{name} has {a} {things} and {b} {others}. {She} divides them all equally among {c} "
            "{boxes}. How many things does each {box} get?",
            "{name} has ${a} and {friend} has ${b}. They share them all equally among {c} "
            "children. How many dollars does each child get?",
            "A farmer has {a} sheep and {b} goats. The farmer shares them all equally among {c} "
            "sons. How many animals does each son get?",
            "{name} finds {a} {things} and {friend} finds {b}. They share them all equally among "
            "{c} friends. How many {things} does each friend get?",
            "A trip of {long} kilometers costs ${a} for tickets and ${b} for a room. The cost is "
            "shared equally among {c} people. How many dollars does each person pay?",
            "A library has {a} old books and {b} new books. It puts them all on {c} shelves, on "
            "each of them equally many. How many books does each shelf get?",
        ),
    ),
    Calculation(
        (
            "first = {a} * {b}",
            "second = {c} * {d}",
            "total = first + second",
        ),
        {"a": (2, 9), "b": (2, 12), "c": (2, 9), "d": (2, 12), "high": (9, 60)},
        (
            "{name} buys {a} {things} for ${b} each and {c} {others} for ${d} each. How many "
            "dollars does {she} pay in all?",
            "A school buys {a} chairs for ${b} each and {c} tables for ${d} each. How many "
            "dollars does it pay in all?",
            "A farmer buys {a} sheep for ${b} each and {c} goats for ${d} each. How many dollars "
            "does the farmer pay in all?",
            "{name} sells {a} {things} for ${b} each and {c} {others} for ${d} each. How many "
            "dollars does {she} get in all?",
            "A library buys {a} books for ${b} each and {c} lamps for ${d} each. How many dollars"
            " does it pay in all?",
            "{name} and {friend} buy {a} {things} for ${b} each and {c} {others} for ${d} each. "
            "How many dollars do they pay in all?",
            "A hotel that is {high} meters high buys {a} beds for ${b} each and {c} sofas for "
            "${d} each. How many dollars does it pay in all?",
            "{name} works {a} hours for ${b} an hour and {c} hours for ${d} an hour. How many "
            "dollars does {she} earn in all?",
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
            "A hotel has ${e}. It buys {a} beds for ${b} each and {c} sofas for ${d} each. How "
            "many dollars does it have left?",
            "{name} and {friend} have ${e}. They buy {a} {things} for ${b} each and {c} {others} "
            "for ${d} each. How many dollars do they have left?",
            "A library has ${e}. It buys {a} books for ${b} each and {c} lamps for ${d} each. How"
            " many dollars does it have left?",
            "A club with {members} members has ${e}. It buys {a} balls for ${b} each and {c} nets"
            " for ${d} each. How many dollars does it have left?",
            "A driver has {e} liters of fuel. The driver makes {a} trips with {b} liters each and "
            "{c} trips with {d} liters each. How many liters does the driver have left?",
        ),
    ),
)

STORIES = tuple(
    Story(text, calculation, role)
    for calculation in CALCULATIONS
    for text, role in zip(calculation.stories, ROLES, strict=True)
)
