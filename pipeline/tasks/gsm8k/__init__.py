"""Word problems solved by writing a program: `Olivia has $23. She buys five bagels for $3 each. ...`

An episode has the form of TRL's "Learning Tools": the question, a program for the python interpreter,
what it printed, the result. Problems are the project's own stories, or those of GSM8K (Cobbe et al.
2021, https://arxiv.org/abs/2110.14168), whose solutions can be made into programs.
"""

import random
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.answers import number, numeric_match
from pipeline.errors import PipelineError
from pipeline.sources import FileSplits, HubSplits, hub_rows, read_rows
from pipeline.tasks import Demonstration, Problem, Task
from pipeline.tasks.gsm8k.marks import marked_program
from pipeline.tasks.gsm8k.stories import STORIES, tell
from pipeline.tools import Tool, ToolError
from pipeline.tools.protocol import RESPONSE, SUBMIT, render_call
from pipeline.tools.python import PythonInterpreter

TOOL_NAME = "PythonInterpreter"
SHOTS = 2
"""How many demonstrations the prompt has."""

_RESULT = re.compile(rf"Result\s*=(.*?){SUBMIT}", re.DOTALL)
_FIELDS = {"question": str, "answer": str}


class WordProblemData(BaseModel):
    """Where problems come from, and how many of them to take, drawn with a seed."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin", "hub", "path"]
    hub: HubSplits
    path: FileSplits  # of {question, answer}, the answer a solution that ends in `#### 72`
    train: int = Field(ge=1)
    test: int = Field(ge=1)
    unseen: int = Field(ge=0)  # built-in test problems from stories that nobody has seen
    seed: int


class InterpreterSettings(BaseModel):
    """Limits of a program; see `PythonInterpreter`."""

    model_config = ConfigDict(extra="forbid")
    time_limit: float = Field(gt=0, le=60)  # seconds
    memory_limit: int = Field(ge=8)  # MiB
    recursion_limit: int = Field(ge=10, le=1000)
    output_limit: int = Field(ge=1)  # characters
    workers: int = Field(ge=1)


class GSM8K(Task):
    """See the module's text."""

    Data = WordProblemData
    Tools = InterpreterSettings
    code = (
        "pipeline/answers.py",
        "pipeline/sources.py",
        "pipeline/tools/calculator.py",
        "pipeline/tools/python.py",
        "pipeline/tasks/gsm8k",
    )
    packages = ("pydantic-monty",)

    def problems(self, data: WordProblemData) -> dict[str, list[Problem]]:
        """Those of GSM8K have a `solution`, built-in ones a `program`, a `kind` (the story), a `role`.

        Test problems from stories that are not told in training are in the `subset` "unseen".
        """
        rng = random.Random(data.seed)
        if data.source == "builtin":
            return _tell_stories(data, rng)
        splits = {}
        for split in ("train", "test"):
            if data.source == "path":
                rows = _from_file(getattr(data.path, split))
            else:
                rows = _from_hub(data.hub, getattr(data.hub, split))
            splits[split] = rng.sample(rows, min(len(rows), getattr(data, split)))
        return splits

    def tools(self, settings: InterpreterSettings, resources):
        return {TOOL_NAME: PythonInterpreter(**settings.model_dump())}

    def demonstrate(self, problems, tools, count):
        found: list[Demonstration] = []
        for problem in problems:
            program = _program(problem)
            printed = _printed(tools[TOOL_NAME], program) if program else ""
            if program and numeric_match(printed, problem["answer"]):
                found.append(_written(self.query(problem), program, printed))
            if len(found) == SHOTS + count:
                break
        if len(found) < SHOTS:
            raise PipelineError(
                "gsm8k: no two of the training problems can be demonstrated: there must be more "
                "(gsm8k.data.train), and answers from files need marks like <<12/60=0.2>>"
            )
        shots = "".join(demonstration.text for demonstration in found[:SHOTS])
        return "Solve each problem with a program." + shots, found[SHOTS:]

    def query(self, problem: Problem) -> str:
        return f"\n\nQ: {problem['question']}\n"

    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if the result, what stands between `Result =` and `<submit>`, is the right number."""
        results = _RESULT.findall(answer_text)
        return numeric_match(results[-1], problem["answer"]) if results else 0.0

    def find(self, text: str, problem: Problem) -> tuple[int, int] | None:
        """The first line that is the right number."""
        lines = re.finditer(r"[^\n]+", text)
        return next((m.span() for m in lines if numeric_match(m.group(), problem["answer"])), None)


# --- problems --------------------------------------------------------------------------------------


def _tell_stories(data: WordProblemData, rng: random.Random) -> dict[str, list[Problem]]:
    """Every story as often as any other. No two problems have the same program."""
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
    raise PipelineError(f"gsm8k.data: too many problems: story {index} has been told in all ways")


def _from_file(path: Path) -> list[Problem]:
    rows = read_rows(path, _FIELDS, "gsm8k.data.path")
    return [_problem(where, row) for where, row in rows]


def _from_hub(source: HubSplits, split: str) -> list[Problem]:
    rows = hub_rows(source, split, "gsm8k.data.hub")
    return [_problem(f"{split}:{line}", row) for line, row in enumerate(rows, 1)]


def _problem(where: str, row: dict[str, Any]) -> Problem:
    """Raises PipelineError if no number stands after `####`."""
    solution, _, result = row["answer"].rpartition("####")
    value = number(result)
    if value is None:
        raise PipelineError(f"{where}: no good 'answer'; it must end in #### and a number")
    plain = result.strip().replace("−", "-").replace("$", "").replace(",", "")
    return {"id": where, "question": row["question"], "answer": plain, "solution": solution}


# --- demonstrations --------------------------------------------------------------------------------


def _program(problem: Problem) -> str | None:
    """The program that solves it, if it is known and may be shown."""
    if "solution" in problem:
        return marked_program(problem["solution"], problem["answer"])
    return problem["program"] if problem["role"] == "demonstrated" else None


def _printed(interpreter: Tool, program: str) -> str:
    """What the program prints; nothing if it fails."""
    try:
        return str(interpreter(program))
    except ToolError:
        return ""


def _written(query: str, program: str, printed: str) -> Demonstration:
    return Demonstration(
        query,
        (
            ("model", render_call(TOOL_NAME, f"\n{program}")),
            ("tool", printed + RESPONSE),
            ("model", f"\nResult = {printed} {SUBMIT}"),
        ),
    )


TASK = GSM8K
