"""The training loop: play a batch of episodes, improve the policy on it, repeat."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import set_seed

from pipeline.environment.environment import Tool
from pipeline.models import CausalLMWithValueHead, Machine
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.trainer import make_optimizer
from pipeline.tasks import EnvironmentSettings, Problem, Task


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


def train(
    policy: CausalLMWithValueHead,
    tokenizer: Any,
    task: Task,
    prompt: str,
    tools: Mapping[str, Tool],
    problems: Sequence[Problem],
    environment: EnvironmentSettings,
    settings: TrainSettings,
    ppo: PPOConfig,
    machine: Machine,
    seed: int,
) -> Iterator[dict[str, float]]:
    """Trains `policy` in place by PPO; its state at the start is the reference of the KL penalty.

    With `settings.keep: best` it is left at the end as it was when it did best; see `BestPolicy`.

    Args:
        prompt, tools: as the task's `demonstrate` and `tools` return them.
        problems: the training set; taken in an order drawn from `seed`, anew when it is used up.
        seed: decides that order, the sampling and the minibatches.

    Yields:
        After each step its statistics: those of `PPOTrainer.step`, `step`, `episodes` (so far),
        `best_step`, and `env/...` on the episodes played.
    """
    set_seed(seed)
    env = task.environment(policy, tokenizer, prompt, tools, environment, seed=seed)
    optimizer = make_optimizer(ppo, policy)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings)
    )
    trainer = PPOTrainer(
        ppo,
        policy,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        seed=seed,
        autocast=machine.autocast,
    )
    order = _endless_order(len(problems), seed)
    best = BestPolicy(policy)
    for step in range(1, settings.steps + 1):
        batch = [problems[next(order)] for _ in range(settings.episodes_per_step)]
        with machine.autocast():
            queries, responses, masks, rewards, histories = env.run(
                [task.query(problem) for problem in batch], problems=batch
            )
        best.played(step, rewards)
        stats = trainer.step(
            queries, responses, rewards, masks, [history.truncated for history in histories]
        )
        calls = [call for history in histories for call in history.calls]
        yield {
            "step": step,
            "episodes": step * settings.episodes_per_step,
            "best_step": best.step,
            "env/reward_mean": sum(rewards) / len(rewards),
            "env/reward_std": float(torch.tensor(rewards).std(correction=0)),
            "env/tool_calls_mean": len(calls) / len(histories),
            "env/tool_errors_mean": sum(call.error for call in calls) / len(histories),
            "env/truncated_share": sum(h.truncated for h in histories) / len(histories),
            **stats,
        }
    if settings.keep == "best":
        best.restore()


class BestPolicy:
    """Remembers the policy as it played when the mean reward of a few steps was at its best.

    One update can break what many have built, and the last may be that one: nothing has been played
    since. Only training's own episodes are looked at.
    """

    WINDOW = 3
    """Steps whose mean is taken: the reward of one step, of 32 episodes say, is mostly chance."""

    def __init__(self, policy: torch.nn.Module) -> None:
        self.policy = policy
        self.step = 0
        """The step that the remembered policy played; 0 before there have been enough of them."""
        self._rewards: deque[float] = deque(maxlen=self.WINDOW)
        self._best = -math.inf
        self._state: dict[str, torch.Tensor] = {}

    def played(self, step: int, rewards: Sequence[float]) -> None:
        """Takes note of the rewards of a step that the policy, as it is now, has played."""
        self._rewards.append(sum(rewards) / len(rewards))
        mean = sum(self._rewards) / len(self._rewards)
        # Of equals the later one, which has learned from more.
        if len(self._rewards) == self.WINDOW and mean >= self._best:
            self._best, self.step = mean, step
            self._state = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in self.policy.state_dict().items()
            }

    def restore(self) -> None:
        """Makes the policy what it was at its best; leaves it as it is after too few steps."""
        if self._state:
            self.policy.load_state_dict(self._state)


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


def _endless_order(count: int, seed: int) -> Iterator[int]:
    """Indices below `count`, shuffled anew for each pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
