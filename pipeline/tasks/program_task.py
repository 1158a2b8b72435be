"""A word problem solved by writing a program: what `word_problems` and `gsm8k` share.

An episode has the form of TRL's "Learning Tools": the question, a program for the python interpreter,
what it printed, the result.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline.answers import numeric_match
from pipeline.errors import PipelineError
from pipeline.tasks import Demonstration, Layout, Problem, ShownCall, Task
from pipeline.tasks.result import handed_in
from pipeline.tools import Tool, ToolError
from pipeline.tools.protocol import holds_tag
from pipeline.tools.python import PythonInterpreter

TOOL_NAME = "PythonInterpreter"
SHOTS = 2
"""How many demonstrations the prompt has, if a task does not say otherwise."""


class InterpreterSettings(BaseModel):
    """Limits of a program; see `PythonInterpreter`."""

    model_config = ConfigDict(extra="forbid")
    time_limit: float = Field(gt=0, le=60)  # seconds
    memory_limit: int = Field(ge=8)  # MiB
    recursion_limit: int = Field(ge=10, le=1000)
    output_limit: int = Field(ge=1)  # characters
    workers: int = Field(ge=1)


class ProgramTask(Task):
    """A task whose problems have a number as `answer`.

    A subclass says where problems come from, and which program solves one.
    """

    Tools = InterpreterSettings
    packages = ("pydantic-monty",)
    layout = Layout(
        head="Solve each problem with a program.", argument="\n{}", result="\nResult = {} "
    )
    instruction = (
        "Solve the problem with a Python program that prints the answer, and run it with the tool. "
        "End your last message with a line that holds Result= and the number, and nothing else."
    )
    descriptions: ClassVar[Mapping[str, str]] = {
        TOOL_NAME: "Runs a Python program. It puts out what the program prints."
    }

    shot_count: ClassVar[int] = SHOTS
    """How many demonstrations the prompt has."""

    def in_order(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems to demonstrate, those of the prompt first; by default as they come."""
        return problems

    @abstractmethod
    def program(self, problem: Problem) -> str | None:
        """The program that solves the problem, if it is known and may be shown."""

    def tools(self, settings: InterpreterSettings, resources):
        return {TOOL_NAME: PythonInterpreter(**settings.model_dump())}

    def demonstrate(self, problems, tools, count):
        found: list[Demonstration] = []
        for problem in self.in_order(problems):
            found += demonstrations(problem, self.program(problem), tools)
            if len(found) == self.shot_count + count:
                break
        if len(found) < self.shot_count:
            raise PipelineError(
                f"{self.name}: {len(found)} problems can be demonstrated: the prompt has {self.shot_count}, so "
                f"there must be more ({self.name}.data.train), and solutions need marks like <<12/60=0.2>>"
            )
        return found[: self.shot_count], found[self.shot_count :]

    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if the result is the right number."""
        return numeric_match(handed_in(answer_text), problem["answer"])

    def find(self, text: str, problem: Problem) -> tuple[int, int] | None:
        """The first line that is the right number."""
        lines = re.finditer(r"[^\n]+", text)
        return next((m.span() for m in lines if numeric_match(m.group(), problem["answer"])), None)


def write_program(steps: Sequence[str]) -> str:
    """The program that takes the steps, each an assignment, and prints what the last one assigns."""
    result = steps[-1].partition("=")[0].strip()
    body = "".join(f"    {step}\n" for step in (*steps, f"return {result}"))
    return f"def solution():\n{body}print(solution())\n"


def demonstrations(
    problem: Problem, program: str | None, tools: Mapping[str, Tool]
) -> list[Demonstration]:
    """The problem solved by the program; nothing if that prints another answer, or the question holds a tag."""
    if program is None or holds_tag(problem["question"]):
        return []
    printed = _printed(tools[TOOL_NAME], program)
    if not numeric_match(printed, problem["answer"]):
        return []
    return [Demonstration(problem["question"], [ShownCall(TOOL_NAME, program, printed)], printed)]


def _printed(interpreter: Tool, program: str) -> str:
    """What the program prints; nothing if it fails."""
    try:
        return str(interpreter(program))
    except ToolError:
        return ""
