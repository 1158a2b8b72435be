"""Gradient checkpointing: activations are computed again in the backward pass, instead of kept.

What `transformers` offers for it works in training mode only, and without keys and values of a prefix. Here a
layer is simply run twice; `Keys` makes that safe.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.errors import PipelineError

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, (rows, key heads, tokens, head size) each."""


class Keys(DynamicCache):
    """A cache for a single pass: what a pass adds is never seen by a later one.

    So a layer that runs a second time sees what it saw the first time.

    Args:
        before: the keys and values of the tokens before the pass; none if there are no such tokens.
        record: whether `added` keeps those of the pass, which has none before it.
    """

    def __init__(self, before: Layers = (), record: bool = False) -> None:
        super().__init__(before or None)
        self.before = before
        self.record = record
        self.added: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.before:
            keys, values = self.before[layer_idx]
            return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)
        # In bfloat16 the rotary embedding leaves keys in float32. So do values stay, as `DynamicCache` has
        # it: the gradients of all rows are added up in what a prefix is in.
        added = key_states.contiguous(), value_states.to(key_states.dtype).contiguous()
        if self.record:
            self.added.setdefault(layer_idx, added)
        return added


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """Meanwhile, a model's layers keep nothing for the backward pass but what enters them.

    Raises PipelineError for a model of which `transformers` does not say what its layers are.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise PipelineError(
            f"machine.gradient_checkpointing: models like {type(model).__name__} do not offer it; "
            "set it to false, and machine.max_tokens lower"
        )
    for layer in layers:
        again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        vars(layer)["forward"] = again
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
