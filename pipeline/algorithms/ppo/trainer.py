"""`PPOTrainer`: one call of `step` is one PPO iteration on a batch of episodes.

Takes what TRL 0.11's `PPOTrainer.step` did and gives its statistics the same names, so that curves can
be laid side by side. Read `step` from top to bottom: score, reward, advantages, epochs of updates.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import pad

from pipeline.algorithms.ppo.advantages import gae, gae_walk, token_rewards
from pipeline.algorithms.ppo.loss import masked_mean, masked_var, policy_loss, value_loss, whiten
from pipeline.models.policy import CausalLMWithValueHead, adamw
from pipeline.models.scoring import Scores, TokenBatch, score

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class PPOConfig(BaseModel):
    """The knobs of PPO. `docs/ppo.md` says where each default comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: Positive = 2e-5
    value_head_learning_rate: Positive = 1e-3
    adam_beta1: Beta = 0.9
    adam_beta2: Beta = 0.95
    max_grad_norm: Positive = 1.0
    ppo_epochs: Count = 1
    mini_batch_size: Count = 16
    gamma: Share = 1.0
    lam: Share = 0.95
    cliprange: Positive = 0.2
    cliprange_value: Positive = 0.2
    vf_coef: NotNegative = 0.1
    entropy_coef: NotNegative = 0.0
    init_kl_coef: NotNegative = 0.02
    adap_kl_ctrl: bool = (
        False  # whether init_kl_coef is adapted to hold the KL near target_kl_episode
    )
    target_kl_episode: Positive = 6.0  # nats per episode
    horizon: Positive = 10000  # episodes over which the adaptation works
    target_kl_update: Positive = (
        0.1  # nats per token: a batch's epochs end early beyond 1.5 times it
    )
    ratio_threshold: Positive = 10.0  # a minibatch whose mean ratio is beyond it is skipped
    baseline: Literal["value", "none"] = "value"  # what rewards are compared with; none: nothing
    whiten_advantages: bool = True
    bootstrap_truncated: bool = False  # whether an episode cut off by length goes on at its value
    mask: bool = True  # false trains on the tools' tokens too: for experiments
    gae: Literal["skip", "walk"] = "skip"  # walk is TRL 0.11.4's: for experiments


class KLController:
    """The weight of the KL penalty: fixed, or adapted towards a target (Ziegler et al. 2019, §2.2)."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.value = config.init_kl_coef

    def update(self, kl: float, episodes: int) -> None:
        """Moves the weight, given the mean KL per episode of a batch of `episodes`."""
        if self.config.adap_kl_ctrl:
            error = min(max(kl / self.config.target_kl_episode - 1, -0.2), 0.2)
            self.value *= 1 + error * episodes / self.config.horizon


class PPOTrainer:
    """Improves a policy on batches of episodes.

    Args:
        config: the knobs.
        model: the policy, updated in place.
        ref_model: the causal language model that the KL penalty holds the policy close to; None for a
            frozen copy of the policy as it is now.
        optimizer: None for AdamW with the config's rates.
        lr_scheduler: stepped once after every call of `step`.
        temperature: at which the responses were sampled.
        seed: seeds the order of minibatches.
        autocast: makes the context that forward passes run in, for lower precision.
    """

    def __init__(
        self,
        config: PPOConfig,
        model: CausalLMWithValueHead,
        ref_model: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        lr_scheduler: Any = None,
        temperature: float = 1.0,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.config = config
        self.model = model
        self.ref_model = (
            ref_model if ref_model is not None else copy.deepcopy(model.pretrained_model)
        )
        self.ref_model.requires_grad_(False)
        self.optimizer = optimizer or make_optimizer(config, model)
        self.lr_scheduler = lr_scheduler
        self.temperature = temperature
        self.autocast = autocast
        self.kl_controller = KLController(config)
        self.generator = torch.Generator().manual_seed(seed)

    def step(
        self,
        queries: Sequence[torch.Tensor],
        responses: Sequence[torch.Tensor],
        scores: Sequence[float] | Sequence[torch.Tensor],
        response_masks: Sequence[torch.Tensor] | None = None,
        truncated: Sequence[bool] | None = None,
        sampled_logprobs: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, float]:
        """One iteration of PPO on B episodes.

        Args:
            queries: B tensors of token ids, each of at least one token.
            responses: B tensors of token ids; an empty one contributes nothing.
            scores: B numbers, the task's rewards.
            response_masks: B tensors like `responses`, 1 on the model's tokens; None for all of them.
            truncated: which episodes a length limit cut off; None for none.
            sampled_logprobs: B tensors, the sampler's log-probabilities of the tokens whose mask is 1.
                Only compared with the trainer's own, for the statistics; None to leave that.

        Returns:
            Statistics by TRL's names, KL and entropy in nats.

        Raises:
            ValueError: if the lengths of the arguments do not fit together.
        """
        masks = (
            [torch.ones_like(r) for r in responses] if response_masks is None else response_masks
        )
        _check_lengths(queries, responses, scores, masks, truncated, sampled_logprobs)
        config, device = self.config, self.model.v_head.weight.device
        batch = TokenBatch.of(queries, responses)
        response_mask = batch.place([torch.ones_like(r) for r in responses]).bool().to(device)
        model_mask = batch.place(masks).bool().to(device)
        mask = model_mask if config.mask else response_mask

        with torch.no_grad():
            old, reference = self._score_in_parts(batch, mask)
            if config.baseline == "none":
                old = replace(old, values=torch.zeros_like(old.values))
            values = old.values[:, :-1]
            kl = torch.where(mask, old.logprobs - reference.logprobs, 0.0)
            task_scores = torch.tensor([float(s) for s in scores], device=device)
            rewards = token_rewards(task_scores, kl, mask, self.kl_controller.value)
            if config.gae == "walk":
                advantages, returns = gae_walk(rewards, values, mask, config.gamma, config.lam)
            else:
                bootstrap = self._bootstrap(batch, old.values, truncated)
                advantages, returns = gae(
                    rewards, values, mask, config.gamma, config.lam, bootstrap
                )
            raw_advantages = advantages
            if config.whiten_advantages:
                advantages = whiten(advantages, mask, shift=config.baseline == "value")

        updates = self._update(batch, old, advantages, returns, mask)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        episode_kl = float(kl.sum(dim=1).mean())
        stats = {
            "objective/kl": episode_kl,
            "objective/kl_coef": self.kl_controller.value,
            "objective/entropy": float(-torch.where(mask, old.logprobs, 0.0).sum(dim=1).mean()),
            "objective/token_entropy": float(masked_mean(old.entropy, mask)),
            "objective/logprobs": float(masked_mean(old.logprobs, mask)),
            "objective/ref_logprobs": float(masked_mean(reference.logprobs, mask)),
            "ppo/mean_scores": float(task_scores.mean()),
            "ppo/std_scores": float(
                masked_var(task_scores, torch.ones_like(task_scores).bool()).sqrt()
            ),
            "ppo/mean_non_score_reward": float(-self.kl_controller.value * masked_mean(kl, mask)),
            "ppo/policy/advantages_mean": float(masked_mean(raw_advantages, mask)),
            "ppo/returns/mean": float(masked_mean(returns, mask)),
            "ppo/returns/var": float(masked_var(returns, mask)),
            "ppo/val/mean": float(masked_mean(values, mask)),
            "ppo/val/var": float(masked_var(values, mask)),
            "ppo/val/var_explained": float(
                1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)
            ),
            "ppo/learning_rate": learning_rate,
            "tokens/queries_len_mean": sum(len(q) for q in queries) / len(queries),
            "tokens/responses_len_mean": sum(len(r) for r in responses) / len(responses),
            "tokens/model_len_mean": float(model_mask.sum() / len(responses)),
            **updates,
        }
        if sampled_logprobs is not None and model_mask.any():
            gap = (old.logprobs[model_mask].cpu() - torch.cat(list(sampled_logprobs))).abs()
            stats["objective/sampler_gap_mean"] = float(gap.mean())
            stats["objective/sampler_gap_max"] = float(gap.max())
        self.kl_controller.update(episode_kl, len(queries))
        return stats

    def _score_in_parts(self, batch: TokenBatch, mask: torch.Tensor) -> tuple[Scores, Scores]:
        """The policy's and the reference's scores of the whole batch, a minibatch at a time."""
        rows = range(len(batch.sequences))
        size = self.config.mini_batch_size
        parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
        both = []
        for model in (self.model, self.ref_model):
            scored = [self._score(model, batch, part, mask) for part in parts]
            both.append(
                Scores(
                    _joined([s.logprobs for s in scored], batch.width),
                    _joined([s.entropy for s in scored], batch.width),
                    _joined([s.values for s in scored], batch.width + 1),
                )
            )
        return both[0], both[1]

    def _score(self, model: Any, batch: TokenBatch, rows: list[int], mask: torch.Tensor) -> Scores:
        """A model's scores of the batch's `rows`."""
        part = batch.select(rows)
        with self.autocast():
            return score(
                model,
                part,
                mask[rows, : part.width],
                self.temperature,
                entropy_gradient=self.config.entropy_coef > 0,
            )

    def _bootstrap(
        self, batch: TokenBatch, values: torch.Tensor, truncated: Sequence[bool] | None
    ) -> torch.Tensor | None:
        """The value after the last token of each truncated episode, 0 for the others."""
        if truncated is None or not self.config.bootstrap_truncated:
            return None
        ends = torch.tensor(batch.lengths, device=values.device)
        past_the_end = values.gather(1, ends[:, None])[:, 0]
        return torch.where(torch.tensor(truncated, device=values.device), past_the_end, 0.0)

    def _update(
        self,
        batch: TokenBatch,
        old: Scores,
        advantages: torch.Tensor,
        returns: torch.Tensor,
        mask: torch.Tensor,
    ) -> dict[str, float]:
        """The epochs of minibatch updates.

        Returns the statistics' means over the minibatches: those that were learned from, if any was.
        """
        config = self.config
        per_minibatch: list[dict[str, float]] = []
        applied: list[dict[str, float]] = []
        for _ in range(config.ppo_epochs):
            order = torch.randperm(len(batch.sequences), generator=self.generator).tolist()
            for start in range(0, len(order), config.mini_batch_size):
                rows = order[start : start + config.mini_batch_size]
                stats, loss = self._loss(batch, rows, old, advantages, returns, mask)
                per_minibatch.append(stats)
                self.optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
                stats["ppo/grad_norm"] = float(norm)
                # The ratio is 0 where no token counts; Adam's momentum must not move the policy then.
                if norm.isfinite() and 0 < stats["ppo/policy/ratio"] <= config.ratio_threshold:
                    self.optimizer.step()
                    applied.append(stats)
            epoch = per_minibatch[-math.ceil(len(order) / config.mini_batch_size) :]
            moved = sum(stats["ppo/policy/approxkl"] for stats in epoch) / len(epoch)
            if moved > 1.5 * config.target_kl_update:
                break
        counted = applied or per_minibatch
        means = {name: sum(stats[name] for stats in counted) / len(counted) for name in counted[0]}
        return {**means, "ppo/skipped_minibatches": float(len(per_minibatch) - len(applied))}

    def _loss(
        self,
        batch: TokenBatch,
        rows: list[int],
        old: Scores,
        advantages: torch.Tensor,
        returns: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[dict[str, float], torch.Tensor]:
        """The loss of one minibatch, the batch's `rows`, and its statistics."""
        config = self.config
        new = self._score(self.model, batch, rows, mask)
        part = batch.select(rows)
        old_logprobs, old_values, advantages, returns, mask = (
            x[rows, : part.width]
            for x in (old.logprobs, old.values[:, :-1], advantages, returns, mask)
        )
        values = new.values[:, :-1]
        policy = policy_loss(new.logprobs, old_logprobs, advantages, mask, config.cliprange)
        value, value_clipfrac = value_loss(
            values, old_values, returns, mask, config.cliprange_value
        )
        entropy = masked_mean(new.entropy, mask)
        vf_coef = config.vf_coef if config.baseline == "value" else 0.0
        loss = policy.loss + vf_coef * value - config.entropy_coef * entropy
        stats = {
            "ppo/loss/policy": policy.loss,
            "ppo/loss/value": value,
            "ppo/loss/total": loss,
            "ppo/policy/entropy": entropy,
            "ppo/policy/approxkl": policy.approxkl,
            "ppo/policy/policykl": policy.policykl,
            "ppo/policy/clipfrac": policy.clipfrac,
            "ppo/policy/ratio": policy.mean_ratio,
            "ppo/val/vpred": masked_mean(values, mask),
            "ppo/val/error": masked_mean((values - returns) ** 2, mask),
            "ppo/val/clipfrac": value_clipfrac,
        }
        return {name: float(stat.detach()) for name, stat in stats.items()}, loss


def make_optimizer(config: PPOConfig, model: CausalLMWithValueHead) -> torch.optim.Optimizer:
    """AdamW; the value head, which starts from nothing, learns faster."""
    groups = [
        {"params": model.pretrained_model.parameters()},
        {"params": model.v_head.parameters(), "lr": config.value_head_learning_rate},
    ]
    return adamw(groups, config.learning_rate, (config.adam_beta1, config.adam_beta2))


def _joined(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """The rows of all parts in one tensor; those of fewer columns get zeros at their ends."""
    return torch.cat([pad(part, (0, columns - part.shape[1])) for part in parts])


def _check_lengths(
    queries: Any, responses: Any, scores: Any, masks: Any, truncated: Any, sampled_logprobs: Any
) -> None:
    counts = {len(queries), len(responses), len(scores), len(masks)}
    if len(counts) != 1 or not len(queries):
        raise ValueError(
            f"step needs as many queries, responses, scores and masks as episodes (at least 1); got "
            f"{len(queries)}, {len(responses)}, {len(scores)}, {len(masks)}"
        )
    if truncated is not None and len(truncated) != len(queries):
        raise ValueError(f"truncated has {len(truncated)} entries for {len(queries)} episodes")
    for i, query in enumerate(queries):
        if len(query) == 0:
            raise ValueError(f"queries[{i}] is empty; a query needs at least one token")
    for i, (response, mask) in enumerate(zip(responses, masks)):
        if len(response) != len(mask):
            raise ValueError(
                f"response_masks[{i}] has {len(mask)} entries for a response of {len(response)}"
            )
    if sampled_logprobs is not None:
        given, needed = [len(x) for x in sampled_logprobs], [int(mask.sum()) for mask in masks]
        if given != needed:
            raise ValueError(
                f"sampled_logprobs has {given} numbers for episodes with {needed} model tokens"
            )
