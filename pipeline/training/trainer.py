"""`PolicyTrainer`: one call of `step` improves a policy on a batch of episodes.

The algorithm says which tokens get credit, and may add to the loss; all else is the same for each. Read
`step` from top to bottom: score, give credit, epochs of updates. The statistics have the names that TRL
0.11 gave them, so that curves can be laid side by side.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from pipeline.chance import MINIBATCHES, shuffled
from pipeline.environment.batch import EpisodeBatch
from pipeline.models.lora import adapter_off, has_adapter
from pipeline.models.policy import (
    CausalLMWithValueHead,
    adamw,
    load_trained_state,
    trained_state,
)
from pipeline.models.scoring import Scores, TokenBatch, score
from pipeline.training.algorithm import Algorithm, Credit, Minibatch, ScoredBatch
from pipeline.training.loss import masked_mean, masked_var, policy_loss


class PolicyTrainer:
    """Improves a policy on batches of episodes.

    Args:
        algorithm: gives the credit.
        policy: updated in place.
        reference: the causal language model that the KL is measured from; None for a frozen copy of the
            policy as it is now. Of a policy with an adapter None is the policy with its adapter off.
        optimizer: None for AdamW with the algorithm's rates.
        lr_scheduler: stepped once after every call of `step`.
        temperature: at which the episodes were sampled.
        seed: decides the order of minibatches, with the step and the epoch.
        autocast: makes the context that forward passes run in, for lower precision.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        policy: CausalLMWithValueHead,
        reference: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        lr_scheduler: Any = None,
        temperature: float = 1.0,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.algorithm = algorithm
        self.config = algorithm.config
        self.policy = policy
        self._as_reference: Callable[[], AbstractContextManager] = nullcontext
        if reference is None and has_adapter(policy.pretrained_model):
            self.reference = policy.pretrained_model
            self._as_reference = partial(adapter_off, self.reference)
        else:
            copied = reference is None
            self.reference = copy.deepcopy(policy.pretrained_model) if copied else reference
            self.reference.requires_grad_(False)
        self.optimizer = optimizer or make_optimizer(algorithm, policy)
        self.lr_scheduler = lr_scheduler
        self.temperature = temperature
        self.seed = seed
        self.autocast = autocast
        self.steps = 0
        """How many steps have been done."""

    def step(self, episodes: EpisodeBatch) -> dict[str, float]:
        """Learns from B episodes.

        Returns:
            Statistics; KL and entropy in nats. docs/metrics.md explains each.
        """
        if episodes.group_size != self.algorithm.group_size:
            raise ValueError(
                f"{self.algorithm.name} needs {self.algorithm.group_size} episodes of each problem, "
                f"side by side; the batch has {episodes.group_size}"
            )
        device = self.policy.v_head.weight.device
        batch = TokenBatch.of(episodes.sequences, episodes.prompt_lengths)
        model_mask = batch.place(episodes.masks).bool().to(device)
        mask = model_mask
        if not self.config.mask:
            responses = [[True] * len(mask) for mask in episodes.masks]
            mask = batch.place(responses).bool().to(device)
        rewards = torch.tensor(episodes.rewards, dtype=torch.float32, device=device)
        with torch.no_grad():
            old, reference = self._score_in_parts(batch, mask)
            kl = torch.where(mask, old.logprobs - reference.logprobs, 0.0)
            ends = torch.tensor(batch.lengths, device=device)
            credit = self.algorithm.credit(
                ScoredBatch(
                    rewards=rewards,
                    truncated=torch.tensor(episodes.truncated, device=device),
                    mask=mask,
                    kl=kl,
                    values=old.values[:, :-1],
                    end_values=old.values.gather(1, ends[:, None])[:, 0],
                    left=episodes.left,
                )
            )
        updates = self._update(batch, old, reference, credit, mask)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if self.lr_scheduler is not None:
            with warnings.catch_warnings():
                # The rate is a function of the step, whether or not there was anything to learn from.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler", UserWarning)
                self.lr_scheduler.step()
        episode_kl = float(kl.sum(dim=1).mean())
        name = self.algorithm.name
        lengths = [len(response) for response in episodes.masks]
        stats = {
            "objective/kl": episode_kl,
            "objective/entropy": float(-torch.where(mask, old.logprobs, 0.0).sum(dim=1).mean()),
            "objective/token_entropy": float(masked_mean(old.entropy, mask)),
            "objective/logprobs": float(masked_mean(old.logprobs, mask)),
            "objective/ref_logprobs": float(masked_mean(reference.logprobs, mask)),
            f"{name}/mean_scores": float(rewards.mean()),
            f"{name}/std_scores": float(
                masked_var(rewards, torch.ones_like(rewards).bool()).sqrt()
            ),
            **credit.statistics,
            f"{name}/learning_rate": learning_rate,
            "tokens/queries_len_mean": sum(episodes.prompt_lengths) / len(episodes),
            "tokens/responses_len_mean": sum(lengths) / len(episodes),
            "tokens/model_len_mean": float(model_mask.sum() / len(episodes)),
            **updates,
        }
        if episodes.sampled_logprobs and model_mask.any():
            sampled = [logprob for row in episodes.sampled_logprobs for logprob in row]
            gap = (old.logprobs[model_mask].cpu() - torch.tensor(sampled)).abs()
            stats["objective/sampler_gap_mean"] = float(gap.mean())
            stats["objective/sampler_gap_max"] = float(gap.max())
        if mask.any():
            self.algorithm.end_step(episode_kl, len(episodes))
        self.steps += 1
        return stats

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step."""
        return {
            "steps": self.steps,
            "policy": trained_state(self.policy),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler else None,
            "algorithm": self.algorithm.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave of a trainer of the same making."""
        self.steps = state["steps"]
        load_trained_state(self.policy, state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_scheduler:
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.algorithm.load_state_dict(state["algorithm"])

    def _score_in_parts(self, batch: TokenBatch, mask: torch.Tensor) -> tuple[Scores, Scores]:
        """The policy's and the reference's scores of the whole batch, a minibatch at a time."""
        rows = range(len(batch.sequences))
        size = self.config.mini_batch_size
        parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
        both = []
        for model, state in (
            (self.policy, nullcontext()),
            (self.reference, self._as_reference()),
        ):
            with state:
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
                entropy_gradient=self.algorithm.entropy_gradient,
            )

    def _update(
        self,
        batch: TokenBatch,
        old: Scores,
        reference: Scores,
        credit: Credit,
        mask: torch.Tensor,
    ) -> dict[str, float]:
        """The epochs of minibatch updates.

        Returns the statistics' means over the minibatches: those that were learned from, if any was.
        """
        config, name = self.config, self.algorithm.name
        count = math.ceil(len(batch.sequences) / config.mini_batch_size)
        mean_tokens = float(mask.sum()) / count
        per_minibatch: list[dict[str, float]] = []
        applied: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            order = shuffled(len(batch.sequences), MINIBATCHES, self.seed, self.steps, epoch)
            for start in range(0, len(order), config.mini_batch_size):
                rows = order[start : start + config.mini_batch_size]
                stats, loss = self._loss(batch, rows, old, reference, credit, mask, mean_tokens)
                per_minibatch.append(stats)
                self.optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(
                    self.policy.parameters(), config.max_grad_norm
                )
                stats[f"{name}/grad_norm"] = float(norm)
                # The ratio is 0 where no token counts; Adam's momentum must not move the policy then.
                ratio = stats[f"{name}/policy/ratio"]
                if norm.isfinite() and 0 < ratio <= config.ratio_threshold:
                    self.optimizer.step()
                    applied.append(stats)
            moved = [stats[f"{name}/policy/approxkl"] for stats in per_minibatch[-count:]]
            if sum(moved) / len(moved) > 1.5 * config.target_kl_update:
                break
        counted = applied or per_minibatch
        means = {key: sum(stats[key] for stats in counted) / len(counted) for key in counted[0]}
        return {**means, f"{name}/skipped_minibatches": float(len(per_minibatch) - len(applied))}

    def _loss(
        self,
        batch: TokenBatch,
        rows: list[int],
        old: Scores,
        reference: Scores,
        credit: Credit,
        mask: torch.Tensor,
        mean_tokens: float,
    ) -> tuple[dict[str, float], torch.Tensor]:
        """The loss of one minibatch, the batch's `rows`, and its statistics."""
        new = self._score(self.policy, batch, rows, mask)
        width = batch.select(rows).width

        def part_of(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x[rows, :width]

        part = Minibatch(
            old_logprobs=old.logprobs[rows, :width],
            reference_logprobs=reference.logprobs[rows, :width],
            mask=mask[rows, :width],
            returns=part_of(credit.returns),
            values=part_of(credit.values),
            mean_tokens=mean_tokens,
        )
        policy = policy_loss(
            new.logprobs,
            part.old_logprobs,
            credit.advantages[rows, :width],
            part.mask,
            self.config.cliprange,
        )
        loss, further = self.algorithm.loss(policy, new, part)
        name = self.algorithm.name
        stats = {
            f"{name}/loss/policy": policy.loss,
            f"{name}/loss/total": loss,
            f"{name}/policy/entropy": masked_mean(new.entropy, part.mask),
            f"{name}/policy/approxkl": policy.approxkl,
            f"{name}/policy/policykl": policy.policykl,
            f"{name}/policy/clipfrac": policy.clipfrac,
            f"{name}/policy/ratio": policy.mean_ratio,
            **further,
        }
        return {key: float(stat.detach()) for key, stat in stats.items()}, loss


def make_optimizer(algorithm: Algorithm, policy: CausalLMWithValueHead) -> torch.optim.Optimizer:
    """AdamW with the algorithm's rates."""
    config = algorithm.config
    return adamw(
        algorithm.parameter_groups(policy),
        config.learning_rate,
        (config.adam_beta1, config.adam_beta2),
    )


def _joined(parts: list[torch.Tensor], columns: int) -> torch.Tensor:
    """The rows of all parts in one tensor; those of fewer columns get zeros at their ends."""
    return torch.cat([pad(part, (0, columns - part.shape[1])) for part in parts])
