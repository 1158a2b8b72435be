"""`TextEnvironment`: runs a model and its tools together until every episode has ended.

The model is behind a `Sampler`, which is handed in; the environment knows no model. `pipeline/trl/` has
the constructor and the `run` that TRL 0.11's `TextEnvironment` had.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.chance import Place
from pipeline.environment import chat
from pipeline.environment.calling import Answer, Caller
from pipeline.environment.cutting import cut_alike
from pipeline.environment.history import CallRecord, EndReason, Segment, TextHistory
from pipeline.environment.outage import worst_tool
from pipeline.environment.protocol import CUT_MARK, Protocol, Tags, Turn
from pipeline.models.sampler import Sampler, StopReason
from pipeline.tasks import Demonstration, Problem, Task
from pipeline.tools import ErrorKind, Tool
from pipeline.tools.protocol import ToolCall

RewardFunction = Callable[..., Sequence[float]]

MOST_CHARACTERS = 10_000
"""How much of a tool's output is kept; more where `max_tool_response` asks for more. To tokenize megabytes
takes minutes."""

CHARACTERS_PER_TOKEN = 64
"""More than nearly any token has."""

TOOL_TIMEOUT = 60.0
"""Seconds that a call may take, if nothing else is said."""


class EnvironmentSettings(BaseModel):
    """A task's protocol, and its limits in turns, tokens and seconds; see `TextEnvironment`."""

    model_config = ConfigDict(extra="forbid")
    protocol: chat.Name = "tags"
    max_turns: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    max_tool_response: int = Field(ge=1)
    max_length: int | None = Field(default=None, ge=1)
    tool_timeout: float = Field(default=TOOL_TIMEOUT, gt=0, allow_inf_nan=False)


class TextEnvironment:
    """A model that writes, tools that answer inside its text, and a reward for the result.

    Args:
        sampler: writes the model's turns. If it has `max_positions`, no episode gets longer than that.
        tokenizer: the model's.
        tools: `{name: callable}`, or a list of callables that go by their own names. A tool takes a
            string and returns text, or a coroutine of it. Whatever else it does, the model reads a tool
            error, unless the tool raises a `PipelineError`. A `BatchTool` gets all calls of a turn at
            once, others one by one, side by side; see `Caller`.
        reward_fn: called once a rollout as `reward_fn(answers, **reward_kwargs)` with, for each episode,
            the text the model wrote after the last tool output; returns a number for each.
        prompt: the few-shot prompt put before every question, in the protocol `Tags`.
        max_turns: how many times a model may write in an episode.
        max_new_tokens: how many tokens a turn may have.
        max_tool_response: how many tokens of a tool's output enter the text.
        max_length: how many tokens an episode may have in all, prompt included; None for no limit but
            the model's.
        tool_timeout: how many seconds a call may take.
        protocol: another one, which has a prompt of its own; then `prompt` is not looked at.

    Raises:
        ValueError: if two tools of a list have the same name, or a tool has one that no model can call;
            for a `tool_timeout` that is no number above 0.
        TypeError: if a tool cannot be called.
        PipelineError: if the tokenizer cannot spell the tags.
    """

    episode_type = TextHistory
    """What an episode is kept in."""

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
        tool_timeout: float = TOOL_TIMEOUT,
        protocol: Protocol | None = None,
    ) -> None:
        if not 0 < tool_timeout < math.inf:
            raise ValueError(f"tool_timeout {tool_timeout}: it must be a number of seconds above 0")
        self.sampler = sampler
        self.prompt = prompt
        self.protocol = protocol or Tags(tokenizer, prompt)
        self.codec = self.protocol.codec
        self.tools = dict(tools) if isinstance(tools, Mapping) else _named(tools)
        for name, tool in self.tools.items():
            _check(name, tool, self.protocol)
        self.reward_fn = reward_fn
        self.max_turns = max_turns
        self.max_new_tokens = max_new_tokens
        self.max_tool_response = max_tool_response
        self.max_length = max_length
        longest = max(MOST_CHARACTERS, CHARACTERS_PER_TOKEN * max_tool_response)
        self.caller = Caller(self.tools, tool_timeout, longest)

    def rollout(
        self,
        queries: Sequence[str],
        seed: int,
        step: int = 0,
        numbers: Sequence[int] | None = None,
        **reward_kwargs: Any,
    ) -> list[TextHistory]:
        """Rolls out one episode for each query: the question, as the protocol takes it.

        Args:
            seed, step: with an episode's number, what its tokens are drawn from; see `Place`.
            numbers: the episodes' numbers; None for 0, 1, 2, ...

        Warns of a tool that fails by itself in most calls.

        Returns:
            The episodes, ended and with their rewards.
        """
        openings = [self._opening(query) for query in queries]
        episodes = [self.episode_type(opening.text, opening.tokens) for opening in openings]
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
        if outage := worst_tool(episodes):
            warnings.warn(outage, RuntimeWarning, stacklevel=2)
        self._reward(episodes, **reward_kwargs)
        return episodes

    def _reward(self, episodes: Sequence[TextHistory], **reward_kwargs: Any) -> None:
        """Gives each episode its reward."""
        rewards = self.reward_fn([episode.answer_text for episode in episodes], **reward_kwargs)
        for episode, reward in zip(episodes, self._numbers(rewards, len(episodes))):
            episode.reward = reward

    def _opening(self, query: str) -> Segment:
        """The prompt and the question, as much of them as the model has positions for.

        What is beyond cannot be scored, and nothing is written after it.
        """
        opening = self.protocol.opening(query)
        tokens = opening.tokens[: self.max_positions]
        if len(tokens) == len(opening.tokens):
            return opening
        return Segment(self.codec.decode(tokens), tokens, "prompt")

    def _numbers(self, rewards: Any, count: int) -> list[float]:
        """What the reward function returned, as numbers. Raises TypeError if that is something else."""
        try:
            numbers = [float(reward) for reward in rewards]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != count:
            raise TypeError(
                f"{self._reward_name} must return a number for each of {count} episodes, got {str(rewards)[:100]}"
            )
        return numbers

    @property
    def _reward_name(self) -> str:
        """What to call the reward in an error."""
        return f"the reward function {_name_of(self.reward_fn)!r}"

    def _model_turn(self, histories: list[TextHistory], places: list[Place]) -> None:
        """Lets the model write in every episode that has room, and ends those that are done."""
        for history in histories:
            if self._room(history) < 1:
                history.complete(EndReason.MAX_LENGTH)
        writing = [history for history in histories if not history.completed]
        continuations = self.sampler.generate(
            [history.token_ids for history in writing],
            [int(min(self.max_new_tokens, self._room(history))) for history in writing],
            self.protocol.stop_strings,
            [place for history, place in zip(histories, places) if not history.completed],
        )
        for history, continuation in zip(writing, continuations):
            history.append_segment(
                continuation.text, continuation.tokens, system=False, logprobs=continuation.logprobs
            )
            turn = self.protocol.turn(continuation.text)
            if turn is Turn.ANSWER:
                history.answer = self.protocol.answer(continuation.text)
                history.complete(EndReason.SUBMITTED)
            elif turn is Turn.CALL:
                continue
            elif continuation.stop_reason == StopReason.END_OF_TEXT:
                history.complete(EndReason.END_OF_TEXT)
            elif continuation.stop_reason == StopReason.LENGTH:
                history.complete(
                    EndReason.MAX_NEW_TOKENS if self._room(history) > 0 else EndReason.MAX_LENGTH
                )

    def _tool_turn(self, histories: list[TextHistory]) -> None:
        """Answers the calls that the model has just written."""
        calls = [self.protocol.call(history.last_text_segment) for history in histories]
        for history, call, answer in zip(histories, calls, self._answers(calls), strict=True):
            segments, cut = self._response(history.last_text_segment, answer)
            history.calls.append(
                CallRecord(
                    tool=call.tool if call else "",
                    argument=call.argument if call else "",
                    output=answer.text,
                    error_kind=str(answer.kind or ""),
                    cut=cut,
                    details=answer.details,
                )
            )
            if sum(len(segment.tokens) for segment in segments) > self._room(history):
                history.complete(EndReason.MAX_LENGTH)
            else:
                for segment in segments:
                    history.append(segment)

    def _answers(self, calls: Sequence[ToolCall | None]) -> list[Answer]:
        """What the model reads of each call: the tool's answer, or what is wrong with the call."""
        objections = [self._objection(call) for call in calls]
        good = [call for call, wrong in zip(calls, objections) if call and not wrong]
        answered = iter(self.caller.answers(good))
        return [wrong or next(answered) for wrong in objections]

    def _objection(self, call: ToolCall | None) -> Answer | None:
        """What is wrong with a call that no tool can be asked to answer."""
        if call is None:
            return Answer(
                f"Tool error: a call is written {self.protocol.call_form}", ErrorKind.MALFORMED
            )
        if call.tool not in self.tools:
            return Answer(
                f"Tool error: no tool {call.tool!r}; there is {', '.join(self.tools)}",
                ErrorKind.UNKNOWN_TOOL,
            )
        return None

    def _response(self, said: str, answer: Answer) -> tuple[list[Segment], bool]:
        """What follows a turn with a call, and whether the answer had to be cut."""
        tokens = self.codec.data(answer.text)
        if len(tokens) <= self.max_tool_response and not answer.cut:
            return self.protocol.response(said, answer.text), False
        if answer.parts:
            text = cut_alike(
                answer.parts,
                self.max_tool_response,
                self.codec.data,
                self.codec.decode,
                CUT_MARK,
            )
            if len(self.codec.data(text)) <= self.max_tool_response:
                return self.protocol.response(said, text), True
        tokens = tokens[: self.max_tool_response]
        text = self.codec.decode(tokens)
        # The last tokens may be the first bytes of a character.
        while text.endswith("\ufffd") and not answer.text.startswith(text):
            tokens = tokens[:-1]
            text = self.codec.decode(tokens)
        return self.protocol.response(said, text, tokens), True

    @property
    def max_positions(self) -> int | None:
        """How many tokens the sampler's model was made for; None if the sampler does not say."""
        return getattr(self.sampler, "max_positions", None)

    def _room(self, history: TextHistory) -> float:
        """How many more tokens the episode may have."""
        limits = (self.max_length, self.max_positions)
        limit = min((limit for limit in limits if limit is not None), default=math.inf)
        return limit - len(history.token_ids)


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


def _check(name: Any, tool: Any, protocol: Protocol) -> None:
    """Refuses a tool that no call could reach."""
    if not callable(tool):
        raise TypeError(f"the tool {name!r} is no callable but {type(tool).__name__}")
    if not isinstance(name, str) or not name or not protocol.can_name(name):
        raise ValueError(
            f"no model can call a tool named {name!r}: give the tools as a mapping, each with a name "
            f"that {protocol.name_rule}"
        )


def _name_of(tool: Callable[..., Any]) -> str:
    """A function goes by its own name, any other callable by that of its class."""
    return getattr(tool, "__name__", type(tool).__name__)


class TaskEnvironment(TextEnvironment):
    """A task's environment: it takes problems.

    Args:
        shots: what the prompt shows, as the task's `demonstrate` returns it.
        tools: as the task's `tools` returns them.
        reward: what an answer is paid; None for the task's own reward.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Any,
        task: Task,
        shots: Sequence[Demonstration],
        tools: Mapping[str, Tool],
        settings: EnvironmentSettings,
        reward: Callable[[str, Problem], float] | None = None,
    ) -> None:
        protocol = chat.protocol_of(settings.protocol, tokenizer, task, shots)
        limits = settings.model_dump(exclude={"protocol"})
        super().__init__(sampler, tokenizer, tools, self._rewards, "", **limits, protocol=protocol)
        self.task = task
        self.reward = reward or task.reward

    def rollout_problems(
        self,
        problems: Sequence[Problem],
        seed: int,
        step: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> list[TextHistory]:
        """Rolls out one episode for each problem; the arguments are those of `rollout`."""
        queries = [problem["question"] for problem in problems]
        return self.rollout(queries, seed, step, numbers, problems=problems)

    def _rewards(self, answers: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [self.reward(a, p) for a, p in zip(answers, problems, strict=True)]

    @property
    def _reward_name(self) -> str:
        return f"the reward of the task {self.task.name}"
