"""RLOO: an episode's advantage is its reward less the mean reward of the others of its group.

A group is the episodes of one problem; the reward holds the KL penalty of the whole episode (Ahmadian et
al. 2024, https://arxiv.org/abs/2402.14740, §2.3). The loss is PPO's clipped one, over the model's tokens.
"""

from __future__ import annotations

from pipeline.training.algorithm import Algorithm, Credit, ScoredBatch
from pipeline.training.settings import GroupConfig, NotNegative


class RLOOConfig(GroupConfig):
    """The parameters of RLOO."""

    kl_coef: NotNegative = 0.02  # weight of the KL penalty in the reward, per nat


class RLOO(Algorithm):
    """REINFORCE, leave one out."""

    name = "rloo"
    Config = RLOOConfig

    def credit(self, batch: ScoredBatch) -> Credit:
        """All tokens of an episode get the same."""
        import torch

        penalized = batch.rewards - self.config.kl_coef * batch.kl.sum(dim=1)
        groups = self.by_group(penalized, batch)
        advantages = torch.cat([g - (g.sum() - g) / (len(g) - 1) for g in groups]).view(-1, 1)
        return Credit(
            advantages.expand(batch.mask.shape),
            statistics={"rloo/mean_penalty": float((batch.rewards - penalized).mean())},
        )


ALGORITHM = RLOO
