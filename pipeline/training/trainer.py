"""`PolicyTrainer`: one call of `step` improves a policy on a batch of episodes.

The algorithm says which tokens get credit, and may add to the loss; all else is the same for each. Read
`step` from top to bottom: score, give credit, epochs of updates. The statistics have the names that TRL
0.11 gave them, so that curves can be laid side by side.

Several processes can do it together. Each is given all episodes, then scores and learns from its share of them.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from pipeline.chance import MINIBATCHES, shuffled
from pipeline.environment.batch import EpisodeBatch
from pipeline.models import processes
from pipeline.models.checkpointing import checkpointed
from pipeline.models.lora import adapter_off, has_adapter
from pipeline.models.policy import (
    CausalLMWithValueHead,
    adamw,
    load_trained_state,
    trained_state,
)
from pipeline.models.scoring import Scores, TokenBatch, score
from pipeline.training.algorithm import Algorithm, Credit, MinibatchPart, ScoredBatch
from pipeline.training.loss import masked_mean, masked_var, policy_loss


@dataclass(frozen=True)
class _Lesson:
    """A step's B episodes and what is known of them before the first update."""

    tokens: TokenBatch
    mask: torch.Tensor  # (B, T): the tokens that count
    old: Scores
    reference: Scores
    credit: Credit
    mean_tokens: float  # how many tokens that count a minibatch has on average


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
        max_tokens: how many tokens go through a model at a time, not counting the prefix that all
            episodes share; None for no limit. An episode of more goes alone. It decides how much memory
            is needed. It changes no result, but for how sums are rounded.
        gradient_checkpointing: whether layers are run again in the backward pass, instead of keeping what
            they computed: a fraction of the memory for a third more of the time. It changes no result.
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
        max_tokens: int | None = None,
        gradient_checkpointing: bool = False,
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
        self.max_tokens = max_tokens or math.inf
        self.gradient_checkpointing = gradient_checkpointing
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
        if processes.count() > 1:
            processes.require_same(
                hash(tuple(map(tuple, episodes.sequences))),
                "the batch, which all must be given whole,",
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
        minibatches = math.ceil(len(episodes) / self.config.mini_batch_size)
        updates = self._update(
            _Lesson(batch, mask, old, reference, credit, float(mask.sum()) / minibatches)
        )
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
        """The policy's and the reference's scores of the whole batch, at most a minibatch at a time."""
        rows = processes.share(range(len(batch.sequences)))
        size = self.config.mini_batch_size
        minibatches = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
        parts = [part for minibatch in minibatches for part in self._parts(batch, minibatch)]
        both = []
        columns = {"logprobs": batch.width, "entropy": batch.width, "values": batch.width + 1}
        for model, state in (
            (self.policy, nullcontext()),
            (self.reference, self._as_reference()),
        ):
            with state:
                scored = [self._score(model, batch, part, mask) for part in parts]
            both.append(
                Scores(
                    **{
                        name: self._joined([getattr(part, name) for part in scored], width)
                        for name, width in columns.items()
                    }
                )
            )
        return both[0], both[1]

    def _joined(self, parts: list[torch.Tensor], columns: int) -> torch.Tensor:
        """The rows of all processes' parts in one tensor; those of fewer columns get zeros at their ends."""
        padded = [pad(part, (0, columns - part.shape[1])) for part in parts]
        if processes.count() > 1:
            padded = processes.gathered([part.cpu() for part in padded])
        return torch.cat(padded).to(self.policy.v_head.weight.device)

    def _score(self, model: Any, batch: TokenBatch, rows: list[int], mask: torch.Tensor) -> Scores:
        """A model's scores of the batch's `rows`."""
        part = batch.select(rows)
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        with self.autocast(), checkpointed(model) if checkpointing else nullcontext():
            return score(
                model,
                part,
                mask[rows, : part.width],
                self.temperature,
                entropy_gradient=self.algorithm.entropy_gradient,
            )

    def _parts(self, batch: TokenBatch, rows: Sequence[int]) -> list[list[int]]:
        """The batch's `rows`, as many together as `max_tokens` has room for."""
        lengths = [
            length + 1 for length in batch.lengths
        ]  # the column's predecessor is computed, too
        return in_parts(rows, lengths, self.max_tokens)

    def _update(self, lesson: _Lesson) -> dict[str, float]:
        """The epochs of minibatch updates.

        Returns the statistics' means over the minibatches: those that were learned from, if any was.
        """
        config, name = self.config, self.algorithm.name
        episodes = len(lesson.tokens.sequences)
        per_minibatch: list[dict[str, float]] = []
        applied: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            order = shuffled(episodes, MINIBATCHES, self.seed, self.steps, epoch)
            starts = range(0, episodes, config.mini_batch_size)
            for start in starts:
                stats = self._gradient(lesson, order[start : start + config.mini_batch_size])
                per_minibatch.append(stats)
                norm = torch.nn.utils.clip_grad_norm_(
                    self.policy.parameters(), config.max_grad_norm
                )
                stats[f"{name}/grad_norm"] = float(norm)
                # The ratio is 0 where no token counts; Adam's momentum must not move the policy then.
                ratio = stats[f"{name}/policy/ratio"]
                if norm.isfinite() and 0 < ratio <= config.ratio_threshold:
                    self.optimizer.step()
                    applied.append(stats)
            moved = [stats[f"{name}/policy/approxkl"] for stats in per_minibatch[-len(starts) :]]
            if sum(moved) / len(moved) > 1.5 * config.target_kl_update:
                break
        self.optimizer.zero_grad()  # gradients need memory that the next rollout has a use for
        counted = applied or per_minibatch
        means = {key: sum(stats[key] for stats in counted) / len(counted) for key in counted[0]}
        return {**means, f"{name}/skipped_minibatches": float(len(per_minibatch) - len(applied))}

    def _gradient(self, lesson: _Lesson, rows: list[int]) -> dict[str, float]:
        """Computes the gradient of a minibatch, the lesson's `rows`; returns the minibatch's statistics."""
        self.optimizer.zero_grad()
        shares = []
        for part in self._parts(lesson.tokens, processes.share(rows)):
            stats, loss = self._loss(lesson, rows, part)
            loss.backward()
            shares.append(stats)
        processes.add_up_gradients(self.policy.parameters())
        return processes.add_up(shares)

    def _loss(
        self, lesson: _Lesson, minibatch: list[int], rows: list[int]
    ) -> tuple[dict[str, float], torch.Tensor]:
        """What the part `rows` of a minibatch adds to its statistics, and to its loss."""
        new = self._score(self.policy, lesson.tokens, rows, lesson.mask)
        width = lesson.tokens.select(rows).width

        def part_of(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x[rows, :width]

        part = MinibatchPart(
            old_logprobs=lesson.old.logprobs[rows, :width],
            reference_logprobs=lesson.reference.logprobs[rows, :width],
            mask=lesson.mask[rows, :width],
            returns=part_of(lesson.credit.returns),
            values=part_of(lesson.credit.values),
            tokens=lesson.mask[minibatch].sum().clamp(min=1),
            episodes=len(minibatch),
            mean_tokens=lesson.mean_tokens,
        )
        policy = policy_loss(
            new.logprobs,
            part.old_logprobs,
            lesson.credit.advantages[rows, :width],
            part.mask,
            self.config.cliprange,
            part.tokens,
        )
        loss, further = self.algorithm.loss(policy, new, part)
        name = self.algorithm.name
        stats = {
            f"{name}/loss/policy": policy.loss,
            f"{name}/loss/total": loss,
            f"{name}/policy/entropy": part.mean(new.entropy),
            f"{name}/policy/approxkl": policy.approxkl,
            f"{name}/policy/policykl": policy.policykl,
            f"{name}/policy/clipfrac": policy.clipfrac,
            f"{name}/policy/ratio": policy.mean_ratio,
            **further,
        }
        return {key: float(stat.detach()) for key, stat in stats.items()}, loss


def in_parts(rows: Sequence[int], lengths: Sequence[int], most: float) -> list[list[int]]:
    """`rows`, in their order, in parts of at most `most` tokens; a row of more is a part by itself.

    Args:
        lengths: how many tokens each row has, by its number.
    """
    parts: list[list[int]] = []
    filled = 0
    for row in rows:
        filled += lengths[row]
        if not parts or filled > most:
            parts.append([])
            filled = lengths[row]
        parts[-1].append(row)
    return parts


def make_optimizer(algorithm: Algorithm, policy: CausalLMWithValueHead) -> torch.optim.Optimizer:
    """AdamW with the algorithm's rates."""
    config = algorithm.config
    return adamw(
        algorithm.parameter_groups(policy),
        config.learning_rate,
        (config.adam_beta1, config.adam_beta2),
    )
