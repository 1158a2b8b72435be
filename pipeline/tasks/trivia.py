"""Trivia with the built-in encyclopaedia to search: `What is the capital of Albania?`

Questions are made from the encyclopaedia's facts. No entity is asked about both in training and in the
test.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from pipeline.tasks import Problem
from pipeline.tasks.search_task import SearchRow, SearchTask
from pipeline.tools.wiki.encyclopaedia import Entity, entities

TEST_SHARE = 4
"""Of the encyclopaedia's entities one in so many is for the test."""


class TriviaData(BaseModel):
    """How many questions to take, drawn with a seed."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin"]
    train: int = Field(ge=1)
    test: int = Field(ge=1)
    seed: int


FORMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "capital": ("country", "capital", (
        "What is the capital of {name}?",
        "Which city is the capital of {name}?",
    )),
    "currency": ("country", "currency", (
        "What is the currency of {name}?",
        "Which currency is used in {name}?",
    )),
    "country": ("city", "country", (
        "In which country is the city of {name}?",
        "Which country does the city of {name} belong to?",
    )),
    "time zone": ("city", "timezone", (
        "In which time zone is the city of {name}?",
        "What is the time zone of {name}?",
    )),
    "population": ("city", "population", (
        "How many inhabitants does the city of {name} have?",
        "What is the population of {name}?",
    )),
    "state": ("county", "state", (
        "In which state of the United States is {name}?",
        "Which state does {name} belong to?",
    )),
    "symbol": ("element", "symbol", (
        "What is the symbol of the chemical element {name}?",
        "Which symbol do chemists write for {name}?",
    )),
    "atomic number": ("element", "number", (
        "What is the atomic number of {name}?",
        "Which atomic number does the element {name} have?",
    )),
    "discovery": ("element", "year", (
        "In which year was {name} discovered?",
        "When was the element {name} discovered?",
    )),
}  # fmt: skip
"""The kinds of questions: of what entity they ask which fact, and in which forms."""

DEMONSTRATED = ("capital", "currency", "country", "time zone", "state", "symbol")
"""The kinds of questions that demonstrations show. The others PPO has to find out."""

WORDS = {"am", "as", "at", "be", "he", "i", "in", "no"}
"""Symbols of elements that are also words: a sentence may well hold one that means something else."""


class TriviaRow(SearchRow):
    """What is read of a problem."""

    kind: str


class Trivia(SearchTask):
    """See the module's text. Problems also have `kind`, one of `FORMS`, and `subject`, the entity's name."""

    Data = TriviaData
    Row = TriviaRow
    built_in = True

    def problems(self, data: TriviaData) -> dict[str, list[Problem]]:
        """From every kind of question as many as from any other, as long as there are some."""
        rng = random.Random(data.seed)
        everything = _questions()
        return {
            split: _balanced(everything[split], getattr(data, split), rng)
            for split in ("train", "test")
        }

    def demonstrated(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Some kinds of questions; PPO has to find out the others."""
        return [problem for problem in problems if problem["kind"] in DEMONSTRATED]


def _questions() -> dict[str, list[Problem]]:
    """All questions on entities that can be told by their names, by split, grouped by kind."""
    everything = entities()
    bearers = Counter(entity.name for entity in everything)
    splits: dict[str, list[Problem]] = {"train": [], "test": []}
    for kind, (entity_kind, fact, forms) in FORMS.items():
        for entity in everything:
            if entity.kind != entity_kind or bearers[entity.name] > 1:
                continue
            if entity.facts[fact].lower() not in WORDS:
                form = forms[crc32(f"{kind} {entity.id}".encode()) % len(forms)]
                splits[_split(entity)].append(
                    {
                        "id": f"{kind}: {entity.id}",
                        "question": form.format(name=entity.name),
                        "answer": entity.facts[fact],
                        "aliases": _spellings(fact, entity.facts[fact]),
                        "kind": kind,
                        "subject": entity.name,
                    }
                )
    return splits


def _split(entity: Entity) -> str:
    return "test" if crc32(entity.id.encode()) % TEST_SHARE == 0 else "train"


def _spellings(fact: str, value: str) -> list[str]:
    """The ways to write a fact that count as right."""
    if fact == "population":
        return [value, value.replace(",", "")]
    return [value]


def _balanced(problems: Iterable[Problem], count: int, rng: random.Random) -> list[Problem]:
    """`count` problems, from every kind as many as from any other as long as there are some."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem["kind"], []).append(problem)
    for group in by_kind.values():
        rng.shuffle(group)
    chosen: list[Problem] = []
    while len(chosen) < count and any(by_kind.values()):
        chosen += [group.pop() for group in by_kind.values() if group]
    chosen = chosen[:count]
    rng.shuffle(chosen)
    return chosen


TASK = Trivia
