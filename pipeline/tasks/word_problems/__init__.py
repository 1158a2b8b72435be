"""Word problems that the project makes itself: `Olivia has $23. She buys five bagels for $3 each. ...`

Each problem is one of 48 stories with new names and numbers, and each story has a program that solves it.
"""

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import PipelineError
from pipeline.tasks import Problem
from pipeline.tasks.program_task import ProgramTask
from pipeline.tasks.word_problems.stories import STORIES, tell
from pipeline.workspace import ProblemRow


class WordProblemData(BaseModel):
    """How many problems to tell, and from which seed."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin"]
    train: int = Field(ge=1)
    test: int = Field(ge=1)
    unseen: int = Field(ge=0)  # test problems from stories that nobody has seen
    seed: int


class WordProblemRow(ProblemRow):
    """What is read of a problem."""

    program: str
    role: str


class WordProblems(ProgramTask):
    """See the module's text."""

    Data = WordProblemData
    Row = WordProblemRow
    built_in = True

    def problems(self, data: WordProblemData) -> dict[str, list[Problem]]:
        """Problems have a `program`, a `kind` (the story) and a `role`, one of `stories.Role`.

        Every story is told as often as any other. No two problems have the same program. Test problems
        from stories that are not told in training are in the `subset` "unseen".
        """
        rng = random.Random(data.seed)
        everything = range(len(STORIES))
        unknown = [index for index in everything if STORIES[index].role == "unseen"]
        known = [index for index in everything if index not in unknown]
        seen: set[str] = set()
        splits: dict[str, list[Problem]] = {"train": [], "test": []}
        for split, subset, count, stories in (
            ("train", None, data.train, known),
            ("test", None, data.test, known),
            ("test", "unseen", data.unseen, unknown),
        ):
            made: list[Problem] = []
            for position in range(count):
                index = stories[position % len(stories)]
                made.append(_story(index, rng, split == "test", seen))
                if subset:
                    made[-1]["subset"] = subset
            rng.shuffle(made)
            splits[split] += made
        return splits

    def program(self, problem: Problem) -> str | None:
        return problem["program"] if problem["role"] == "demonstrated" else None


def _story(index: int, rng: random.Random, test: bool, seen: set[str]) -> Problem:
    """A new problem of a story; raises PipelineError where it has been told in all ways."""
    for _ in range(1000):
        told = tell(STORIES[index], rng, test)
        if told.program not in seen:
            seen.add(told.program)
            return {
                "id": f"story {index}: {', '.join(told.steps)}",
                "question": told.question,
                "answer": told.answer,
                "kind": f"story {index}",
                "role": STORIES[index].role,
                "program": told.program,
            }
    raise PipelineError(
        f"word_problems.data: too many problems: story {index} has been told in all ways"
    )


TASK = WordProblems
