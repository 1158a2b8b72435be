"""A training under way: what every algorithm needs, and what each step of any of them does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.environment.environment import TextEnvironment
from pipeline.environment.history import TextHistory
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.tasks import Problem, Task
from pipeline.training.stability import BestPolicy, Unstable, instability

Stats = dict[str, float]


class TrainSettings(BaseModel):
    """How long to train a task, and how the learning rate moves meanwhile."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(ge=1)
    episodes_per_step: int = Field(ge=1)
    lr_schedule: Literal["constant", "linear"]
    warmup_steps: int = Field(ge=0)
    keep: Literal["best", "last"]

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps must be below steps, which is {self.steps}")
        return self


@dataclass(frozen=True)
class Episodes:
    """What `TextEnvironment.run` returns of a batch."""

    queries: list[torch.Tensor]
    responses: list[torch.Tensor]
    masks: list[torch.Tensor]
    rewards: list[float]
    histories: list[TextHistory]


class Run:
    """A training under way: what every algorithm needs, and what each step of any of them does.

    Args:
        policy: improved in place.
        env: the task's environment, which plays with that policy.
        problems: the training set.
        seed: decides the order of problems.
        on_step: called with the statistics of each step.
    """

    def __init__(
        self,
        policy: CausalLMWithValueHead,
        tokenizer: Any,
        task: Task,
        env: TextEnvironment,
        problems: Sequence[Problem],
        settings: TrainSettings,
        machine: Machine,
        seed: int,
        on_step: Callable[[Stats], None],
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.task = task
        self.env = env
        self.problems = problems
        self.settings = settings
        self.machine = machine
        self.seed = seed
        self.best = BestPolicy(policy)
        self._on_step = on_step
        self._curve: list[Stats] = []
        self._played: Stats = {}

    def batches(self) -> Iterator[list[Problem]]:
        """The problems of each step: in random order, every one once before one comes again."""
        generator = torch.Generator().manual_seed(self.seed)
        order: list[int] = []
        for _ in range(self.settings.steps):
            while len(order) < self.settings.episodes_per_step:
                order += torch.randperm(len(self.problems), generator=generator).tolist()
            chosen, order = (
                order[: self.settings.episodes_per_step],
                order[self.settings.episodes_per_step :],
            )
            yield [self.problems[index] for index in chosen]

    def play(self, problems: Sequence[Problem]) -> Episodes:
        """Plays a step's episodes with the policy as it is now."""
        with self.machine.autocast():
            episodes = Episodes(
                *self.env.run([self.task.query(p) for p in problems], problems=problems)
            )
        rewards, histories = episodes.rewards, episodes.histories
        self.best.played(len(self._curve) + 1, rewards)
        calls = [call for history in histories for call in history.calls]
        self._played = {
            "env/reward_mean": sum(rewards) / len(rewards),
            "env/reward_std": float(torch.tensor(rewards).std(correction=0)),
            "env/tool_calls_mean": len(calls) / len(histories),
            "env/tool_errors_mean": sum(call.error for call in calls) / len(histories),
            "env/truncated_share": sum(h.truncated for h in histories) / len(histories),
        }
        return episodes

    def learned(self, stats: Stats) -> None:
        """Ends a step, whose episodes the policy has learned from.

        Args:
            stats: the algorithm's; at least `objective/kl`, nats per episode from the policy at the
                start, and `objective/token_entropy`, nats per token.

        Raises:
            Unstable: if the training has gone wrong; the policy is then what it was at its best.
        """
        step = len(self._curve) + 1
        episodes = step * self.settings.episodes_per_step
        self._curve.append(
            {"step": step, "episodes": episodes, "best_step": self.best.step} | self._played | stats
        )
        self._on_step(self._curve[-1])
        if reason := instability(self._curve, self.settings.episodes_per_step):
            self.best.restore()
            raise Unstable(reason, self.best.step)


class Algorithm(Protocol):
    """What an algorithm's file defines."""

    Config: type[BaseModel]

    @staticmethod
    def learn(run: Run, config: Any) -> None:
        """Improves `run.policy` over `run.settings.steps` steps, each played and told to `run`."""


def learning_rate_factor(step: int, settings: TrainSettings) -> float:
    """The share of the full learning rate at a step, counted from 0.

    It rises linearly over the warm-up's steps; then it stays, or falls linearly, to reach 0 just
    after the last step.
    """
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_schedule == "constant":
        return 1.0
    return max(0.0, (settings.steps - step) / (settings.steps - settings.warmup_steps))
