"""The clipped loss of the value head. Shapes and mask are those of `pipeline.training.loss`."""

import torch

from pipeline.training.loss import masked_mean


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
    count: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error, the larger of clipped and unclipped, and the share that was clipped.

    The prediction may move by at most `cliprange` from the old one, as in the PPO authors' code.
    `count` is that of `masked_mean`.
    """
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))
    clipped_values = old_values + (values - old_values).clamp(-cliprange, cliprange)
    unclipped, clipped = (values - returns) ** 2, (clipped_values - returns) ** 2
    loss = masked_mean(torch.maximum(unclipped, clipped), mask, count) / 2
    return loss, masked_mean((clipped > unclipped).float(), mask, count).detach()
