"""Forward passes that compute a shared few-shot prompt once for a whole batch.

All episodes of a task begin with the same prompt, which is most of their tokens. Its keys and values
are computed once; only what differs is computed for each episode. `SharedPrefix` is for sampling: it
never copies the prompt's keys and values, and `packed_weights` makes its products faster on a CPU.
`hidden_states` is for tokens that are already there, and exact for training, too: the prompt's part of
the gradient flows back through its keys and values, which are expanded to all rows.

They are right for models that `check` has tried, up to the length that it tells: every layer is taken to
see all tokens. The passes end at the last hidden states. The vocabulary head is applied by the caller, to just the
positions that it needs: with a vocabulary of 49,152 it is a fifth of the work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache

from pipeline.models.checkpointing import Keys


def shared_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share, leaving at least one token of each over."""
    # What the first and the last in order share, all that lie between them share too.
    lists = [list(sequence) for sequence in sequences]
    first, last = min(lists), max(lists)
    shared = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return min(shared, min(len(sequence) for sequence in sequences) - 1)


def without_dropout(model: torch.nn.Module) -> None:
    """Puts all of a model in evaluation mode.

    Every pass begins with it. Many architectures have no `nn.Dropout`: they ask `self.training` in the midst
    of their attention. A probability that dropout has changed is not the sampler's.
    """
    if any(module.training for module in model.modules()):
        model.eval()


class SharedPrefix:
    """Tokens that all sequences of a batch begin with, and their keys and values, computed once.

    Sequences that go on from there are run by `proceed`, with a cache of just their own tokens: the
    prefix is never copied for each of them, and all attend to it in one matrix product.

    Args:
        model: a `transformers` causal language model.
        tokens: P token ids; may be none.
    """

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self.model = model
        self.length = len(tokens)
        self._layers = [(keys[0], values[0]) for keys, values in _keys_and_values(model, tokens)]
        self._used: set[int] = set()

    def proceed(self, tokens: torch.Tensor, own_mask: torch.Tensor, cache: DynamicCache) -> Any:
        """Runs the model over B sequences' next W tokens.

        Args:
            tokens: (B, W).
            own_mask: (B, S), 1 on tokens and 0 on padding, of what follows the prefix up to and with
                `tokens`, which are its last W columns.
            cache: the keys and values of the columns before those; gets theirs added.

        Returns:
            The base model's output, `last_hidden_state` of shape (B, W, hidden size).

        Raises:
            ValueError: for an architecture whose attention cannot be told of a prefix.
        """
        width, columns = tokens.shape[1], own_mask.shape[1]
        causal = own_mask.new_ones(width, columns).tril(columns - width).bool()
        seen = causal & own_mask[:, None, :].bool()
        positions = (self.length + own_mask.cumsum(1) - 1)[:, -width:].clamp(min=0)
        self._used.clear()
        with _attention(self.model, _attend_after_prefix.__name__):
            output = self.model.base_model(
                input_ids=tokens,
                attention_mask=_additive(seen[:, None], self.model),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                shared_prefix=self,
            )
        if len(self._used) != len(cache.layers):
            raise ValueError(f"models like {type(self.model).__name__} are not supported")
        return output

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A layer's keys and values, (key heads, P, head size) each; None if there are no tokens."""
        self._used.add(index)
        return self._layers[index] if self.length else None


SCORES_AT_A_TIME = 2**23
"""How many attention scores `_attend_after_prefix` holds at a time, 32 MB of them."""


def _attend_after_prefix(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    shared_prefix: SharedPrefix,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention to a prefix that all rows share, and to each row's own keys; no gradients.

    In the place of `transformers`' own attention functions, with their arguments: `query` is (B, heads,
    W, head size), `key` and `value` (B, key heads, S, head size), `attention_mask` what is added to
    scores of own keys, (B, 1, W, S). Returns (B, W, heads, head size).
    """
    prefix = shared_prefix.layer(module.layer_idx)
    heads, width, size = query.shape[1:]
    key_heads, own = key.shape[1:3]
    length = shared_prefix.length
    at_a_time = max(1, SCORES_AT_A_TIME // (heads * width * (length + own)))
    outputs = []
    for q, k, v, mask in zip(*(x.split(at_a_time) for x in (query, key, value, attention_mask))):
        rows = len(q)
        # Query heads that share a key head come one below the other.
        q = q.reshape(rows, key_heads, -1, size)
        added = mask.expand(-1, heads // key_heads, -1, -1).reshape(rows, 1, -1, own)
        scores = (q @ k.transpose(2, 3)).float() * scaling + added
        if prefix is not None:
            # As if all rows were one, of many queries.
            together = q.transpose(0, 1).reshape(key_heads, -1, size)
            to_prefix = (together @ prefix[0].transpose(1, 2)).float() * scaling
            to_prefix = to_prefix.view(key_heads, rows, -1, length).transpose(0, 1)
            scores = torch.cat([to_prefix, scores], dim=-1)
        weights = scores.softmax(-1).to(v.dtype)
        output = weights[..., length:] @ v
        if prefix is not None:
            of_prefix = weights[..., :length].transpose(0, 1).reshape(key_heads, -1, length)
            output += (of_prefix @ prefix[1]).view(key_heads, rows, -1, size).transpose(0, 1)
        outputs.append(output.reshape(rows, heads, width, size))
    return torch.cat(outputs).transpose(1, 2), None


AttentionInterface.register(_attend_after_prefix.__name__, _attend_after_prefix)


@contextmanager
def packed_weights(model: Any) -> Iterator[None]:
    """Meanwhile, a model's linear layers multiply by copies of their weights, laid out for it.

    For bfloat16 products on a CPU: there oneDNN lays weights out anew in every call, which takes as long
    as the product when there are few rows. Without gradients; the weights must not change meanwhile.
    Elsewhere, nothing happens.
    """
    on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
    bfloat16 = (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    layers: list[torch.nn.Linear] = []
    # The operators are those that torch.compile puts in the place of linear layers.
    if on_cpu and bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        plain = (m for m in model.modules() if type(m) is torch.nn.Linear)
        layers = [layer for layer in plain if "forward" not in vars(layer)]
    for layer in layers:
        weight, bias = (x if x is None else x.bfloat16() for x in (layer.weight, layer.bias))
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        vars(layer)["forward"] = partial(_multiply, packed, bias)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _multiply(packed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), packed, bias, "none", [], "")


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    """Has a model use the attention function of that name meanwhile."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    # The method for it goes through all modules, twice in each decoding step.
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _additive(seen: torch.Tensor, model: Any) -> torch.Tensor:
    """A mask to add to attention scores: 0 where `seen`, else the lowest number there is."""
    dtype = model.get_input_embeddings().weight.dtype
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, lowest)


def hidden_states(
    model: Any, sequences: Sequence[Sequence[int]], prefix_length: int
) -> torch.Tensor:
    """The last hidden states of all tokens after the prefix, sequence by sequence: (N, hidden size).

    Sequences are packed: several share a row, in which each attends to the prefix and to itself. With a
    row for each, padded to the longest, up to a sixth of the work was on padding.

    Args:
        model: a `transformers` causal language model.
        sequences: lists of token ids, alike in their first `prefix_length` tokens and longer.
        prefix_length: may be 0.
    """
    device = model.get_input_embeddings().weight.device
    lengths = [len(sequence) - prefix_length for sequence in sequences]
    rows = pack(lengths)
    places: dict[int, tuple[int, slice]] = {}  # of each sequence: its row, and its columns there
    width = 0
    for number, row in enumerate(rows):
        column = 0
        for index in row:
            places[index] = (number, slice(column, column + lengths[index]))
            column += lengths[index]
        width = max(width, column)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(tokens)
    owners = torch.full_like(tokens, -1)  # which sequence a token belongs to, -1 for padding
    for index, place in places.items():
        tokens[place] = torch.tensor(sequences[index][prefix_length:])
        positions[place] = torch.arange(prefix_length, len(sequences[index]))
        owners[place] = index
    own = (owners[:, :, None] == owners[:, None, :]).tril()
    seen = torch.cat([own.new_ones(len(rows), width, prefix_length), own], dim=2)[:, None]
    prefix = [
        (keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1))
        for keys, values in _keys_and_values(model, sequences[0][:prefix_length])
    ]
    output = model.base_model(
        input_ids=tokens.to(device),
        attention_mask=_additive(seen.to(device), model),
        position_ids=positions.to(device),
        past_key_values=Keys(prefix),
        use_cache=True,
    )
    return torch.cat([output.last_hidden_state[places[i]] for i in range(len(sequences))])


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences share a row. Rows are nearly equally full, about twice as wide as the longest.

    The longest sequence comes first, and each goes to the row that is emptiest then (Graham 1969): so no
    row is longer than the mean by more than the longest sequence. Wider rows would leave a little less
    padding, but attention compares all of a row's tokens with each other.
    """
    rows: list[list[int]] = [[] for _ in range(max(1, sum(lengths) // (2 * max(lengths))))]
    filled = [0] * len(rows)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = filled.index(min(filled))
        rows[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return rows


def _keys_and_values(model: Any, tokens: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's keys and values of one row of tokens, (1, key heads, P, head size) each."""
    if not tokens:
        return []
    row = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)
    cache = Keys(record=True)
    model.base_model(input_ids=row, past_key_values=cache, use_cache=True)
    return [cache.added[layer] for layer in range(len(cache.added))]


def vocabulary_head(model: Any) -> torch.nn.Module:
    """The layer that turns last hidden states into logits."""
    return model.get_output_embeddings()
