"""Arithmetic with a calculator: `What is 13.1-3?`, answers rounded to two decimal places.

The problems are generated: + - * / on integers and decimals below 100. TRL's "Learning Tools" used the
same kind of problem, prompt and reward for its calculator experiment.
"""

import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.answers import numeric_match
from pipeline.tasks import Demonstration, Layout, Problem, ShownCall, Task
from pipeline.tasks.result import handed_in
from pipeline.tools.calculator import calculate

TOOL_NAME = "SimpleCalculatorTool"
DEMONSTRATIONS = ("13.1-3", "4*3", "12.1+1", "12.1-20")
OPERATORS = "+-*/"


class ArithmeticData(BaseModel):
    """How many problems to generate, and from which seed."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin"]
    train: int = Field(ge=1, le=100_000)
    test: int = Field(ge=1, le=100_000)
    seed: int


class Arithmetic(Task):
    """See the module's text."""

    Data = ArithmeticData
    built_in = True
    layout = Layout(question="\n\n{}\n")
    instruction = (
        "Call the calculator, then say what it computed. End your last message with a line that holds "
        "Result= and the number, and nothing else. Results are rounded to two decimal places."
    )
    descriptions: ClassVar[Mapping[str, str]] = {
        TOOL_NAME: "Computes the value of an expression of numbers, + - * / and parentheses."
    }

    def problems(self, data: ArithmeticData) -> dict[str, list[Problem]]:
        """`train` and `test` problems, all different, none of them a demonstration's."""
        rng = random.Random(data.seed)
        seen = set(DEMONSTRATIONS)
        problems: list[Problem] = []
        while len(problems) < data.train + data.test:
            expression = _number(rng) + rng.choice(OPERATORS) + _number(rng)
            if expression in seen or expression.endswith("/0"):
                continue
            seen.add(expression)
            problems.append(
                {
                    "id": expression,
                    "question": _question(expression),
                    "answer": calculate(expression),
                }
            )
        return {"train": problems[: data.train], "test": problems[data.train :]}

    def tools(self, settings, resources):
        return {TOOL_NAME: calculate}

    def demonstrate(self, problems, tools, count):
        shown = [_demonstrate(expression) for expression in DEMONSTRATIONS]
        return shown, [_demonstrate(problem["id"]) for problem in problems[:count]]

    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if the result is the number that the calculator puts out."""
        return numeric_match(handed_in(answer_text), problem["answer"])

    def find(self, text: str, problem: Problem) -> tuple[int, int] | None:
        return (0, len(text)) if text == problem["answer"] else None


def _number(rng: random.Random) -> str:
    """An integer or a number with one decimal place, from 0 to 99.9."""
    if rng.random() < 0.5:
        return str(rng.randrange(100))
    return f"{rng.randrange(100)}.{rng.randrange(1, 10)}"


def _question(expression: str) -> str:
    return f"What is {expression}?"


def _demonstrate(expression: str) -> Demonstration:
    answer = calculate(expression)
    call = ShownCall(TOOL_NAME, expression, answer)
    return Demonstration(_question(expression), [call], answer)


TASK = Arithmetic
