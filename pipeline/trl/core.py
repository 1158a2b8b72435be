"""Small functions that scripts import from `trl.core`."""

from typing import Any

import numpy as np
import torch
from transformers import set_seed

__all__ = ["LengthSampler", "respond_to_batch", "set_seed"]


class LengthSampler:
    """Draws how long a response may be: a whole number from `min_value` up to `max_value`, which is left out.

    It draws from numpy's generator, which `set_seed` seeds.
    """

    def __init__(self, min_value: int, max_value: int) -> None:
        self.values = range(min_value, max_value)

    def __call__(self) -> int:
        return int(np.random.choice(self.values))


@torch.no_grad()
def respond_to_batch(
    model: Any, queries: torch.Tensor, txt_len: int = 20, top_k: int = 0, top_p: float = 1.0
) -> torch.Tensor:
    """Samples tokens after queries of one length, also beyond an end of text.

    Args:
        model: a policy of `pipeline.trl`.
        queries: (B, Q), token ids.
        txt_len: how many tokens to sample.
        top_k: samples from the likeliest only; 0 from all.
        top_p: samples from the likeliest that have this probability together; 1 from all.

    Returns:
        (B, txt_len), drawn from torch's generator.
    """
    tokens = queries
    for _ in range(txt_len):
        logits = model(tokens)[0][:, -1]
        order = logits.argsort(dim=-1, descending=True)
        ordered = logits.gather(-1, order)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        left_out = before >= top_p if top_p < 1 else torch.zeros_like(before).bool()
        if top_k > 0:
            left_out[:, top_k:] = True
        drawn = torch.multinomial(ordered.masked_fill(left_out, -torch.inf).softmax(-1), 1)
        tokens = torch.cat([tokens, order.gather(-1, drawn)], dim=1)
    return tokens[:, queries.shape[1] :]
