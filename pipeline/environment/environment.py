"""`TextEnvironment`: runs a model and its tools together until every episode has ended.

The constructor and `run` take and return what TRL 0.11's `TextEnvironment` did. Where that was wrong
(text tokenized anew between turns, rewards that read a tool's output, limits in characters, errors that
ended the run) this one differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.environment.history import CallRecord, EndReason, TextHistory
from pipeline.errors import PipelineError
from pipeline.models.sampling import Sampler, StopReason
from pipeline.tasks import Problem, Task
from pipeline.tools import BatchTool, ErrorKind, Tool, ToolError, ToolResponse
from pipeline.tools.protocol import (
    CALL,
    REQUEST,
    RESPONSE,
    STOP_STRINGS,
    SUBMIT,
    ToolCall,
    parse_call,
)

RewardFunction = Callable[..., Sequence[float]]

CUT_MARK = "..."
"""Ends a tool response that was cut off at `max_tool_response` tokens."""


class EnvironmentSettings(BaseModel):
    """A task's limits, in turns and tokens; see `TextEnvironment`."""

    model_config = ConfigDict(extra="forbid")
    max_turns: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    max_tool_response: int = Field(ge=1)
    max_length: int | None = Field(default=None, ge=1)


class TextEnvironment:
    """A model that writes, tools that answer inside its text, and a reward for the result.

    Args:
        model: a causal language model, or a wrapper that holds one as `pretrained_model`.
        tokenizer: its tokenizer.
        tools: `{name: callable}`, or a list of callables that go by their own names. A tool takes a
            string and returns text; what it raises reaches the model as a tool error, unless it is a
            `PipelineError`. A `BatchTool` gets all calls of a turn at once, others one by one, side by
            side.
        reward_fn: called once a run as `reward_fn(answers, **reward_kwargs)` with, for each episode,
            the text the model wrote after the last tool response; returns a number for each.
        prompt: the few-shot prompt put before every task.
        max_turns: how many times a model may write in an episode.
        max_tool_response: how many tokens of a tool's answer enter the text.
        max_length: how many tokens an episode may have in all, prompt included; None for no limit.
        generation_kwargs: `max_new_tokens` (a turn's limit), `do_sample`, `temperature` and `seed`.

    Raises:
        ValueError: for a `generation_kwargs` entry that it does not know.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tools: Mapping[str, Tool] | Sequence[Tool],
        reward_fn: RewardFunction,
        prompt: str,
        max_turns: int = 4,
        max_tool_response: int = 100,
        max_length: int | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.tools = dict(tools) if isinstance(tools, Mapping) else {_name_of(t): t for t in tools}
        self.reward_fn = reward_fn
        self.prompt = prompt
        self.max_turns = max_turns
        self.max_tool_response = max_tool_response
        self.max_length = max_length
        options = dict(generation_kwargs or {})
        self.max_new_tokens: int = options.pop("max_new_tokens", 32)
        known = {"do_sample", "temperature", "seed"}
        if unknown := options.keys() - known:
            raise ValueError(
                f"unknown generation_kwargs {sorted(unknown)}; "
                f"known are {sorted(known | {'max_new_tokens'})}"
            )
        self.sampler = Sampler(
            getattr(model, "pretrained_model", model), tokenizer, STOP_STRINGS, **options
        )

    def run(
        self, tasks: Sequence[str], **reward_kwargs: Any
    ) -> tuple[
        list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[float], list[TextHistory]
    ]:
        """Plays one episode for each task.

        Returns:
            queries: the prompts' token ids, each of shape (query length,).
            responses: all token ids after them, each of shape (response length,).
            masks: 1 on the model's tokens in `responses`, 0 on the tools'.
            rewards: a number for each episode.
            histories: the episodes themselves.
        """
        # Prompt and task are tokenized apart, so that all queries begin with the very same tokens.
        prompt_tokens = self.tokenizer(self.prompt).input_ids
        histories = [
            TextHistory(self.prompt + task, [*prompt_tokens, *self._tokenize(task)])
            for task in tasks
        ]
        for _ in range(self.max_turns):
            active = [history for history in histories if not history.completed]
            if not active:
                break
            self._model_turn(active)
            self._tool_turn([history for history in active if not history.completed])
        for history in histories:
            if not history.completed:
                history.complete(EndReason.MAX_TURNS)
        rewards = self.reward_fn([history.answer_text for history in histories], **reward_kwargs)
        for history, reward in zip(histories, rewards, strict=True):
            history.reward = float(reward)
        parts = [history.split_query_response_tokens() for history in histories]
        queries, responses, masks = ([part[i] for part in parts] for i in range(3))
        return queries, responses, masks, [history.reward for history in histories], histories

    def _model_turn(self, histories: list[TextHistory]) -> None:
        """Lets the model write in every episode that has room, and ends those that are done."""
        for history in histories:
            if self._room(history) < 1:
                history.complete(EndReason.MAX_LENGTH)
        writing = [history for history in histories if not history.completed]
        continuations = self.sampler.generate(
            [history.tokens.tolist() for history in writing],
            [int(min(self.max_new_tokens, self._room(history))) for history in writing],
        )
        for history, continuation in zip(writing, continuations):
            history.append_segment(
                continuation.text, continuation.tokens, system=False, logprobs=continuation.logprobs
            )
            if SUBMIT in continuation.text:
                history.complete(EndReason.SUBMITTED)
            elif continuation.stop_reason == StopReason.END_OF_TEXT:
                history.complete(EndReason.END_OF_TEXT)
            elif continuation.stop_reason == StopReason.LENGTH:
                history.complete(
                    EndReason.MAX_NEW_TOKENS if self._room(history) > 0 else EndReason.MAX_LENGTH
                )

    def _tool_turn(self, histories: list[TextHistory]) -> None:
        """Answers the calls that the model has just written."""
        calls = [parse_call(history.last_text_segment) for history in histories]
        for history, call, answer in zip(histories, calls, self._answers(calls), strict=True):
            text, tokens, cut = self._tool_segment(_text_of(answer))
            history.calls.append(
                CallRecord(
                    tool=call.tool if call else "",
                    argument=call.argument if call else "",
                    output=_text_of(answer),
                    error_kind=_error_kind(answer),
                    cut=cut,
                    details=answer.details if isinstance(answer, ToolResponse) else {},
                )
            )
            if len(tokens) > self._room(history):
                history.complete(EndReason.MAX_LENGTH)
            else:
                history.append_segment(text, tokens, system=True)

    def _answers(self, calls: Sequence[ToolCall | None]) -> list[ToolResponse | str | Exception]:
        """What the tools say to each call, or what is wrong with it. A tool's calls run side by side."""
        answers: list[Any] = [self._objection(call) for call in calls]
        waiting: dict[str, list[int]] = {}
        for index, call in enumerate(calls):
            if call is not None and answers[index] is None:
                waiting.setdefault(call.tool, []).append(index)
        with ThreadPoolExecutor(max_workers=32) as pool:
            for name, indices in waiting.items():
                tool = self.tools[name]
                arguments = [call.argument for call in (calls[i] for i in indices) if call]
                if isinstance(tool, BatchTool):
                    answered = _attempt(tool.batch, arguments)
                    if isinstance(answered, Exception):
                        answered = [answered] * len(arguments)
                else:
                    answered = pool.map(partial(_attempt, tool), arguments)
                for index, answer in zip(indices, answered, strict=True):
                    answers[index] = answer
        return answers

    def _objection(self, call: ToolCall | None) -> ToolError | None:
        """What is wrong with a call that no tool can be asked to answer."""
        if call is None:
            return ToolError(
                f"a call is written {REQUEST}<tool name>input{CALL}", ErrorKind.MALFORMED
            )
        if call.tool not in self.tools:
            return ToolError(
                f"no tool {call.tool!r}; there is {', '.join(self.tools)}", ErrorKind.UNKNOWN_TOOL
            )
        return None

    def _tool_segment(self, answer: str) -> tuple[str, list[int], bool]:
        """A tool's answer and the closing tag: text, tokens, and whether the answer had to be cut."""
        tokens = self._tokenize(answer)
        if len(tokens) <= self.max_tool_response:
            # In one piece, as in prompt and demonstrations: a token may reach into the tag (".<").
            text = answer + RESPONSE
            return text, self._tokenize(text), False
        tokens, end = tokens[: self.max_tool_response], CUT_MARK + RESPONSE
        text = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False) + end
        return text, tokens + self._tokenize(end), True

    def _room(self, history: TextHistory) -> float:
        """How many more tokens the episode may have."""
        return math.inf if self.max_length is None else self.max_length - len(history.tokens)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _attempt(tool: Callable[[Any], Any], argument: Any) -> Any:
    """What the tool says, or what it raised."""
    try:
        return tool(argument)
    except PipelineError:
        raise  # what the user must mend is not for the model to read
    except Exception as error:  # a tool must never end the run
        return error


def _text_of(answer: ToolResponse | str | Exception) -> str:
    if isinstance(answer, Exception):
        return f"Tool error: {str(answer) or type(answer).__name__}"
    return str(answer)


def _error_kind(answer: ToolResponse | str | Exception) -> str:
    """A tool error's kind; empty where the tool answered."""
    if isinstance(answer, ToolError):
        return str(answer.kind)
    return str(ErrorKind.CRASHED) if isinstance(answer, Exception) else ""


def _name_of(tool: Tool) -> str:
    """A function goes by its own name, any other callable by that of its class."""
    return getattr(tool, "__name__", type(tool).__name__)


def task_environment(
    task: Task,
    model: Any,
    tokenizer: Any,
    prompt: str,
    tools: Mapping[str, Tool],
    settings: EnvironmentSettings,
    **sampling: Any,
) -> TextEnvironment:
    """A task's environment: `run([task.query(p) for p in problems], problems=problems)`.

    `sampling` may hold `do_sample`, `temperature` and `seed`.
    """

    def reward_fn(answer_texts: list[str], problems: list[Problem]) -> list[float]:
        return [task.reward(text, p) for text, p in zip(answer_texts, problems, strict=True)]

    return TextEnvironment(
        model,
        tokenizer,
        tools,
        reward_fn,
        prompt,
        max_turns=settings.max_turns,
        max_tool_response=settings.max_tool_response,
        max_length=settings.max_length,
        generation_kwargs={"max_new_tokens": settings.max_new_tokens, **sampling},
    )
