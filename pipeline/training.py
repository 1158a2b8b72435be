"""The training loop: play a batch of episodes, improve the policy on it, repeat."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import set_seed

from pipeline.environment.environment import Tool
from pipeline.models import CausalLMWithValueHead, Machine
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.ppo.trainer import make_optimizer
from pipeline.stability import BestPolicy, Unstable, instability
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

    Raises:
        Unstable: after a step that shows that the training has gone wrong; see `instability`. The
            policy is then left as it was when it did best, whatever `settings.keep` says.
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
    curve: list[dict[str, float]] = []
    for step in range(1, settings.steps + 1):
        batch = [problems[next(order)] for _ in range(settings.episodes_per_step)]
        with machine.autocast():
            queries, responses, masks, rewards, histories = env.run(
                [task.query(problem) for problem in batch], problems=batch
            )
        best.played(step, rewards)
        stats = trainer.step(
            queries,
            responses,
            rewards,
            masks,
            [history.truncated for history in histories],
            [history.sampled_logprobs for history in histories],
        )
        calls = [call for history in histories for call in history.calls]
        curve.append(
            {
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
        )
        yield curve[-1]
        if reason := instability(curve, settings.episodes_per_step):
            best.restore()
            raise Unstable(reason, best.step)
    if settings.keep == "best":
        best.restore()


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
