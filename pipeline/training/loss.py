"""The clipped policy loss, and means over the model's tokens.

All tensors have shape (B, T); `mask` is true on the tokens that count. What stands elsewhere, NaN
included, changes neither a loss nor its gradient.
"""

from dataclasses import dataclass

import torch


def masked_mean(
    x: torch.Tensor, mask: torch.Tensor, count: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of `x` where `mask` is true; 0 where it is true nowhere.

    Where this is a part of something larger, `count` is how many tokens all parts have in their masks, at
    least 1. The result is then this part's share of the mean: the shares of all parts add up to it.
    """
    return torch.where(mask, x, 0.0).sum() / (mask.sum().clamp(min=1) if count is None else count)


def masked_var(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The sample variance of `x` where `mask` is true; 0 where that is fewer than two numbers."""
    squares = torch.where(mask, (x - masked_mean(x, mask)) ** 2, 0.0)
    return squares.sum() / (mask.sum() - 1).clamp(min=1)


def whiten(x: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Shifts `x` to mean 0 and scales it to variance 1 over the mask; zero outside it.

    Without the shift it is scaled to a mean square of 1: numbers that are nearly alike have a variance
    near 0, and would become huge.
    """
    scaled = x - masked_mean(x, mask) if shift else x
    square = masked_var(x, mask) if shift else masked_mean(x**2, mask)
    return torch.where(mask, scaled * torch.rsqrt(square + 1e-8), 0.0)


@dataclass(frozen=True)
class PolicyLoss:
    """The policy's loss and what it says of the step from the old policy to the new.

    All but `per_token` are means over the mask, or a part's shares of them; see `masked_mean`.
    """

    per_token: torch.Tensor  # (B, T), 0 outside the mask
    loss: torch.Tensor  # their mean
    clipfrac: torch.Tensor  # share of tokens whose clipped term is the one that counts
    approxkl: torch.Tensor  # half the mean squared log-ratio
    policykl: torch.Tensor  # old minus new log-probability
    mean_ratio: torch.Tensor


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
    count: torch.Tensor | None = None,
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(new - old) (Schulman et al. 2017, eq. 7).

    `count` is that of `masked_mean`.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    advantages = torch.where(mask, advantages, 0.0)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    per_token = torch.where(mask, torch.maximum(unclipped, clipped), 0.0)
    return PolicyLoss(
        per_token=per_token,
        loss=masked_mean(per_token, mask, count),
        clipfrac=masked_mean((clipped > unclipped).float(), mask, count).detach(),
        approxkl=masked_mean(log_ratio**2 / 2, mask, count).detach(),
        policykl=masked_mean(-log_ratio, mask, count).detach(),
        mean_ratio=masked_mean(ratio, mask, count).detach(),
    )
