"""`TextHistory`: one episode's text and tokens, segment by segment, and how it ended.

Everything that can be derived from the segments is derived, the mask above all, so that text, tokens
and mask cannot come apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from pipeline.tools import ErrorKind

STYLES = {
    "prompt": "black on #d9d9d9",
    "tool": "black on #7fd6c2",
    "model": "black on #a9d3f5",
    "reward": "black on #e5c3ea",
}
"""How each author's text is coloured, in the terminal, in notebooks and in reports."""


class EndReason(StrEnum):
    """Why an episode ended. The last two are truncations: the text was cut off by a length limit."""

    SUBMITTED = "submitted"  # the model wrote <submit>
    END_OF_TEXT = "end_of_text"  # the model wrote its end-of-text token, no <submit> before it
    MAX_TURNS = "max_turns"  # the model called a tool in its last turn
    MAX_NEW_TOKENS = "max_new_tokens"  # a turn used up its tokens with neither <call> nor <submit>
    MAX_LENGTH = "max_length"  # the episode has no room for another token

    @property
    def truncated(self) -> bool:
        return self in (EndReason.MAX_NEW_TOKENS, EndReason.MAX_LENGTH)


@dataclass(frozen=True)
class CallRecord:
    """What happened when the model called a tool: for the error analysis."""

    tool: str  # the name it called; empty where the call could not be read
    argument: str
    output: str  # what the tool said, even if it did not all enter the text
    error_kind: str  # where the output says what was wrong, a `tools.ErrorKind`; else empty
    cut: bool  # whether the output was cut off at the limit of its tokens
    details: Mapping[str, Any]  # what the tool itself recorded

    @property
    def error(self) -> bool:
        """Whether the call failed."""
        return self.error_kind != ""

    @property
    def reached(self) -> bool:
        """Whether a tool was asked."""
        return self.error_kind not in (ErrorKind.MALFORMED, ErrorKind.UNKNOWN_TOOL)

    @property
    def outage(self) -> bool:
        """Whether the tool failed by itself: no fault of the model."""
        return self.error and ErrorKind(self.error_kind).outage


Author = Literal["prompt", "tool", "model"]


@dataclass(frozen=True)
class Segment:
    """A run of tokens by one author: the prompt, which also stands around a tool's output, a tool, or the model.

    `logprobs` holds the sampler's log-probability of each of the model's tokens; it is empty for
    text that was not sampled.
    """

    text: str
    tokens: tuple[int, ...]
    author: Author
    logprobs: tuple[float, ...] = ()

    @property
    def system(self) -> bool:
        """Whether the environment wrote it."""
        return self.author != "model"


class TextHistory:
    """One episode: the prompt segment, then the model's and the tools' segments in turn.

    Args:
        text: the prompt's text.
        tokens: the prompt's token ids.
        system: whether the environment wrote this segment (true for a prompt).
    """

    def __init__(self, text: str, tokens: Sequence[int], system: bool = True) -> None:
        self.segments: list[Segment] = []
        self.calls: list[CallRecord] = []
        self.end_reason: EndReason | None = None
        self.answer: str | None = (
            None  # what is handed in, where that is not the last text as it stands
        )
        self.reward = 0.0
        self.append_segment(text, tokens, system=system)

    def append_segment(
        self,
        text: str,
        tokens: Sequence[int],
        system: bool = True,
        logprobs: Sequence[float] = (),
    ) -> None:
        """Adds a segment by the model, a tool, or, if it is the first, the prompt; see `append`."""
        author: Author = "model" if not system else "tool" if self.segments else "prompt"
        self.append(Segment(text, tuple(map(int, tokens)), author, tuple(logprobs)))

    def append(self, segment: Segment) -> None:
        """Adds a segment. Raises ValueError if it has no tokens or the episode has ended."""
        if len(segment.tokens) == 0:
            raise ValueError("a segment needs at least one token")
        if self.completed:
            raise ValueError(f"the episode has ended ({self.end_reason}); nothing can be added")
        self.segments.append(segment)

    def complete(self, reason: EndReason) -> None:
        """Ends the episode for a named reason."""
        self.end_reason = reason

    @property
    def completed(self) -> bool:
        return self.end_reason is not None

    @property
    def truncated(self) -> bool:
        """Whether a length limit cut the episode off, so that its last state is not an ending."""
        return self.end_reason is not None and self.end_reason.truncated

    @property
    def outage(self) -> bool:
        """Whether a tool failed by itself in it. It says nothing of the model then, and must not train it."""
        return any(call.outage for call in self.calls)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    @property
    def token_ids(self) -> list[int]:
        """All token ids."""
        return [token for segment in self.segments for token in segment.tokens]

    @property
    def mask(self) -> list[bool]:
        """True on the model's tokens, for each of `token_ids`."""
        return [not segment.system for segment in self.segments for _ in segment.tokens]

    @property
    def sampled_logprobs(self) -> list[float]:
        """The sampler's log-probability of each of the model's tokens."""
        return [logprob for segment in self.segments for logprob in segment.logprobs]

    @property
    def last_text_segment(self) -> str:
        return self.segments[-1].text

    @property
    def answer_text(self) -> str:
        """What the model wrote after the last tool response (or the prompt); empty if nothing.

        Rewards read this: a tool's output is never taken for the model's answer.
        """
        if self.answer is not None:
            return self.answer
        return "" if self.segments[-1].system else self.segments[-1].text

    def rich_text(self) -> Text:
        """The episode as coloured text: prompt, model, tool and reward."""
        return coloured_text([*self.authored(), ("reward", self._reward_line())])

    def show_text(self, show_legend: bool = False) -> None:
        """Prints the coloured text, in a terminal or a notebook."""
        _print(self.rich_text(), show_legend)

    def show_tokens(self, tokenizer, show_legend: bool = False) -> None:
        """Prints the coloured tokens as the tokenizer spells them, in a terminal or a notebook."""
        tokens = [
            (author, token + " ")
            for (author, _), segment in zip(self.authored(), self.segments)
            for token in tokenizer.convert_ids_to_tokens(list(segment.tokens))
        ]
        _print(coloured_text([*tokens, ("reward", self._reward_line())]), show_legend)

    def authored(self) -> list[tuple[str, str]]:
        """Who wrote what: each segment's author ("prompt", "model" or "tool") and text."""
        return [(segment.author, segment.text) for segment in self.segments]

    def _reward_line(self) -> str:
        return f"\nReward: {self.reward:g} ({self.end_reason or 'not ended'})"


def coloured_text(parts: Iterable[tuple[str, str]]) -> Text:
    """Text whose parts, (author, text) each, have the colours of `STYLES`."""
    return Text.assemble(*((text, STYLES[author]) for author, text in parts))


def _print(text: Text, show_legend: bool) -> None:
    console = Console()
    console.print(text)
    if show_legend:
        legend = [[(name, name.capitalize()), (name, " ")] for name in STYLES]
        console.print(coloured_text([part for pair in legend for part in pair]))
