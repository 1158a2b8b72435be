"""The tasks a model learns, a module or a package each: problems, tools, demonstrations, and the reward.

A new task is a file `pipeline/tasks/<name>.py` with a `Task` subclass called `TASK` in it, its name in
`names.py`, and a section `<name>` in params.yaml. Put its name in the list `tasks` there, and every
stage runs for it. A task that searches, or that writes programs, takes most from `search_task.py` or
`program_task.py`.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import PipelineError
from pipeline.tasks.names import NAMES
from pipeline.tools import Tool
from pipeline.tools.protocol import RESPONSE, SUBMIT, render_call
from pipeline.workspace import ProblemRow

Problem = dict[str, Any]
"""One row of a task set, JSON-able: at least `id`, `question` and `answer`.

`aliases` are the texts that count as right, the answer among them; without them only the answer does.
"""

RECORDED = ("id", "question", "answer", "aliases", "kind", "subset")
"""The fields of a problem that the tables of episodes keep: what the error analysis knows of it."""


def problem_of(row: Mapping[str, Any]) -> Problem:
    """The problem of an episode's row: the fields of `RECORDED`."""
    return {field: row[field] for field in RECORDED}


def recorded(problem: Problem) -> Problem:
    """What a row keeps of a problem."""
    defaults = {"aliases": [problem["answer"]], "kind": None, "subset": ""}
    return {field: problem.get(field, defaults.get(field)) for field in RECORDED}


Author = Literal["model", "tool"]


@dataclass(frozen=True)
class ShownCall:
    """A call in a demonstration, and what the tool really put out."""

    tool: str
    argument: str
    output: str


@dataclass(frozen=True)
class Demonstration:
    """A problem done right. How it is written down is the protocol's affair."""

    question: str
    calls: Sequence[ShownCall]
    result: str  # what is handed in
    guess: str = ""  # what the model says before it calls, where the layout has a place for it


def transcript(instruction: str, shots: Sequence[Demonstration]) -> str:
    """What the protocol `chat` begins an episode with, for people to read; the model's template writes it otherwise."""
    lines = [f"system: {instruction}"]
    for shot in shots:
        lines.append(f"user: {shot.question}")
        for call in shot.calls:
            lines += [f"assistant calls {call.tool}: {call.argument}", f"tool: {call.output}"]
        lines.append(f"assistant: Result={shot.result}")
    return "\n".join(lines)


def read_demonstration(row: Mapping[str, Any]) -> Demonstration:
    """A demonstration as `dataclasses.asdict` has written it."""
    return Demonstration(**{**row, "calls": [ShownCall(**call) for call in row["calls"]]})


@dataclass(frozen=True)
class Layout:
    """How a task's episodes look under the protocol `tags`: forms, in which {} is what changes."""

    head: str = ""  # the first line of the prompt; no form
    question: str = "\n\nQ: {}\n"
    guess: str = ""
    argument: str = "{}"
    result: str = "\nResult={}"

    def segments(self, shown: Demonstration) -> list[tuple[Author, str]]:
        """The texts of the model and of the tools in turn, after the question."""
        segments: list[tuple[Author, str]] = []
        said = self.guess.format(shown.guess)
        for call in shown.calls:
            argument = self.argument.format(call.argument)
            segments.append(("model", said + render_call(call.tool, argument)))
            segments.append(("tool", call.output + RESPONSE))
            said = ""
        return [*segments, ("model", said + self.result.format(shown.result) + SUBMIT)]

    def text(self, shown: Demonstration) -> str:
        """All of it, the question first."""
        rest = "".join(text for _, text in self.segments(shown))
        return self.question.format(shown.question) + rest

    def prompt(self, shots: Sequence[Demonstration]) -> str:
        """The prompt that shows these."""
        return (self.head + "".join(map(self.text, shots))).lstrip()


RIGHT = "right"
"""The name of a task's own reward, which accuracy counts, beside those of its measures."""


@dataclass(frozen=True)
class Measure:
    """A measure of what the model handed in, beside the reward, for evaluation only."""

    title: str  # as the report shows it
    of: Callable[[str, Problem], float]  # of the text that `Task.reward` takes; from 0 to 1


class NoToolSettings(BaseModel):
    """For tools that have none."""

    model_config = ConfigDict(extra="forbid")


class Task(ABC):
    """What the pipeline needs to know of a task."""

    Data: ClassVar[type[BaseModel]]
    """The task's `data` section of params.yaml: where problems come from and how many."""

    Row: ClassVar[type[ProblemRow]] = ProblemRow
    """What a problem of the task must have when it is read again."""

    Tools: ClassVar[type[BaseModel]] = NoToolSettings
    """The task's `tools` section of params.yaml: its tools' limits and such."""

    resources: ClassVar[Sequence[str]] = ()
    """What stages make for the task's tools: names in `workspace.RESOURCES`."""

    packages: ClassVar[Sequence[str]] = ()
    """Packages whose versions likewise decide what the task's tools answer."""

    built_in: ClassVar[bool] = False
    """Whether the project makes the problems itself: an accuracy on them is no public benchmark's."""

    computes: ClassVar[bool] = True
    """Whether the tools compute answers, or look them up: the error analysis has words for each."""

    @property
    def name(self) -> str:
        """What the task is called: in `names.py`, params.yaml, paths and errors."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def problems(self, data: Any) -> dict[str, list[Problem]]:
        """The task sets by split, "train" and "test", with no problem in both.

        Test problems that have a `subset`, a name, are reported apart from the others.
        """

    @abstractmethod
    def tools(self, settings: Any, resources: Mapping[str, Any]) -> Mapping[str, Tool]:
        """The tools the model may call, by the names it calls them.

        Args:
            settings: the task's `tools` section of params.yaml.
            resources: the records of what `Task.resources` names, by name.
        """

    @abstractmethod
    def demonstrate(
        self, problems: Sequence[Problem], tools: Mapping[str, Tool], count: int
    ) -> tuple[list[Demonstration], list[Demonstration]]:
        """What the prompt of every episode shows, and demonstrations for a warm start.

        Args:
            problems: the training problems.
            tools: as `tools` returns them; demonstrations hold what they really answer.
            count: how many demonstrations to return at most, beside those of the prompt.
        """

    def demonstrate_more(self, tools: Mapping[str, Tool], count: int) -> list[Demonstration]:
        """Demonstrations of `count` problems that the project makes, to mix into those of a warm start.

        Raises PipelineError if the task has none.
        """
        if count:
            raise PipelineError(
                f"{self.name}.warm_start.mix: the task has no further problems to mix in, {count} are "
                "wanted; set it to 0"
            )
        return []

    @abstractmethod
    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if `answer_text`, what the model wrote after the last tool response, is right, else 0.

        It never raises: a text that it cannot read earns 0. `pipeline.tasks.result` and
        `pipeline.answers` have the grammar that all tasks share.
        """

    measures: ClassVar[Mapping[str, Measure]] = {}
    """Further measures, by the names that the tables of episodes and metrics.json have for them."""

    def reward_for(self, name: str) -> Callable[[str, Problem], float]:
        """What training pays for: one of `measures`, or `RIGHT` for `reward`.

        Raises KeyError if there is none of that name.
        """
        return self.reward if name == RIGHT else self.measures[name].of

    @abstractmethod
    def find(self, text: str, problem: Problem) -> tuple[int, int] | None:
        """Where a tool's output has the answer, (start, end) in characters; None if nowhere.

        For the error analysis: the problem has the fields of `RECORDED`, and no others.
        """

    groups: ClassVar[Mapping[str, str]] = {}
    """The columns of `grouped`, and what it says of a problem where one of them holds."""

    def grouped(
        self, problems: Sequence[Problem], tools: Mapping[str, Tool]
    ) -> Mapping[str, list[bool]]:
        """Groups of problems whose accuracy is reported beside that of all, by name.

        Args:
            problems: the fields of `RECORDED`, and no others.
            tools: as `tools` returns them.

        Returns:
            For each of `groups` whether a problem is in it. By default there are none.
        """
        return {}

    layout: ClassVar[Layout] = Layout()
    """How episodes look under the protocol `tags`."""

    instruction: ClassVar[str] = (
        "Answer the question with the help of the tool. End your last message with a line that holds "
        "Result= and the answer, and nothing else."
    )
    """What the protocol `chat` tells the model to do."""

    descriptions: ClassVar[Mapping[str, str]] = {}
    """What each tool does, by its name: the protocol `chat` tells the model."""

    diagnoses: ClassVar[Mapping[str, str]] = {}
    """The columns of `diagnose` that the report counts, and what it says where one of them holds."""

    def diagnose(
        self, rows: Sequence[Mapping[str, Any]], tools: Mapping[str, Tool]
    ) -> Mapping[str, list[Any]]:
        """What more there is to say of episodes in which no tool's output had the answer.

        Args:
            rows: the episodes, as the stage `evaluate` writes them: the problem's fields and `calls`.
            tools: as `tools` returns them.

        Returns:
            Columns for the table of episodes, by name, each with a value for each row. The same columns
            for any rows, none of them included. By default there are none.
        """
        return {}


def task_names() -> list[str]:
    """The tasks there are, in alphabetical order."""
    return list(NAMES)


def load_task(name: str) -> Task:
    """The task defined in `pipeline/tasks/<name>.py`. Raises PipelineError if there is none."""
    if name not in task_names():
        raise PipelineError(f"no task {name!r}; there is {', '.join(task_names())}")
    return importlib.import_module(f"{__name__}.{name}").TASK()
