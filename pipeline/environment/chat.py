"""The protocol `Chat`: the model's own chat template, with its own way to call tools.

What a template writes is read off it once: a made-up conversation is rendered, and the texts around its
parts are kept. Control tokens count in those texts. In a question or a tool's output they do not.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.environment.history import Author, Segment
from pipeline.environment.protocol import CUT_MARK, Protocol, Tags, Turn
from pipeline.errors import PipelineError
from pipeline.models.text import TextCodec, well_formed
from pipeline.tasks import Demonstration, Task
from pipeline.tools.protocol import SUBMIT, ToolCall

INPUT = "input"
"""The name of a tool's only argument."""

Piece = tuple[str, bool]
"""A text, and whether it is the template's."""

_MADE_UP = ("question0q", "input0i", "output0o", "answer0a", "question1q")
"""What the made-up conversation holds, in its order."""

_NAME = "tool0t"


@dataclass(frozen=True)
class Form:
    """The texts of a template around the parts of a conversation.

    They follow each other like this: `head`, question, `asked`; `before_name`, tool, `before_input`, input,
    `after_input`; `returned`, output, `asked_again`; answer, `end`, `next`, question.
    """

    head: str
    asked: str
    before_name: str
    before_input: str
    after_input: str
    returned: str
    asked_again: str
    end: str  # of a message
    next: str

    @property
    def json(self) -> bool:
        """Whether a call is a JSON object."""
        return self.before_input.rstrip().endswith('"')

    @property
    def begin(self) -> str:
        """By what a call is known."""
        marker = self.before_name.partition("{")[0] if self.json else self.before_name
        return marker.strip() or self.before_name.strip()

    @property
    def stop(self) -> str:
        """What ends a call, before its message ends; empty where nothing does that stands nowhere else."""
        text = self.after_input.lstrip('"} \n') if self.json else self.after_input.strip()
        return "" if len(text) < len("</>") or '"' in text else text

    def call(self, tool: str, argument: str) -> list[Piece]:
        """The text of a call."""
        escaped = json.dumps(argument, ensure_ascii=False)[1:-1] if self.json else argument
        name = (self.before_name + tool + self.before_input, True)
        return [name, (escaped, False), (self.after_input, True)]


Name = Literal["tags", "chat"]


def protocol_of(name: Name, tokenizer: Any, task: Task, shots: Sequence[Demonstration]) -> Protocol:
    """The protocol called `name`, for a task's episodes.

    Args:
        shots: what the prompt shows.
    """
    if name == "chat":
        return Chat(tokenizer, task.instruction, task.descriptions, shots)
    return Tags(tokenizer, task.layout.head, task.layout, shots)


class Chat(Protocol):
    """Questions are the user's messages, calls and answers the assistant's, as the model's template writes them.

    Args:
        tokenizer: the model's.
        instruction: the system's message.
        descriptions: what each tool does, by its name.
        shots: demonstrations that stand before the question as earlier turns.

    Raises:
        PipelineError: if the tokenizer has no chat template, or one that writes no tools.
    """

    name_rule = "is one word of letters, digits, _ and -"

    def __init__(
        self,
        tokenizer: Any,
        instruction: str,
        descriptions: Mapping[str, str],
        shots: Sequence[Demonstration] = (),
    ) -> None:
        self.codec = TextCodec(tokenizer)
        schemas = [_schema(name, text) for name, text in descriptions.items()]
        self.form = _read(tokenizer, self.codec, instruction, schemas)
        form = self.form
        self.stop_strings = tuple(dict.fromkeys(text for text in (form.stop, form.end) if text))
        self.call_form = "".join(text for text, _ in form.call("tool name", INPUT)).strip()
        before: list[Piece] = [(form.head, True)]
        segments: list[Segment] = []
        for shot in shots:
            segments += [self._asked(before, shot.question), *self._turns(shot)]
            before = [(form.next, True)]
        self._shots = segments
        self._before = before

    def opening(self, question: str) -> Segment:
        segments = [*self._shots, self._asked(self._before, question)]
        tokens = tuple(token for segment in segments for token in segment.tokens)
        return Segment("".join(segment.text for segment in segments), tokens, "prompt")

    def turn(self, text: str) -> Turn:
        _, begun, rest = text.partition(self.form.begin)
        if begun and any(stop in rest for stop in self.stop_strings):
            return Turn.CALL
        return Turn.ANSWER if self.form.end in text else Turn.UNENDED

    def call(self, text: str) -> ToolCall | None:
        """The last call that the text begins; its tool and its only argument, or the one called `input`."""
        if getattr(self.codec.tokenizer, "response_template", None) is not None:
            return self._parsed_call(text)
        start = text.rfind(self.form.begin)
        if start < 0:
            return None
        return _json_call(text[start:]) if self.form.json else self._literal_call(text[start:])

    def answer(self, text: str) -> str:
        return text.partition(self.form.end)[0] + SUBMIT

    def response(self, said: str, output: str, cut: Sequence[int] | None = None) -> list[Segment]:
        tokens = self.codec.data(output) if cut is None else [*cut, *self.codec.data(CUT_MARK)]
        # A model that has ended its message itself has written the beginning of what is returned.
        ended = self.form.end in said
        returned = self.form.returned.removeprefix(self.form.end) if ended else self.form.returned
        segments = [
            self._segment([(returned, True)], "prompt"),
            Segment(self.codec.decode(tokens), tuple(tokens), "tool"),
            self._segment([(self.form.asked_again, True)], "prompt"),
        ]
        return [segment for segment in segments if segment.tokens]

    def shown(self, demonstration: Demonstration) -> list[Segment]:
        return [self.opening(demonstration.question), *self._turns(demonstration)]

    def can_name(self, tool: str) -> bool:
        return re.fullmatch(r"[\w-]+", tool) is not None

    def _asked(self, before: Sequence[Piece], question: str) -> Segment:
        return self._segment([*before, (question, False), (self.form.asked, True)], "prompt")

    def _turns(self, shown: Demonstration) -> list[Segment]:
        """A demonstration's segments after its question."""
        segments = []
        for call in shown.calls:
            # Where nothing ends a call but its message's end, the model has to write that.
            end = "" if self.form.stop else self.form.end
            pieces = [*self.form.call(call.tool, call.argument), (end, True)]
            said = self._segment(pieces, "model")
            segments += [said, *self.response(said.text, call.output)]
        answer = (f"Result={shown.result}", False)
        return [*segments, self._segment([answer, (self.form.end, True)], "model")]

    def _segment(self, pieces: Sequence[Piece], author: Author) -> Segment:
        tokens = self.codec.templated(pieces)
        return Segment(self.codec.decode(tokens), tuple(tokens), author)

    def _parsed_call(self, text: str) -> ToolCall | None:
        """The last call that the tokenizer's own parser finds."""
        try:
            message = self.codec.tokenizer.parse_response(text, prefix=self.form.asked)
            call = message["tool_calls"][-1]
            return _call_of(call.get("function", call))
        except Exception:  # it raises many things at what is no call
            return None

    def _literal_call(self, text: str) -> ToolCall | None:
        form = self.form
        parts = (form.before_name, form.before_input, form.after_input.rstrip())
        name, argument = r"([\w-]+?)", "(.*)"
        before, between, after = (r"\s*".join(map(re.escape, part.split())) for part in parts)
        found = re.search(rf"{before}\s*{name}\s*{between}\n?{argument}\n?{after}", text, re.DOTALL)
        return ToolCall(found[1], found[2].removesuffix("\n")) if found else None


def _json_call(text: str) -> ToolCall | None:
    try:
        call, _ = json.JSONDecoder().raw_decode(text, max(0, text.find("{")))
    except (ValueError, RecursionError):
        return None
    return _call_of(call)


def _call_of(call: Any) -> ToolCall | None:
    """A call as models write it in JSON."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    argument = call.get("arguments", call.get("parameters"))
    if isinstance(argument, dict):
        only = next(iter(argument.values())) if len(argument) == 1 else None
        argument = argument.get(INPUT, only)
    if argument is None:
        return None
    text = argument if isinstance(argument, str) else json.dumps(argument, ensure_ascii=False)
    # JSON can spell half a surrogate pair, which no file can hold.
    return ToolCall(well_formed(call["name"]), well_formed(text))


def _schema(name: str, description: str) -> dict[str, Any]:
    """A tool as templates take it."""
    parameters = {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": "what the tool gets"}},
        "required": [INPUT],
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _read(tokenizer: Any, codec: TextCodec, instruction: str, schemas: Sequence[Any]) -> Form:
    """What the tokenizer's template writes. Raises PipelineError if it has none, or one without tools."""
    if not getattr(tokenizer, "chat_template", None):
        raise PipelineError(
            "environment.protocol: chat needs a model with a chat template, and this one's tokenizer has "
            "none; take tags"
        )
    question, argument, output, answer, following = _MADE_UP
    call = {"name": _NAME, "arguments": {INPUT: argument}}
    identity = "call00000"  # nine characters, as some templates want
    messages = [
        {"role": "system", "content": instruction},
        {"role": "user", "content": question},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": identity, "function": call}],
        },
        {"role": "tool", "name": _NAME, "tool_call_id": identity, "content": output},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": following},
    ]
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(schemas), add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template may raise whatever it likes
        raise _no_tools(str(error)) from error
    pieces = re.split("|".join(_MADE_UP), text)
    if re.findall("|".join(_MADE_UP), text) != list(_MADE_UP) or _NAME not in pieces[1]:
        raise _no_tools("calls and answers do not stand in it once, in their order")
    head, called, after_call, asked_again, after_answer, asked = pieces
    if not called.startswith(asked):
        raise _no_tools("it begins a call otherwise than an answer")
    before_name, _, before_input = called.removeprefix(asked).partition(_NAME)
    end = codec.first_control(after_answer) or tokenizer.eos_token
    after_input, ended, returned = after_call.partition(end)
    if not ended:
        raise _no_tools(f"it does not end a call's message by {end}")
    _, _, following_text = after_answer.partition(end)
    return Form(
        head,
        asked,
        before_name,
        before_input,
        after_input,
        end + returned,
        asked_again,
        end,
        following_text,
    )


def _no_tools(reason: str) -> PipelineError:
    return PipelineError(
        "environment.protocol: chat needs a model whose chat template writes calls of tools; this one's "
        f"does not ({' '.join(reason.split())[:200]}); take tags"
    )
