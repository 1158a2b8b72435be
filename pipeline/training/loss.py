"""The clipped policy loss, and means over the model's tokens.

All tensors have shape (B, T); `mask` is true on the tokens that count. What stands elsewhere, NaN
included, changes neither a loss nor its gradient.
"""

from dataclasses import dataclass

import torch


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `x` where `mask` is true; 0 where it is true nowhere."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


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
    """The policy's loss and what it says of the step from the old policy to the new."""

    per_token: torch.Tensor  # (B, T), 0 outside the mask
    loss: torch.Tensor  # their mean over the mask
    clipfrac: torch.Tensor  # share of tokens whose clipped term is the one that counts
    approxkl: torch.Tensor  # half the mean squared log-ratio
    policykl: torch.Tensor  # mean of old minus new log-probability
    mean_ratio: torch.Tensor


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(new - old) (Schulman et al. 2017, eq. 7)."""
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    advantages = torch.where(mask, advantages, 0.0)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    per_token = torch.where(mask, torch.maximum(unclipped, clipped), 0.0)
    return PolicyLoss(
        per_token=per_token,
        loss=masked_mean(per_token, mask),
        clipfrac=masked_mean((clipped > unclipped).float(), mask).detach(),
        approxkl=masked_mean(log_ratio**2 / 2, mask).detach(),
        policykl=masked_mean(-log_ratio, mask).detach(),
        mean_ratio=masked_mean(ratio, mask).detach(),
    )
