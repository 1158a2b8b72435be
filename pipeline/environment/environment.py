"""`TextEnvironment`: runs a model and its tools together until every episode has ended.

The model is behind a `Sampler`, which is handed in; the environment knows no model. `pipeline/trl.py` has
the constructor and the `run` that TRL 0.11's `TextEnvironment` had.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.chance import Place
from pipeline.environment.history import CallRecord, EndReason, TextHistory
from pipeline.environment.tokens import EpisodeCodec
from pipeline.errors import PipelineError
from pipeline.models.sampler import Sampler, StopReason
from pipeline.models.text import well_formed
from pipeline.tasks import Problem, Task
from pipeline.tools import BatchTool, ErrorKind, Tool, ToolError, ToolResponse
from pipeline.tools.protocol import (
    CALL,
    REQUEST,
    RESPONSE,
    STOP_STRINGS,
    SUBMIT,
    ToolCall,
    ending_tag,
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
        sampler: writes the model's turns.
        tokenizer: the model's.
        tools: `{name: callable}`, or a list of callables that go by their own names. A tool takes a
            string and returns text; what it raises reaches the model as a tool error, unless it is a
            `PipelineError`. A `BatchTool` gets all calls of a turn at once, others one by one, side by
            side.
        reward_fn: called once a rollout as `reward_fn(answers, **reward_kwargs)` with, for each episode,
            the text the model wrote after the last tool output; returns a number for each.
        prompt: the few-shot prompt put before every question.
        max_turns: how many times a model may write in an episode.
        max_new_tokens: how many tokens a turn may have.
        max_tool_response: how many tokens of a tool's output enter the text.
        max_length: how many tokens an episode may have in all, prompt included; None for no limit.

    Raises:
        ValueError: if two tools of a list have the same name.
        PipelineError: if the tokenizer cannot spell the tags.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Any,
        tools: Mapping[str, Tool] | Sequence[Tool],
        reward_fn: RewardFunction,
        prompt: str,
        max_turns: int = 4,
        max_new_tokens: int = 32,
        max_tool_response: int = 100,
        max_length: int | None = None,
    ) -> None:
        self.sampler = sampler
        self.codec = EpisodeCodec(tokenizer)
        self.tools = dict(tools) if isinstance(tools, Mapping) else _named(tools)
        self.reward_fn = reward_fn
        self.prompt = prompt
        self.max_turns = max_turns
        self.max_new_tokens = max_new_tokens
        self.max_tool_response = max_tool_response
        self.max_length = max_length

    def rollout(
        self,
        queries: Sequence[str],
        seed: int,
        step: int = 0,
        numbers: Sequence[int] | None = None,
        **reward_kwargs: Any,
    ) -> list[TextHistory]:
        """Rolls out one episode for each query, the text that follows the prompt.

        Args:
            seed, step: with an episode's number, what its tokens are drawn from; see `Place`.
            numbers: the episodes' numbers; None for 0, 1, 2, ...

        Returns:
            The episodes, ended and with their rewards.
        """
        # Prompt and query are tokenized apart, so that all episodes begin with the very same tokens.
        prompt_tokens = self.codec.opening(self.prompt)
        episodes = [
            TextHistory(self.prompt + well_formed(query), [*prompt_tokens, *self.codec.data(query)])
            for query in queries
        ]
        places = [
            Place(seed, step, number)
            for number in (range(len(queries)) if numbers is None else numbers)
        ]
        for turn in range(self.max_turns):
            active = [i for i, episode in enumerate(episodes) if not episode.completed]
            if not active:
                break
            self._model_turn(
                [episodes[i] for i in active], [places[i].at_turn(turn) for i in active]
            )
            self._tool_turn([episodes[i] for i in active if not episodes[i].completed])
        for episode in episodes:
            if not episode.completed:
                episode.complete(EndReason.MAX_TURNS)
        rewards = self.reward_fn([episode.answer_text for episode in episodes], **reward_kwargs)
        for episode, reward in zip(episodes, rewards, strict=True):
            episode.reward = float(reward)
        return episodes

    def _model_turn(self, histories: list[TextHistory], places: list[Place]) -> None:
        """Lets the model write in every episode that has room, and ends those that are done."""
        for history in histories:
            if self._room(history) < 1:
                history.complete(EndReason.MAX_LENGTH)
        writing = [history for history in histories if not history.completed]
        continuations = self.sampler.generate(
            [history.token_ids for history in writing],
            [int(min(self.max_new_tokens, self._room(history))) for history in writing],
            STOP_STRINGS,
            [place for history, place in zip(histories, places) if not history.completed],
        )
        for history, continuation in zip(writing, continuations):
            history.append_segment(
                continuation.text, continuation.tokens, system=False, logprobs=continuation.logprobs
            )
            if ending_tag(continuation.text) == SUBMIT:
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
        tokens = self.codec.data(answer)
        if len(tokens) <= self.max_tool_response:
            return answer + RESPONSE, self.codec.tool(answer), False
        tokens = tokens[: self.max_tool_response]
        text = self.codec.decode(tokens) + CUT_MARK + RESPONSE
        return text, tokens + self.codec.tool(CUT_MARK), True

    def _room(self, history: TextHistory) -> float:
        """How many more tokens the episode may have."""
        return math.inf if self.max_length is None else self.max_length - len(history.token_ids)


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
        return well_formed(f"Tool error: {str(answer) or type(answer).__name__}")
    return well_formed(str(answer))


def _named(tools: Sequence[Tool]) -> dict[str, Tool]:
    """The tools by their own names."""
    named: dict[str, Tool] = {}
    for tool in tools:
        name = _name_of(tool)
        if name in named:
            raise ValueError(
                f"two tools are named {name!r}: give the tools as a mapping, each with its name"
            )
        named[name] = tool
    return named


def _error_kind(answer: ToolResponse | str | Exception) -> str:
    """A tool error's kind; empty where the tool answered."""
    if isinstance(answer, ToolError):
        return str(answer.kind)
    return str(ErrorKind.CRASHED) if isinstance(answer, Exception) else ""


def _name_of(tool: Tool) -> str:
    """A function goes by its own name, any other callable by that of its class."""
    return getattr(tool, "__name__", type(tool).__name__)


class TaskEnvironment(TextEnvironment):
    """A task's environment: it takes problems.

    Args:
        prompt, tools: as the task's `demonstrate` and `tools` return them.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Any,
        task: Task,
        prompt: str,
        tools: Mapping[str, Tool],
        settings: EnvironmentSettings,
    ) -> None:
        super().__init__(sampler, tokenizer, tools, self._rewards, prompt, **settings.model_dump())
        self.task = task

    def rollout_problems(
        self,
        problems: Sequence[Problem],
        seed: int,
        step: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> list[TextHistory]:
        """Rolls out one episode for each problem; the arguments are those of `rollout`."""
        queries = [self.task.query(problem) for problem in problems]
        return self.rollout(queries, seed, step, numbers, problems=problems)

    def _rewards(self, answers: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [self.task.reward(a, p) for a, p in zip(answers, problems, strict=True)]
