"""Why an answer was wrong: every episode gets exactly one label.

`Label` is the table of all of them. A wrong episode is labelled by the first thing in it that went wrong:
the call, what the tool put out, what of that the model saw, what the model made of it. A new label is an
entry there, with its rule as a function; the report and the figures show it, and a test holds the table in
`docs/evaluation.md` to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from pipeline.environment.history import EndReason
from pipeline.tools import ErrorKind
from pipeline.tools.protocol import CALL, REQUEST, RESPONSE, TOOL_CALL

Holds = Callable[[str], bool]
"""Whether a tool's output holds the right answer."""


@dataclass(frozen=True)
class Facts:
    """What the rules ask of an episode."""

    episode: Mapping[str, Any]
    holds: Holds
    computes: bool

    @property
    def right(self) -> bool:
        return bool(self.episode["reward"])

    @property
    def called(self) -> bool:
        return len(self.episode["calls"]) > 0

    @cached_property
    def outputs(self) -> list[str]:
        """What tools put out, whole, without their errors."""
        return [call["output"] for call in self.episode["calls"] if not call["error_kind"]]

    @property
    def error(self) -> str:
        """The last call's kind of error, where every call failed; else empty."""
        calls = self.episode["calls"]
        return "" if self.outputs or not len(calls) else calls[-1]["error_kind"]

    @property
    def tagged(self) -> bool:
        """Whether the model wrote one of the marks that make a call."""
        written = "".join(s["text"] for s in self.episode["segments"] if s["author"] == "model")
        return any(mark in written for mark in (REQUEST, CALL, TOOL_CALL))

    @cached_property
    def in_outputs(self) -> bool:
        return any(map(self.holds, self.outputs))

    @cached_property
    def in_text(self) -> bool:
        """Whether what the model saw of the outputs holds the right answer."""
        seen = [s["text"] for s in self.episode["segments"] if s["author"] == "tool"]
        return any(self.holds(text.removesuffix(RESPONSE)) for text in seen)

    @property
    def end_reason(self) -> str:
        return self.episode["end_reason"]


Rule = Callable[[Facts], bool]


def _failed(*kinds: ErrorKind) -> Rule:
    return lambda facts: facts.error in kinds


class Label(StrEnum):
    """What became of an episode, and if it went wrong, where.

    Each is a name, the rule in words and as a function, what it means, what one could change where it is
    frequent, its colour in figures, and whether the episode is right. The first whose rule fits counts.
    """

    fits: Rule
    rule: str
    meaning: str
    advice: str
    colour: str
    right: bool

    def __new__(
        cls,
        name: str,
        fits: Rule,
        rule: str,
        meaning: str,
        advice: str,
        colour: str,
        right: bool = False,
    ) -> "Label":
        label = str.__new__(cls, name)
        label._value_ = name
        label.fits, label.rule, label.meaning = fits, rule, meaning
        label.advice, label.colour, label.right = advice, colour, right
        return label

    @classmethod
    def of(cls, name: str) -> "Label":
        """The label of a name, as tables hold it. Raises StopIteration where there is none."""
        return next(each for each in cls if each == name)

    CORRECT = (
        "correct",
        lambda facts: facts.right and len(facts.outputs) > 0,
        "The reward is 1, and at least one call did not fail.",
        "right, with a tool's output",
        "",
        "#7cc48d",
        True,
    )
    CORRECT_WITHOUT_TOOL = (
        "correct without the tool",
        lambda facts: facts.right,
        "The reward is 1, and no call succeeded.",
        "right, though no tool put out anything",
        "If there are many, the model knew the answers: use harder problems.",
        "#c4e3b5",
        True,
    )
    NO_CALL = (
        "no call",
        lambda facts: not facts.called and not facts.tagged,
        "The model wrote none of `<request>`, `<call>` and `<tool_call>`.",
        "the model never began a request",
        "More warm-start steps, or more demonstrations in the prompt.",
        "#d5dbe0",
    )
    MALFORMED_CALL = (
        "malformed call",
        lambda facts: not facts.called or facts.error == ErrorKind.MALFORMED,
        "Every call failed, the last because it cannot be read; or a request never became a call.",
        "the model began a request that never became a call",
        "More warm-start steps; a larger max_new_tokens if calls are cut off.",
        "#b4bec7",
    )
    UNKNOWN_TOOL = (
        "unknown tool",
        _failed(ErrorKind.UNKNOWN_TOOL),
        "Every call failed, the last because there is no such tool.",
        "the model called a tool that does not exist",
        "More warm-start steps, or a tool's name that is easier to write.",
        "#939fa9",
    )
    TOOL_ERROR = (
        "tool error",
        _failed(ErrorKind.REFUSED, ErrorKind.MISSING, ErrorKind.CRASHED, ErrorKind.NO_ANSWER),
        "Every call failed, the last because the tool refused it, lacks something or broke.",
        "the tool refused every call",
        "Read what the tool said: its limits may be too narrow, or a function may be missing.",
        "#c9b79c",
    )
    SYNTAX_ERROR = (
        "syntax error",
        _failed(ErrorKind.SYNTAX),
        "Every call failed, the last because the program is not Python.",
        "the program is not Python",
        "More warm-start steps.",
        "#b99cc9",
    )
    RUNTIME_ERROR = (
        "runtime error",
        _failed(ErrorKind.RUNTIME),
        "Every call failed, the last because the program raised an exception.",
        "the program raised an exception",
        "More training steps; see which exceptions.",
        "#d7b8e3",
    )
    TIME_OUT = (
        "time-out",
        _failed(ErrorKind.TIMEOUT),
        "Every call failed, the last because the program ran too long.",
        "the program ran too long",
        "A larger time_limit, if the programs deserve it.",
        "#8f78b0",
    )
    BAD_SEARCH = (
        "bad search",
        lambda facts: not facts.in_outputs and not facts.computes,
        "No output of a tool that looks things up holds the answer.",
        "the answer is not in what the search returned",
        "The table below tells whether the query, the ranking or the corpus is at fault.",
        "#f2a65e",
    )
    WRONG_NUMBER = (
        "wrong number",
        lambda facts: not facts.in_outputs,
        "No output of a tool that computes holds the answer.",
        "the tool computed something else than the answer",
        "More training steps; look for what kind of problem it misunderstands.",
        "#f2c75e",
    )
    OVERLONG_RESPONSE = (
        "overlong response",
        lambda facts: not facts.in_text or facts.end_reason == EndReason.MAX_LENGTH,
        "An output holds the answer, but it was cut before it, or the episode was full.",
        "the tool had the answer, but its output was cut before it or filled the episode",
        "A larger max_tool_response or max_length, or a tool that puts out less.",
        "#8cc3e8",
    )
    NO_SUBMIT = (
        "no submit",
        lambda facts: facts.end_reason != EndReason.SUBMITTED,
        "The model saw the answer, and the episode ended without `<submit>`.",
        "the model saw the answer and handed in nothing",
        "More training steps; a larger max_turns or max_new_tokens if the text is cut off.",
        "#f2b8b5",
    )
    MISREAD = (
        "misread",
        lambda facts: not facts.computes,
        "The model saw the answer in what was looked up, and handed in something else.",
        "the model saw the answer and handed in another",
        "More training steps, a larger model, or shorter paragraphs.",
        "#e57f7a",
    )
    MISREPORTED = (
        "right program misreported",
        lambda facts: True,
        "The model saw the answer in what was computed, and handed in something else.",
        "the tool computed the answer and the model handed in another",
        "More training steps.",
        "#d4605a",
    )


def label(episode: Mapping[str, Any], holds: Holds, computes: bool) -> Label:
    """The label of an episode.

    Args:
        episode: a row as `evaluate` yields it.
        holds: tells whether a tool's output has this problem's answer in it.
        computes: whether the tools compute answers rather than look them up; wrong ones are then
            called "wrong number" and "right program misreported" instead of "bad search" and "misread".
    """
    facts = Facts(episode, holds, computes)
    return next(each for each in Label if each.fits(facts))
