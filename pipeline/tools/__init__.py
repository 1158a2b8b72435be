"""The tools a model can call, one file each: callables that take a string and return text.

A tool explains what is wrong with a bad input by raising `ToolError`, whose text the model reads. Anything
else that it raises is a failure of the tool. A tool that is faster with many calls together than one by one
is a `BatchTool`. `pipeline/environment/calling.py` calls them; an answer comes back whatever they do.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ErrorKind(StrEnum):
    """Why a call failed: for the error analysis, which reads no English."""

    MALFORMED = "malformed"  # what the model wrote is no call
    UNKNOWN_TOOL = "unknown tool"  # it called a tool that there is not
    REFUSED = "refused"  # the tool does not take such an input, or has nothing to say to it
    MISSING = "missing"  # the input is good, but the tool lacks what it needs: a module, a function
    SYNTAX = "syntax"  # the input is no program
    RUNTIME = "runtime"  # the program raised an exception, or broke a limit but that of time
    TIMEOUT = "timeout"  # it took too long
    CRASHED = "crashed"  # the tool itself failed: it raised something else than a ToolError
    NO_ANSWER = "no answer"  # the tool itself did not answer within its time limit

    @property
    def outage(self) -> bool:
        """Whether the tool is at fault, and not what the model wrote."""
        return self in (ErrorKind.CRASHED, ErrorKind.NO_ANSWER)


class ToolError(Exception):
    """What is wrong with the input, in words meant for the model, and of what kind that is."""

    kind = ErrorKind.REFUSED

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.REFUSED) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class ToolResponse:
    """A tool's output, where there is more to record of the call than its text."""

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON-able; for the error analysis
    parts: Sequence[str] = ()  # the text's lines, where each is to be cut alike if it is too long

    def __str__(self) -> str:
        return self.text


Output = str | float | ToolResponse
"""What a tool returns: text, or a number, which becomes text."""

Tool = Callable[[str], Output | Awaitable[Output]]
"""What a model can call: text in, text out. It may be a coroutine function."""


class BatchTool(ABC):
    """A tool that takes the calls of a turn together."""

    @abstractmethod
    def batch(self, arguments: Sequence[str]) -> list[ToolResponse | ToolError]:
        """The output of each of the calls, in their order, or what is wrong with the call."""

    def seconds(self, calls: int, limit: float) -> float:
        """How long so many calls may take together, where one may take `limit` seconds.

        As long as one, if not overridden. A tool that does some calls after others needs longer.
        """
        return limit

    def __call__(self, argument: str) -> ToolResponse:
        (output,) = self.batch([argument])
        if isinstance(output, ToolError):
            raise output
        return output
