"""The tasks a model learns, one file each: problems, few-shot prompt, tools, and the reward.

A new task is a file `pipeline/tasks/<name>.py` with a `Task` subclass called `TASK` in it, and a section
`<name>` in params.yaml; put its name in the list `tasks` there and every stage runs for it.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline.environment import TextEnvironment
from pipeline.errors import PipelineError

Problem = dict[str, Any]
"""One row of a task set, JSON-able: at least `id`, `question` and `answer`."""


class EnvironmentSettings(BaseModel):
    """A task's limits, in turns and tokens; see `TextEnvironment`."""

    model_config = ConfigDict(extra="forbid")
    max_turns: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    max_tool_response: int = Field(ge=1)
    max_length: int | None = Field(default=None, ge=1)


class Task(ABC):
    """What the pipeline needs to know of a task."""

    Data: ClassVar[type[BaseModel]]
    """The task's `data` section of params.yaml: where problems come from and how many."""

    @abstractmethod
    def problems(self, data: Any) -> dict[str, list[Problem]]:
        """The task sets by split, "train" and "test", with no problem in both."""

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The few-shot prompt that every episode begins with."""

    @abstractmethod
    def tools(self) -> Mapping[str, Callable[[str], str]]:
        """The tools the model may call, by the names it calls them."""

    @abstractmethod
    def query(self, problem: Problem) -> str:
        """The text that puts the problem, right after the prompt."""

    @abstractmethod
    def reward(self, answer_text: str, problem: Problem) -> float:
        """1 if `answer_text`, what the model wrote after the last tool response, is right, else 0."""

    def environment(
        self, model: Any, tokenizer: Any, settings: EnvironmentSettings, **sampling: Any
    ) -> TextEnvironment:
        """This task's environment: `run([task.query(p) for p in problems], problems=problems)`.

        `sampling` may hold `do_sample`, `temperature` and `seed`.
        """

        def reward_fn(answer_texts: list[str], problems: list[Problem]) -> list[float]:
            return [self.reward(text, p) for text, p in zip(answer_texts, problems, strict=True)]

        return TextEnvironment(
            model,
            tokenizer,
            self.tools(),
            reward_fn,
            self.prompt,
            max_turns=settings.max_turns,
            max_tool_response=settings.max_tool_response,
            max_length=settings.max_length,
            generation_kwargs={"max_new_tokens": settings.max_new_tokens, **sampling},
        )


def task_names() -> list[str]:
    """The tasks there are, in alphabetical order."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")


def load_task(name: str) -> Task:
    """The task defined in `pipeline/tasks/<name>.py`. Raises PipelineError if there is none."""
    if name not in task_names():
        raise PipelineError(f"no task {name!r}; there is {', '.join(task_names())}")
    return importlib.import_module(f"{__name__}.{name}").TASK()
