"""What an algorithm is: a way to give a batch's tokens credit for the rewards, on one shared trainer.

A new algorithm is a package in `pipeline/algorithms/` with a subclass of `Algorithm` called `ALGORITHM`, its
name in the list there, and a section of that name in params.yaml. The parameters are read without torch,
so a package imports it in its functions, or in modules that these import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.training.settings import GroupConfig, UpdateConfig

if TYPE_CHECKING:
    import torch

    from pipeline.models.scoring import Scores
    from pipeline.training.loss import PolicyLoss


@dataclass(frozen=True)
class ScoredBatch:
    """B episodes in T columns, one token each, and what policy and reference say of them.

    Episodes of the same problem stand side by side; `Algorithm.by_group` tells them apart.
    Numbers outside the mask mean nothing, and may be NaN.
    """

    rewards: torch.Tensor  # (B,)
    truncated: torch.Tensor  # (B,): whether a length limit cut the episode off
    mask: torch.Tensor  # (B, T): the tokens that count
    kl: torch.Tensor  # (B, T): policy minus reference log-probability, nats; 0 outside the mask
    values: torch.Tensor  # (B, T): the value head's, of the state before each token
    end_values: torch.Tensor  # (B,): of the state after each episode's last token
    left: Sequence[int] = ()  # how many episodes each group has; empty where it is the same for all


@dataclass(frozen=True)
class Credit:
    """What an algorithm makes of a batch; all (B, T), for the tokens of the mask."""

    advantages: torch.Tensor
    returns: torch.Tensor | None = None  # what the value head learns, where there is one
    values: torch.Tensor | None = None  # what it predicted
    statistics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MinibatchPart:
    """A part of a minibatch, small enough for the memory: b rows, t columns.

    What is computed of it is its share of a sum over the whole minibatch, so it is divided by counts of
    the whole.
    """

    old_logprobs: torch.Tensor
    reference_logprobs: torch.Tensor
    mask: torch.Tensor
    returns: torch.Tensor | None
    values: torch.Tensor | None
    tokens: torch.Tensor  # (): how many tokens count in the whole minibatch, at least 1
    episodes: int  # how many the whole minibatch has
    mean_tokens: float  # how many tokens that count the step's minibatches have on average

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The part's share of the mean of `x`, (b, t), over the minibatch's tokens."""
        from pipeline.training.loss import masked_mean

        return masked_mean(x, self.mask, self.tokens)


class Algorithm(ABC):
    """Gives credit, and may add to the loss."""

    name: ClassVar[str]
    """The package's; in front of its statistics."""

    Config: ClassVar[type[UpdateConfig]]
    """Its section of params.yaml."""

    entropy_gradient: bool = False
    """Whether the loss needs the gradient of the entropy."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def group_size(self) -> int:
        """How many episodes of each problem a step has."""
        return self.config.num_generations if isinstance(self.config, GroupConfig) else 1

    def by_group(self, numbers: torch.Tensor, batch: ScoredBatch) -> Sequence[torch.Tensor]:
        """The numbers of the batch's episodes, (B,), in a tensor for each problem."""
        return numbers.split(list(batch.left) if batch.left else self.group_size)

    @abstractmethod
    def credit(self, batch: ScoredBatch) -> Credit:
        """Each token's advantage."""

    def loss(
        self, policy: PolicyLoss, new: Scores, part: MinibatchPart
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A part's share of the loss, and of further statistics; the clipped policy loss if not overridden.

        The shares of a minibatch's parts are added up, so each is a sum over the part's tokens or
        episodes, divided by a count of the whole minibatch. `part.mean` does that.
        """
        return policy.loss, {}

    def parameter_groups(self, policy: Any) -> list[dict[str, Any]]:
        """What the optimizer improves."""
        return [{"params": [p for p in policy.pretrained_model.parameters() if p.requires_grad]}]

    def state_dict(self) -> dict[str, float]:
        """What `end_step` has changed, for a training that goes on later."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:  # noqa: B027 (few need it)
        """Takes up what `state_dict` gave."""

    def end_step(self, kl: float, episodes: int) -> None:  # noqa: B027 (few need it)
        """Called after each step with the mean KL of its episodes, in nats."""
