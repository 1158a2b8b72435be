"""A question with an encyclopaedia to search: what `trivia` and `triviaqa` share.

An episode has the form of TRL's "Learning Tools". The model writes a first guess on the line `A:`. On the
line `A2:` it searches, and then it writes the result.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import answers as measure
from pipeline.errors import PipelineError
from pipeline.tasks import Demonstration, Layout, Measure, Problem, ShownCall, Task
from pipeline.tasks.result import handed_in
from pipeline.tools import Tool, ToolError
from pipeline.tools.protocol import holds_tag
from pipeline.tools.wiki import Wiki
from pipeline.tools.wiki.diagnosis import DIAGNOSES, Search, diagnose, last_search
from pipeline.tools.wiki.index import open_index
from pipeline.workspace import ProblemRow

TOOL_NAME = "Wiki"
SHOTS = 2
"""How many demonstrations the prompt has, as the original's."""

LONGEST_SHOWN = 800
"""Paragraphs of more characters are no part of demonstrations."""


class WikiSettings(BaseModel):
    """BM25's parameters, how many hits of each search to record and to show, and how many threads search."""

    model_config = ConfigDict(extra="forbid")
    k1: float = Field(ge=0)
    b: float = Field(ge=0, le=1)
    hits: int = Field(ge=1)
    shown: int = Field(ge=1)
    threads: int = Field(ge=1)

    @model_validator(mode="after")
    def _shown_are_recorded(self) -> Self:
        if self.shown > self.hits:
            raise ValueError(
                f"shown must be at most hits, which is {self.hits}; it is {self.shown}"
            )
        return self


_NAMES = re.compile(r"[A-Z][\w.'’-]*(?: (?:(?:of|the|de|and) )*[A-Z0-9][\w.'’-]*)*")


def of_result(title: str, compare: Callable[[str, Sequence[str]], float]) -> Measure:
    """A measure of the result that is handed in, against the aliases."""
    return Measure(title, lambda text, problem: compare(handed_in(text), problem["aliases"]))


class SearchRow(ProblemRow):
    """What is read of a problem."""

    aliases: list[str]


class SearchTask(Task):
    """A task whose problems have `aliases`, all that count as right, and `answer`, the first of them.

    A subclass says where problems come from, and which of them demonstrations may show.
    """

    Row: ClassVar[type[ProblemRow]] = SearchRow
    Tools = WikiSettings
    resources = ("index",)
    computes = False
    layout = Layout(
        head="Answer the following question:", question="\n\nQ: {}\nA:", guess=" {}\nA2: "
    )
    instruction = (
        "Search the encyclopaedia before you answer the question. End your last message with a line "
        "that holds Result= and the answer in a few words, and nothing else."
    )
    descriptions: ClassVar[Mapping[str, str]] = {
        TOOL_NAME: "Searches an encyclopaedia. It puts out the paragraph that fits best."
    }

    def demonstrated(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Those of the training problems that demonstrations may show; by default all."""
        return problems

    def tools(self, settings: WikiSettings, resources: Mapping[str, Any]) -> Mapping[str, Tool]:
        searcher = open_index(
            resources["index"], k1=settings.k1, b=settings.b, threads=settings.threads
        )
        return {TOOL_NAME: Wiki(searcher, settings.hits, settings.shown)}

    def demonstrate(self, problems, tools, count):
        shown = [
            problem
            for problem in self.demonstrated(problems)
            if not any(map(holds_tag, (problem["question"], *problem["aliases"])))
        ]
        found: list[Demonstration] = []
        for number, problem in enumerate(shown):
            if len(found) == SHOTS + count:
                break
            for query, response, answer in _first_answered(problem, tools[TOOL_NAME]):
                # Most first guesses are wrong, or the result would just copy them.
                guess = answer if len(found) % 3 == 0 else _wrong_guess(shown, number)
                call = ShownCall(TOOL_NAME, query, response)
                found.append(Demonstration(problem["question"], [call], answer, guess))
        if len(found) < SHOTS:
            raise PipelineError(
                f"{self.name}: no two training questions are answered by what a search for them finds: "
                f"do the questions ({self.name}.data) fit the encyclopaedia (corpus)?"
            )
        return found[:SHOTS], found[SHOTS:]

    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if the result is one of the aliases, or a sentence that names one and nothing else."""
        question = problem.get("question", "")
        return measure.names(handed_in(answer_text), problem["aliases"], question)

    measures: ClassVar[Mapping[str, Measure]] = {
        "first_20_words": of_result("answer in the first 20 words", measure.contains_early),
        "exact_match": of_result("exact match", measure.exact_match),
        "f1": of_result("F1", measure.f1),
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
        return diagnose(wiki.searcher, searches, wiki.shown)


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
        longest = max(map(len, response.splitlines()), default=0)
        if longest <= LONGEST_SHOWN and not holds_tag(response):
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
