"""Masked PPO: proximal policy optimization on the model's own tokens of a text with tools in it.

The credit is generalized advantage estimation over a value head's predictions. See docs/ppo.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pipeline.training.algorithm import Algorithm, Credit, MinibatchPart, ScoredBatch
from pipeline.training.settings import NotNegative, Positive, Share, UpdateConfig

if TYPE_CHECKING:
    import torch

    from pipeline.models.scoring import Scores
    from pipeline.training.loss import PolicyLoss


class PPOConfig(UpdateConfig):
    """The parameters of PPO. `docs/ppo.md` says where each default comes from."""

    value_head_learning_rate: Positive = 1e-3
    gamma: Share = 1.0
    lam: Share = 0.95
    cliprange_value: Positive = 0.2
    vf_coef: NotNegative = 0.1
    entropy_coef: NotNegative = 0.0
    init_kl_coef: NotNegative = 0.02
    adap_kl_ctrl: bool = False  # whether init_kl_coef is adapted to hold target_kl_episode
    target_kl_episode: Positive = 6.0  # nats per episode
    horizon: Positive = 10000  # episodes over which the adaptation works
    baseline: Literal["value", "none"] = "value"  # what rewards are compared with; none: nothing
    whiten_advantages: bool = True
    bootstrap_truncated: bool = False  # whether an episode cut off by length goes on at its value
    gae: Literal["skip", "walk"] = "skip"  # walk is TRL 0.11.4's: for experiments


class PPO(Algorithm):
    """Proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347)."""

    name = "ppo"
    Config = PPOConfig

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        self.kl_controller = KLController(config)
        self.entropy_gradient = config.entropy_coef > 0

    def rewards(self, batch: ScoredBatch) -> torch.Tensor:
        """Each token's reward, (B, T): the KL penalty, and the task's reward on an episode's last."""
        from pipeline.algorithms.ppo.advantages import token_rewards

        return token_rewards(batch.rewards, batch.kl, batch.mask, self.kl_controller.value)

    def credit(self, batch: ScoredBatch) -> Credit:
        """Rewards less the KL penalty, spread over the tokens by GAE."""
        from pipeline.algorithms.ppo.advantages import gae, gae_walk
        from pipeline.training.loss import masked_mean, masked_var, whiten

        config, mask = self.config, batch.mask
        values, end_values = batch.values, batch.end_values
        if config.baseline == "none":
            values, end_values = values.new_zeros(values.shape), end_values.new_zeros(len(values))
        rewards = self.rewards(batch)
        if config.gae == "walk":
            advantages, returns = gae_walk(rewards, values, mask, config.gamma, config.lam)
        else:
            goes_on = batch.truncated & config.bootstrap_truncated
            bootstrap = end_values.where(goes_on, 0.0)
            advantages, returns = gae(rewards, values, mask, config.gamma, config.lam, bootstrap)
        unexplained = masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)
        statistics: dict[str, Any] = {
            "objective/kl_coef": self.kl_controller.value,
            "ppo/mean_non_score_reward": -self.kl_controller.value * masked_mean(batch.kl, mask),
            "ppo/policy/advantages_mean": masked_mean(advantages, mask),
            "ppo/returns/mean": masked_mean(returns, mask),
            "ppo/returns/var": masked_var(returns, mask),
            "ppo/val/mean": masked_mean(values, mask),
            "ppo/val/var": masked_var(values, mask),
            "ppo/val/var_explained": 1 - unexplained,
        }
        if config.whiten_advantages:
            advantages = whiten(advantages, mask, shift=config.baseline == "value")
        return Credit(
            advantages, returns, values, {name: float(x) for name, x in statistics.items()}
        )

    def loss(
        self, policy: PolicyLoss, new: Scores, part: MinibatchPart
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The policy's loss, the value head's, and an entropy bonus."""
        from pipeline.algorithms.ppo.value_loss import value_loss

        assert part.values is not None  # `credit` gives both
        assert part.returns is not None
        config, mask, values = self.config, part.mask, new.values[:, :-1]
        value, clipfrac = value_loss(
            values, part.values, part.returns, mask, config.cliprange_value, part.tokens
        )
        vf_coef = config.vf_coef if config.baseline == "value" else 0.0
        loss = policy.loss + vf_coef * value - config.entropy_coef * part.mean(new.entropy)
        return loss, {
            "ppo/loss/value": value,
            "ppo/val/vpred": part.mean(values),
            "ppo/val/error": part.mean((values - part.returns) ** 2),
            "ppo/val/clipfrac": clipfrac,
        }

    def parameter_groups(self, policy: Any) -> list[dict[str, Any]]:
        """The value head, which starts from nothing, learns faster."""
        head = {
            "params": policy.v_head.parameters(),
            "lr": self.config.value_head_learning_rate,
        }
        return [*super().parameter_groups(policy), head]

    def state_dict(self) -> dict[str, float]:
        return {"kl_coef": self.kl_controller.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.kl_controller.value = state["kl_coef"]

    def end_step(self, kl: float, episodes: int) -> None:
        self.kl_controller.update(kl, episodes)


class KLController:
    """The weight of the KL penalty: fixed, or adapted towards a target.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, §2.2.
    """

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.value = config.init_kl_coef

    def update(self, kl: float, episodes: int) -> None:
        """Moves the weight, given the mean KL per episode of a batch of `episodes`."""
        if self.config.adap_kl_ctrl:
            error = min(max(kl / self.config.target_kl_episode - 1, -0.2), 0.2)
            self.value *= 1 + error * episodes / self.config.horizon


ALGORITHM = PPO
