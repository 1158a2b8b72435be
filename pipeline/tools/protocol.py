"""The tags by which a model asks for a tool and hands in its answer, and how they are read.

    <request><SimpleCalculatorTool>13.1-3<call>10.1<response>
    Result=10.1<submit>

The model writes up to `<call>`, the environment writes the tool's output and `<response>`, the model
goes on and ends with `<submit>`.
"""

from dataclasses import dataclass

REQUEST = "<request>"
CALL = "<call>"
RESPONSE = "<response>"
SUBMIT = "<submit>"

TOOL_CALL = "<tool_call>"
"""How most chat templates begin a call."""

TAGS = (REQUEST, CALL, RESPONSE, SUBMIT)
"""They are tags where the model writes them, or the environment. In a question, or in what a tool puts out,
they are characters like any others."""

STOP_STRINGS = (CALL, SUBMIT)
"""A turn ends as soon as the model has written one of these."""


@dataclass(frozen=True)
class ToolCall:
    """A request the model wrote: which tool, and the text it hands over."""

    tool: str
    argument: str


def ending_tag(text: str) -> str | None:
    """Which of `STOP_STRINGS` ends a model's turn, the first that stands in its text; None if there is none."""
    found = [tag for tag in STOP_STRINGS if tag in text]
    return min(found, key=text.index, default=None)


def holds_tag(text: str) -> bool:
    """Whether a text that is data has a tag in it. As an example of how to use tags it would mislead."""
    return any(tag in text for tag in TAGS)


def parse_call(text: str) -> ToolCall | None:
    """The call that ends a model's turn, or None where it is not `<request><Tool>argument<call>`.

    The last `<request>` before `<call>` counts: a model that starts over means its last try.
    """
    before_call, call, _ = text.partition(CALL)
    _, request, body = before_call.rpartition(REQUEST)
    name, close, argument = body.lstrip().partition(">")
    if not (call and request and close and name.startswith("<")):
        return None
    return ToolCall(tool=name[1:].strip(), argument=argument)


def render_call(tool: str, argument: str) -> str:
    """The text of a call, as a model writes it: the reverse of `parse_call`."""
    return f"{REQUEST}<{tool}>{argument}{CALL}"
