"""Forward passes that compute a shared few-shot prompt once for a whole batch.

All episodes of a task begin with the same prompt, which is most of their tokens. Its keys and values
are computed for one row and expanded to the batch; only what differs is computed row by row. With
gradients enabled this is exact for training too: the prompt's part of the gradient flows back through
the expanded keys and values.

The passes end at the last hidden states. The vocabulary head is applied by the caller, to just the
positions that it needs: with a vocabulary of 49,152 it is the larger part of the work.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache


def shared_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share, leaving at least one token of each over."""
    # What the first and the last in order share, all that lie between them share too.
    lists = [list(sequence) for sequence in sequences]
    first, last = min(lists), max(lists)
    shared = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return min(shared, min(len(sequence) for sequence in sequences) - 1)


def forward_after_prefix(
    model: Any, sequences: Sequence[Sequence[int]], prefix_length: int, padding_side: str
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Runs a causal language model over `sequences`, their first `prefix_length` tokens only once.

    Args:
        model: a `transformers` causal language model.
        sequences: B lists of token ids, alike in their first `prefix_length` tokens and longer.
        prefix_length: may be 0.
        padding_side: where the rest of shorter sequences is padded, "left" or "right".

    Returns:
        output: the base model's, with `last_hidden_state` (B, W, hidden size) for the W columns
            after the prefix and the keys and values of everything in `past_key_values`.
        tokens: the tokens in those columns, (B, W).
        attention_mask: 1 on tokens, 0 on padding, (B, prefix_length + W).
    """
    device = model.get_input_embeddings().weight.device
    rests = [torch.tensor(sequence[prefix_length:], device=device) for sequence in sequences]
    tokens = pad_sequence(rests, batch_first=True, padding_side=padding_side)
    mask = pad_sequence(
        [torch.ones_like(rest) for rest in rests], batch_first=True, padding_side=padding_side
    )
    attention_mask = torch.cat([mask.new_ones(len(rests), prefix_length), mask], dim=1)
    cache = DynamicCache()
    if prefix_length > 0:
        prefix = torch.tensor([sequences[0][:prefix_length]], device=device)
        single_row = model.base_model(input_ids=prefix, use_cache=True).past_key_values
        for index, layer in enumerate(single_row.layers):
            cache.update(
                layer.keys.expand(len(rests), -1, -1, -1),
                layer.values.expand(len(rests), -1, -1, -1),
                index,
            )
    output = model.base_model(
        input_ids=tokens,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1)[:, prefix_length:].clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return output, tokens, attention_mask


def vocabulary_head(model: Any) -> torch.nn.Module:
    """The layer that turns last hidden states into logits.

    Raises ValueError for an architecture that does more to logits than this layer.
    """
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, name, None) is not None:
            raise ValueError(f"models with `{name}` ({type(model).__name__}) are not supported")
    return model.get_output_embeddings()
