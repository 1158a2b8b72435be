"""PPO with what TRL 0.11's had more: kinds of KL penalties, whitened rewards, scaled scores, statistics."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.algorithms.ppo import PPO
from pipeline.models.scoring import TokenBatch
from pipeline.training.algorithm import Credit, ScoredBatch
from pipeline.training.loss import masked_mean, whiten
from pipeline.trl.config import PPOConfig


def kl_penalty(kind: str, logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """What the policy pays for its distance from the reference, in nats.

    Args:
        kind: `kl`, the difference of log-probabilities; `abs`, its absolute value; `mse`, half its square;
            `full`, the KL divergence of the whole distributions.
        logprobs, reference: log-probabilities of tokens, of one shape; for `full` those of the whole
            vocabulary, in the last dimension.

    Returns:
        Of the same shape; for `full` without the last dimension.
    """
    difference = logprobs - reference
    if kind == "abs":
        return difference.abs()
    if kind == "mse":
        return difference.square() / 2
    if kind == "full":
        return (logprobs.exp() * difference).sum(-1)
    return difference


@torch.no_grad()
def full_kl(
    policy: Any,
    reference: Any,
    as_reference: AbstractContextManager,
    batch: TokenBatch,
    responses: Sequence[int],
) -> torch.Tensor:
    """The KL divergence of the distributions of each token, (B, T), in nats; one episode at a time.

    Args:
        policy, reference: causal language models.
        as_reference: the context in which the reference is one.
        batch: B episodes in T columns.
        responses: how many of each episode's last tokens are wanted; it is 0 for the others.
    """
    device = policy.get_input_embeddings().weight.device

    def distributions(model: Any, sequence: list[int], count: int) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([sequence[:-1]], device=device)).logits[0]
        return torch.log_softmax(logits[len(logits) - count :].float(), dim=-1)

    wanted = list(zip(batch.sequences, responses))
    own = [distributions(policy, *episode) for episode in wanted]
    with as_reference:
        kls = [
            kl_penalty("full", mine, distributions(reference, *episode))
            for mine, episode in zip(own, wanted)
        ]
    return batch.place([kl.cpu() for kl in kls])


class RunningMoments:
    """Mean and standard deviation of all scores so far (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, numbers: Sequence[float]) -> None:
        for number in numbers:
            self.count += 1
            before = number - self.mean
            self.mean += before / self.count
            self.squares += before * (number - self.mean)

    @property
    def std(self) -> float:
        """The sample's; 0 of fewer than two numbers."""
        return (self.squares / max(self.count - 1, 1)) ** 0.5


class ScoreScaling:
    """Makes rewards of scores, as the configuration says: scaled by all scores so far, and clipped."""

    def __init__(self) -> None:
        self.running = RunningMoments()

    def rewards(self, scores: Sequence[float], config: PPOConfig) -> list[float]:
        rewards = list(scores)
        if config.use_score_scaling:
            self.running.update(scores)
            scale = self.running.std + torch.finfo(torch.float32).eps
            shift = self.running.mean if config.use_score_norm else 0.0
            rewards = [(reward - shift) / scale for reward in rewards]
        if (limit := config.score_clip) is not None:
            rewards = [max(-limit, min(limit, reward)) for reward in rewards]
        return rewards


@dataclass(frozen=True)
class Measured:
    """What is known of a step's batch before the first update."""

    kl: torch.Tensor  # (B,): the penalty of each episode, nats
    advantages: torch.Tensor  # (N,): of the tokens that count
    started: float  # when credit was given, and when that was done; seconds
    done: float


class TrlPPO(PPO):
    """PPO as a configuration of TRL's has it.

    `full_kl`, (B, T), has to be set before a step whose `kl_penalty` is `full`.
    """

    def __init__(self, settings: PPOConfig) -> None:
        super().__init__(settings.ours())
        self.settings = settings
        self.full_kl: torch.Tensor | None = None
        self.measured: Measured | None = None

    def take_up(self) -> None:
        """Reads the configuration anew. The weight of the KL penalty stays."""
        self.config = self.settings.ours()
        self.kl_controller.config = self.config

    def rewards(self, batch: ScoredBatch) -> torch.Tensor:
        rewards = super().rewards(batch)
        if self.settings.whiten_rewards:
            mean = masked_mean(rewards, batch.mask)
            rewards = torch.where(batch.mask, whiten(rewards, batch.mask) + mean, 0.0)
        return rewards

    def credit(self, batch: ScoredBatch) -> Credit:
        started = time.perf_counter()
        if self.settings.kl_penalty == "full":
            assert self.full_kl is not None
            kl = torch.where(batch.mask, self.full_kl.to(batch.kl), 0.0)
        else:
            kl = kl_penalty(self.settings.kl_penalty, batch.kl, torch.zeros_like(batch.kl))
        credit = super().credit(replace(batch, kl=kl))
        self.measured = Measured(
            kl=kl.sum(dim=1),
            advantages=credit.advantages[batch.mask],
            started=started,
            done=time.perf_counter(),
        )
        return credit

    def end_step(self, kl: float, episodes: int) -> None:
        assert self.measured is not None
        super().end_step(float(self.measured.kl.mean()), episodes)
