"""The tools a model can call, one file each: callables that take a string and return text.

A tool is quick, bounded in time and size, and explains what is wrong with a bad input by raising
`ToolError`; the environment hands its text to the model. A tool that answers many calls faster together
than one by one is a `BatchTool`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class ToolError(Exception):
    """What is wrong with the input, in words meant for the model."""


@dataclass(frozen=True)
class ToolResponse:
    """A tool's answer, where there is more to record of the call than its text."""

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON-able; for the error analysis

    def __str__(self) -> str:
        return self.text


Tool = Callable[[str], str | ToolResponse]
"""What a model can call: text in, text out."""


class BatchTool(ABC):
    """A tool that answers the calls of a turn together."""

    @abstractmethod
    def batch(self, arguments: Sequence[str]) -> list[ToolResponse | ToolError]:
        """An answer to each of the calls, in their order, or what is wrong with it."""

    def __call__(self, argument: str) -> ToolResponse:
        (answer,) = self.batch([argument])
        if isinstance(answer, ToolError):
            raise answer
        return answer
