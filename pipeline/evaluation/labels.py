"""Why an answer was wrong: every episode gets exactly one label.

`docs/evaluation.md` has the rules as a table. In short: a wrong episode is labelled by the first thing in
it that went wrong, from the call over what the tool knew and showed to what the model made of it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from pipeline.environment.history import EndReason
from pipeline.tools.protocol import CALL, REQUEST, RESPONSE


class Label(StrEnum):
    """What became of an episode, and if it went wrong, where."""

    CORRECT = "correct"
    CORRECT_WITHOUT_TOOL = "correct without the tool"
    NO_CALL = "no call"
    MALFORMED_CALL = "malformed call"
    UNKNOWN_TOOL = "unknown tool"
    TOOL_ERROR = "tool error"
    SYNTAX_ERROR = "syntax error"
    RUNTIME_ERROR = "runtime error"
    TIME_OUT = "time-out"
    BAD_SEARCH = "bad search"
    WRONG_NUMBER = "wrong number"
    OVERLONG_RESPONSE = "overlong response"
    NO_SUBMIT = "no submit"
    MISREAD = "misread"
    MISREPORTED = "right program misreported"

    @property
    def right(self) -> bool:
        return self in (Label.CORRECT, Label.CORRECT_WITHOUT_TOOL)


_KINDS = {
    "SyntaxError": Label.SYNTAX_ERROR,
    "TimeoutError": Label.TIME_OUT,
    # What the sandbox lacks is not the program's mistake.
    "ModuleNotFoundError": Label.TOOL_ERROR,
    "NotImplementedError": Label.TOOL_ERROR,
}

Holds = Callable[[str], bool]
"""Whether a tool's text holds the right answer."""


def label(episode: Mapping[str, Any], holds: Holds, tools: Sequence[str], computes: bool) -> Label:
    """The label of an episode.

    Args:
        episode: a row as `evaluate` yields it.
        holds: tells whether a tool's text has this problem's answer in it.
        tools: the names of the tools there are.
        computes: whether the tools compute answers rather than look them up; wrong ones are then
            called "wrong number" and "right program misreported" instead of "bad search" and "misread".
    """
    calls = list(episode["calls"])
    answered = [call for call in calls if not call["error"]]
    if episode["reward"]:
        return Label.CORRECT if answered else Label.CORRECT_WITHOUT_TOOL
    if not calls:
        return _without_calls(episode)
    if not answered:
        return _failed_call(calls[-1], tools)
    if not any(holds(call["answer"]) for call in answered):
        return Label.WRONG_NUMBER if computes else Label.BAD_SEARCH
    if not any(holds(text) for text in _shown(episode)):
        return Label.OVERLONG_RESPONSE
    if episode["end_reason"] == EndReason.MAX_LENGTH:
        return Label.OVERLONG_RESPONSE
    if episode["end_reason"] != EndReason.SUBMITTED:
        return Label.NO_SUBMIT
    return Label.MISREPORTED if computes else Label.MISREAD


def _without_calls(episode: Mapping[str, Any]) -> Label:
    """A request that was begun but never became a call, or no request at all."""
    written = "".join(s["text"] for s in episode["segments"] if s["author"] == "model")
    return Label.MALFORMED_CALL if REQUEST in written or CALL in written else Label.NO_CALL


def _failed_call(call: Mapping[str, Any], tools: Sequence[str]) -> Label:
    if not call["tool"]:
        return Label.MALFORMED_CALL
    if call["tool"] not in tools:
        return Label.UNKNOWN_TOOL
    kind = call["answer"].removeprefix("Tool error: ").partition(":")[0]
    if kind in _KINDS:
        return _KINDS[kind]
    # What Python itself raises, as the python tool tells it.
    return Label.RUNTIME_ERROR if re.fullmatch(r"\w*(Error|Exception)", kind) else Label.TOOL_ERROR


def _shown(episode: Mapping[str, Any]) -> list[str]:
    """What the model saw of the tools' answers."""
    texts = [s["text"] for s in episode["segments"] if s["author"] == "tool"]
    return [text.removesuffix(RESPONSE) for text in texts]
