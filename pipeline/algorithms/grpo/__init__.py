"""GRPO: an episode's advantage is its reward less its group's mean, over the group's deviation.

A group is the episodes of one problem (Shao et al. 2024, https://arxiv.org/abs/2402.03300, §4.1). There is
no value head. The loss variants are those that TRL's `GRPOTrainer` has by the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.training.algorithm import Algorithm, Credit, MinibatchPart, ScoredBatch
from pipeline.training.settings import Count, GroupConfig, NotNegative

if TYPE_CHECKING:
    import torch

    from pipeline.models.scoring import Scores
    from pipeline.training.loss import PolicyLoss

TINY = 1e-4
"""Added to deviations, as TRL does: those of equal rewards are 0."""


class GRPOConfig(GroupConfig):
    """The parameters of GRPO."""

    beta: NotNegative = 0.0  # weight of the KL from the reference, in the loss
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    max_completion_length: Count = 512  # what dr_grpo divides by, tokens


class GRPO(Algorithm):
    """Group relative policy optimization."""

    name = "grpo"
    Config = GRPOConfig

    def credit(self, batch: ScoredBatch) -> Credit:
        """All tokens of an episode get the same."""
        import torch

        groups = self.by_group(batch.rewards, batch)
        deviations = [group.std() for group in groups]
        advantages = torch.cat([group - group.mean() for group in groups])
        if self.config.scale_rewards == "group":
            each = [d.expand(len(group)) for d, group in zip(deviations, groups)]
            advantages = advantages / (torch.cat(each) + TINY)
        elif self.config.scale_rewards == "batch":
            advantages = advantages / (batch.rewards.std() + TINY)
        return Credit(
            advantages.view(-1, 1).expand(batch.mask.shape),
            statistics={"grpo/equal_groups": sum(float(d == 0) for d in deviations) / len(groups)},
        )

    def loss(
        self, policy: PolicyLoss, new: Scores, part: MinibatchPart
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The clipped loss and `beta` times the KL from the reference, over the tokens.

        The KL is Schulman's estimator k3 (http://joschu.net/blog/kl-approx.html) times the ratio to the
        policy that sampled, whose gradient is then unbiased (DeepSeek-AI 2025,
        https://arxiv.org/abs/2512.02556). The variants differ in what the sum is divided by: `grpo`
        gives each episode the same weight, `bnpo` each token of the minibatch, `dapo` each token of the
        step, `dr_grpo` divides by a constant.
        """
        mask = part.mask
        less = (part.reference_logprobs - new.logprobs).where(mask, 0.0)
        ratio = (new.logprobs - part.old_logprobs).where(mask, 0.0).exp()
        kl = ratio * (less.exp() - less - 1)
        losses = policy.per_token + self.config.beta * kl
        if self.config.loss_type == "grpo":
            loss = (losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / part.episodes
        elif self.config.loss_type == "bnpo":
            loss = losses.sum() / part.tokens
        elif self.config.loss_type == "dapo":
            loss = losses.sum() / max(part.mean_tokens, 1.0)
        else:
            loss = losses.sum() / (part.episodes * self.config.max_completion_length)
        return loss, {"grpo/kl": kl.sum() / part.tokens}


ALGORITHM = GRPO
