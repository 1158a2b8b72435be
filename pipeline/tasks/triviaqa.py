"""Trivia with an encyclopaedia to search: `What is the capital of Albania?`

An episode has the form of TRL's "Learning Tools": a first guess on the line `A:`, then on the line `A2:`
a search, and the result. Questions come from TriviaQA or from files, or are made from the facts of the
built-in encyclopaedia; there, no entity is asked about both in training and in the test.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from pipeline import answers as measure
from pipeline.errors import PipelineError
from pipeline.sources import FileSplits, HubSplits, hub_rows, no_good, read_rows
from pipeline.tasks import Demonstration, Measure, Problem, Task
from pipeline.tools import Tool, ToolError
from pipeline.tools.protocol import RESPONSE, SUBMIT, render_call
from pipeline.tools.wiki import Wiki
from pipeline.tools.wiki.diagnosis import DIAGNOSES, Search, diagnose, last_search
from pipeline.tools.wiki.encyclopaedia import Entity, entities
from pipeline.tools.wiki.index import open_index

TOOL_NAME = "Wiki"
SHOTS = 2
"""How many demonstrations the prompt has, as the original's."""

LONGEST_SHOWN = 800
"""Articles of more characters are no part of demonstrations."""

TEST_SHARE = 4
"""Of the built-in encyclopaedia's entities one in so many is for the test."""


class TriviaData(BaseModel):
    """Where questions come from, and how many of them to take, drawn with a seed."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin", "hub", "path"]
    hub: HubSplits
    path: FileSplits  # of {id, question, answers}
    train: int = Field(ge=1)
    test: int = Field(ge=1)
    seed: int


class WikiSettings(BaseModel):
    """BM25's parameters, how many hits of each search to record, and how many threads search."""

    model_config = ConfigDict(extra="forbid")
    k1: float = Field(ge=0)
    b: float = Field(ge=0, le=1)
    hits: int = Field(ge=1)
    threads: int = Field(ge=1)


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
"""The kinds of built-in questions: of what entity they ask which fact, and in which forms."""

DEMONSTRATED = ("capital", "currency", "country", "time zone", "state", "symbol")
"""The kinds of built-in questions that demonstrations show. The others PPO has to find out."""

WORDS = {"am", "as", "at", "be", "he", "i", "in", "no"}
"""Symbols of elements that are also words: a sentence may well hold one that means something else."""

_RESULT = re.compile(rf"Result\s*=(.*?){SUBMIT}", re.DOTALL)
_NAMES = re.compile(r"[A-Z][\w.'’-]*(?: (?:(?:of|the|de|and) )*[A-Z0-9][\w.'’-]*)*")


def _result(answer_text: str) -> str:
    """What the model hands in; empty if it hands in nothing."""
    results = _RESULT.findall(answer_text)
    return results[-1].strip() if results else ""


def _of_result(title: str, compare: Callable[[str, Sequence[str]], float]) -> Measure:
    """A measure of the result that is handed in, against the aliases."""
    return Measure(title, lambda text, problem: compare(_result(text), problem["aliases"]))


class TriviaQA(Task):
    """See the module's text."""

    Data = TriviaData
    Tools = WikiSettings
    code = (
        "pipeline/answers.py",
        "pipeline/tools/wiki",
        "pipeline/sources.py",
        "pipeline/tools/wiki/__init__.py",
    )
    computes = False

    def problems(self, data: TriviaData) -> dict[str, list[Problem]]:
        """Problems have `aliases`, all that count as right, and `answer`, the first of them.

        The built-in ones also have `kind`, one of `FORMS`, and `subject`, the entity's name.
        """
        rng = random.Random(data.seed)
        if data.source == "builtin":
            everything = _builtin()
            return {
                split: _balanced(everything[split], getattr(data, split), rng)
                for split in ("train", "test")
            }
        splits = {}
        for split in ("train", "test"):
            if data.source == "path":
                rows = _from_file(getattr(data.path, split))
            else:
                rows = _from_hub(data.hub, getattr(data.hub, split))
            splits[split] = rng.sample(rows, min(len(rows), getattr(data, split)))
        return splits

    def tools(self, settings: WikiSettings, resources: Mapping[str, Any]) -> Mapping[str, Tool]:
        if "index" not in resources:
            raise PipelineError("triviaqa has no index to search: run `dvc repro build_index`")
        searcher = open_index(
            resources["index"], k1=settings.k1, b=settings.b, threads=settings.threads
        )
        return {TOOL_NAME: Wiki(searcher, settings.hits)}

    def demonstrate(self, problems, tools, count):
        shown = [p for p in problems if p.get("kind") in (*DEMONSTRATED, None)]
        found: list[Demonstration] = []
        for number, problem in enumerate(shown):
            if len(found) == SHOTS + count:
                break
            for query, response, answer in _first_answered(problem, tools[TOOL_NAME]):
                # Most first guesses are wrong, or the result would just copy them.
                guess = answer if len(found) % 3 == 0 else _wrong_guess(shown, number)
                found.append(_written(self.query(problem), guess, query, response, answer))
        if len(found) < SHOTS:
            raise PipelineError(
                "triviaqa: no two training questions are answered by what a search for them finds: "
                "do the questions (triviaqa.data) fit the encyclopaedia (corpus)?"
            )
        shots = "".join(demonstration.text for demonstration in found[:SHOTS])
        return "Answer the following question:" + shots, found[SHOTS:]

    def query(self, problem: Problem) -> str:
        return f"\n\nQ: {problem['question']}\nA:"

    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if the result, what stands between `Result=` and `<submit>`, holds an answer."""
        return measure.contains(_result(answer_text), problem["aliases"])

    measures: ClassVar[Mapping[str, Measure]] = {
        "first_20_words": _of_result("answer in the first 20 words", measure.contains_early),
        "exact_match": _of_result("exact match", measure.exact_match),
        "f1": _of_result("F1", measure.f1),
    }

    def find(self, text: str, problem: Problem) -> tuple[int, int] | None:
        return measure.find(text, problem["aliases"])

    diagnoses = DIAGNOSES

    def diagnose(self, rows, tools):
        wiki: Any = tools[TOOL_NAME]
        searches = [
            Search(last_search(row["calls"]), row["question"], tuple(row["aliases"]))
            for row in rows
        ]
        return diagnose(wiki.searcher, searches)


# --- questions -------------------------------------------------------------------------------------


def _builtin() -> dict[str, list[Problem]]:
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


def _from_file(path: Path) -> list[Problem]:
    """Raises PipelineError, naming file and line, for what is no `{id, question, answers}`."""
    fields = {"id": str, "question": str, "answers": list}
    problems = []
    for where, row in read_rows(path, fields, "triviaqa.data.path", unique="id"):
        if not all(isinstance(answer, str) for answer in row["answers"]):
            raise no_good(where, "answers", fields)
        problems.append(
            {
                "id": row["id"],
                "question": row["question"],
                "answer": row["answers"][0],
                "aliases": row["answers"],
            }
        )
    return problems


def _from_hub(source: HubSplits, split: str) -> list[Problem]:
    """A question that is there twice, with other evidence, is taken once."""
    problems = {
        row["question_id"]: {
            "id": row["question_id"],
            "question": row["question"],
            "answer": row["answer"]["value"],
            "aliases": list(dict.fromkeys([row["answer"]["value"], *row["answer"]["aliases"]])),
        }
        for row in hub_rows(source, split, "triviaqa.data.hub")
    }
    return list(problems.values())


# --- demonstrations --------------------------------------------------------------------------------


def _wrong_guess(problems: Sequence[Problem], number: int) -> str:
    """The answer to the next problem of the same kind that has another one."""
    problem = problems[number]
    return next(
        (
            other["answer"]
            for other in [*problems[number + 1 :], *problems[:number]]
            if other.get("kind") == problem.get("kind")
            and not measure.contains(other["answer"], problem["aliases"])
        ),
        problem["answer"],
    )


def _first_answered(problem: Problem, wiki: Tool) -> list[tuple[str, str, str]]:
    """The first search that finds an answer, what it finds, and the answer; nothing if none does."""
    for query in _searches(problem):
        try:
            response = str(wiki(query))
        except ToolError:  # the question may be too long to search for
            continue
        if len(response) <= LONGEST_SHOWN:
            for answer in problem["aliases"]:
                if measure.contains(response, [answer]):
                    return [(query, response, answer)]
    return []


def _searches(problem: Problem) -> Sequence[str]:
    """What one might search for: the subject, or the longest name in the question; the question."""
    names = [problem["subject"]] if "subject" in problem else []
    # The question's first word has a capital letter whether it is a name or not.
    after_first = problem["question"].partition(" ")[2]
    names += sorted(_NAMES.findall(after_first), key=len, reverse=True)[:1]
    return [*names, problem["question"]]


def _written(query: str, guess: str, search: str, response: str, answer: str) -> Demonstration:
    return Demonstration(
        query,
        (
            ("model", f" {guess}\nA2: {render_call(TOOL_NAME, search)}"),
            ("tool", response + RESPONSE),
            ("model", f"\nResult={answer}{SUBMIT}"),
        ),
    )


TASK = TriviaQA
