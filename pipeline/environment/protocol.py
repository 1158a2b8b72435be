"""How a model and its tools take turns: how a prompt begins, how a call is written, read and answered, where a turn ends.

`Tags` is the form of TRL's "Learning Tools". A protocol makes the segments of an episode, and those of a
demonstration in the same way: each is tokenized apart, since a model never writes a token that reaches
into the next segment.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any

from pipeline.environment.history import Author, Segment
from pipeline.environment.tokens import EpisodeCodec
from pipeline.models.text import TextCodec
from pipeline.tasks import Demonstration, Layout
from pipeline.tools.protocol import (
    CALL,
    REQUEST,
    RESPONSE,
    STOP_STRINGS,
    SUBMIT,
    ToolCall,
    ending_tag,
    parse_call,
    render_call,
)

CUT_MARK = "..."
"""Ends a tool's output that was cut."""


class Turn(Enum):
    """What a model's turn comes to."""

    CALL = "call"
    ANSWER = "answer"
    UNENDED = "unended"  # neither: the text stops in the midst


class Protocol(ABC):
    """See the module's text."""

    codec: TextCodec
    stop_strings: Sequence[str]
    """A turn ends as soon as the model has written one of these, or its end-of-text token."""

    call_form: str
    """How a call is written, for a model that has written it otherwise."""

    name_rule: str
    """What a tool's name must be like."""

    @abstractmethod
    def opening(self, question: str) -> Segment:
        """What comes before the model's first turn: the prompt and the question."""

    @abstractmethod
    def turn(self, text: str) -> Turn:
        """What a turn comes to that has ended with this text."""

    @abstractmethod
    def call(self, text: str) -> ToolCall | None:
        """The call that ends a turn; None where it cannot be read."""

    @abstractmethod
    def answer(self, text: str) -> str:
        """What rewards read of the model's last turn: `Result=...<submit>` whatever the protocol."""

    @abstractmethod
    def response(self, said: str, output: str, cut: Sequence[int] | None = None) -> list[Segment]:
        """What follows a call: the tool's output, and the text around it.

        Args:
            said: the model's turn with the call.
            output: what the tool put out, or what is left of it.
            cut: the tokens of what is left, where something was cut off.
        """

    @abstractmethod
    def shown(self, demonstration: Demonstration) -> list[Segment]:
        """The segments of a demonstration's episode, `opening` first."""

    @abstractmethod
    def can_name(self, tool: str) -> bool:
        """Whether a call can have this tool's name."""


class Tags(Protocol):
    """`<request><Tool>input<call>output<response>Result=...<submit>`.

    Args:
        tokenizer: the model's.
        prompt: the text that every episode begins with.
        layout: how a question and a demonstration look.
        shots: demonstrations that follow the prompt.

    Raises:
        PipelineError: if the tokenizer cannot spell the tags.
    """

    stop_strings = STOP_STRINGS
    call_form = f"{REQUEST}<tool name>input{CALL}"
    name_rule = "has no > and no space at its ends"

    def __init__(
        self,
        tokenizer: Any,
        prompt: str,
        layout: Layout = Layout(question="{}"),  # noqa: B008  # it cannot be changed
        shots: Sequence[Demonstration] = (),
    ) -> None:
        self.codec: EpisodeCodec = EpisodeCodec(tokenizer)
        self.layout = layout
        segments = _hand_written(prompt)
        for shot in shots:
            segments.append(("question", layout.question.format(shot.question)))
            segments += layout.segments(shot)
        if segments:
            author, first = segments[0]
            segments[0] = (author, first if prompt else first.lstrip())
        first_tokens = self.codec.opening(segments[0][1] if segments else "")
        rest = [self._segment(author, text) for author, text in segments[1:]]
        self._tokens = [*first_tokens, *(token for s in rest for token in s.tokens)]
        self._text = self.codec.decode_opening(first_tokens) + "".join(s.text for s in rest)

    def opening(self, question: str) -> Segment:
        # Tokenized apart from the prompt, so that all episodes begin with the very same tokens.
        asked = self.codec.data(self.layout.question.format(question))
        text = self._text + self.codec.decode(asked)
        return Segment(text, (*self._tokens, *asked), "prompt")

    def turn(self, text: str) -> Turn:
        return {CALL: Turn.CALL, SUBMIT: Turn.ANSWER, None: Turn.UNENDED}[ending_tag(text)]

    def call(self, text: str) -> ToolCall | None:
        return parse_call(text)

    def answer(self, text: str) -> str:
        return text

    def response(self, said: str, output: str, cut: Sequence[int] | None = None) -> list[Segment]:
        tokens = self.codec.tool(output) if cut is None else [*cut, *self.codec.tool(CUT_MARK)]
        return [Segment(self.codec.decode(tokens), tuple(tokens), "tool")]

    def shown(self, demonstration: Demonstration) -> list[Segment]:
        texts = self.layout.segments(demonstration)
        segments = [self._segment(author, text) for author, text in texts]
        return [self.opening(demonstration.question), *segments]

    def can_name(self, tool: str) -> bool:
        return parse_call(render_call(tool, "")) == ToolCall(tool, "")

    def _segment(self, author: str, text: str) -> Segment:
        if author == "tool":
            return self.response("", text.removesuffix(RESPONSE))[0]
        tokens = self.codec.written(text) if author == "model" else self.codec.data(text)
        by: Author = "model" if author == "model" else "prompt"
        return Segment(self.codec.decode(tokens), tuple(tokens), by)


_BEHIND_TAGS = re.compile("|".join(f"(?<={tag})" for tag in (CALL, RESPONSE, SUBMIT)))


def _hand_written(prompt: str) -> list[tuple[str, str]]:
    """A prompt's text cut where segments end. Where a question ends, tags do not tell."""
    pieces = [piece for piece in _BEHIND_TAGS.split(prompt) if piece]
    before = ["", *pieces]
    return [
        ("tool" if piece.endswith(RESPONSE) and last.endswith(CALL) else "model", piece)
        for last, piece in zip(before, pieces)
    ]
