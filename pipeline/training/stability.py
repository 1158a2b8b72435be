"""Trainings that go wrong: when to stop one, and which policy to keep."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.models.policy import load_trained_state, trained_state

WINDOW = 3
"""Steps whose mean is looked at: the reward of one step, of 32 episodes say, is mostly chance."""

LOWEST_ENTROPY = 1e-3
"""Nats per token. Below it nearly all episodes of a problem are the same, and none is better."""

MASTERED = 0.9
"""The mean reward from which on a policy may be that sure of itself."""


class Unstable(PipelineError):  # noqa: N818 (it is news, not a mistake)
    """A training was stopped. `best_step` is the step whose policy was restored, 0 if there was none."""

    def __init__(self, reason: str, best_step: int) -> None:
        super().__init__(reason)
        self.best_step = best_step


class BestPolicy:
    """Remembers the policy as it played when the mean reward of a few steps was at its best.

    One update can break what many have built, and the last may be that one: nothing has been played
    since. Only training's own episodes are looked at.
    """

    def __init__(self, policy: torch.nn.Module) -> None:
        self.policy = policy
        self.step = 0
        """The step that the remembered policy played; 0 before there have been enough of them."""
        self._rewards: deque[float] = deque(maxlen=WINDOW)
        self._best = -math.inf
        self._state: dict[str, torch.Tensor] = {}

    def rolled_out(self, step: int, rewards: Sequence[float]) -> None:
        """Takes note of the rewards of a step that the policy, as it is now, has played.

        A step without any, because a tool was down, says nothing.
        """
        if not rewards:
            return
        self._rewards.append(sum(rewards) / len(rewards))
        mean = sum(self._rewards) / len(self._rewards)
        # Of equals the later one, which has learned from more.
        if len(self._rewards) == WINDOW and mean >= self._best:
            self._best, self.step = mean, step
            self._state = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in trained_state(self.policy).items()
            }

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rewards": list(self._rewards),
            "best": self._best,
            "policy": self._state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.step, self._best, self._state = state["step"], state["best"], state["policy"]
        self._rewards.extend(state["rewards"])

    def restore(self) -> None:
        """Makes the policy what it was at its best; leaves it as it is after too few steps."""
        if self._state:
            load_trained_state(self.policy, self._state)


def instability(curve: Sequence[Mapping[str, float]], episodes_per_step: int) -> str | None:
    """What is wrong for good after the last step of a learning curve; None if nothing is.

    That is: a statistic that is not finite; an entropy so low that nothing new will be tried, though
    the task is not mastered; a mean reward below half its best, by more than chance explains. The last
    two are judged by means of `WINDOW` steps. Steps of which an outage left nothing are passed over.

    Args:
        curve: the statistics of a training, one mapping a step. Rewards are from 0 to 1.
    """
    step = len(curve)
    if broken := [name for name, value in curve[-1].items() if not math.isfinite(value)]:
        return f"step {step}: {', '.join(broken)} not a finite number"
    judged = [stats for stats in curve if stats.get("env/dropped_share", 0.0) < 1]
    if len(judged) < WINDOW:
        return None
    rewards, entropies = (
        [
            sum(stats[name] for stats in judged[end - WINDOW : end]) / WINDOW
            for end in range(WINDOW, len(judged) + 1)
        ]
        for name in ("env/reward_mean", "objective/token_entropy")
    )
    best, now = max(rewards), rewards[-1]
    if entropies[-1] < LOWEST_ENTROPY and now < MASTERED:
        return (
            f"step {step}: the entropy has collapsed to {entropies[-1]:.1g} nats per token, at a mean "
            f"reward of {now:.2f}: nothing new will be tried"
        )
    # Of the difference of two means of n rewards in [0, 1], each of variance at most 1/4.
    standard_error = math.sqrt(2 * 0.25 / (WINDOW * episodes_per_step))
    if best - now > max(best / 2, 4 * standard_error):
        return f"step {step}: the mean reward has collapsed from {best:.2f} to {now:.2f}"
    return None
