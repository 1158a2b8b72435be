"""Plain passes: whole sequences through a model's own forward, its own logits included.

Nothing is shared or packed here, so this is right for any model that reads from left to right. The passes of
`forward` are faster. `check` finds out for which models they are right.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

CACHES = ("past_key_values", "cache_params")
"""What architectures call the state that a pass hands to the next."""


def whole(model: Any, tokens: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence, alone, without padding.

    Args:
        model: a `transformers` causal language model.
        tokens: (T,).
        keep: of how many of the last tokens the numbers are wanted.

    Returns:
        Logits, (keep, vocabulary), and last hidden states, (keep, hidden size).

    Raises:
        ValueError: for an architecture with other states than one for each token.
    """
    options = _accepted(model, use_cache=False, logits_to_keep=keep)
    output = model(input_ids=tokens[None], output_hidden_states=True, return_dict=True, **options)
    states = output.hidden_states[-1]
    if states.shape[:-1] != (1, len(tokens)):
        raise ValueError(f"its last hidden states have the shape {tuple(states.shape)}")
    return output.logits[0, -keep:], states[0, -keep:]


class PlainDecoder:
    """The next token's logits of B sequences, step after step; no gradients.

    Args:
        model: a `transformers` causal language model.
        contexts: B lists of token ids.
        cached: whether the model's own cache is used, on rows that are padded on the left. Otherwise each
            step computes whole sequences.
    """

    def __init__(self, model: Any, contexts: Sequence[Sequence[int]], cached: bool) -> None:
        self.model = model
        device = model.get_input_embeddings().weight.device
        self._sequences = [torch.tensor(context, device=device) for context in contexts]
        self._rows = list(range(len(contexts)))  # those that go on
        self._cached = cached
        self._cache: dict[str, Any] = {}
        if cached:
            self._mask, self._next = (
                pad_sequence(x, batch_first=True, padding_side="left")
                for x in ([torch.ones_like(s) for s in self._sequences], self._sequences)
            )

    def logits(self) -> torch.Tensor:
        """(rows, vocabulary), of the rows that go on."""
        if not self._cached:
            rows = [whole(self.model, self._sequences[row], 1)[0] for row in self._rows]
            return torch.cat(rows)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -self._next.shape[1] :]
        options = _accepted(self.model, logits_to_keep=1, position_ids=positions)
        output = self.model(
            input_ids=self._next,
            attention_mask=self._mask,
            use_cache=True,
            return_dict=True,
            **self._cache,
            **options,
        )
        name = next(name for name in CACHES if getattr(output, name, None) is not None)
        self._cache = {name: output[name]}
        return output.logits[self._rows, -1]

    def go_on(self, staying: Sequence[int], tokens: torch.Tensor) -> None:
        """Appends a token to each of the rows that stay; the others are done.

        Args:
            staying: their numbers among those that went on so far.
            tokens: (rows that stay,).
        """
        self._rows = [self._rows[i] for i in staying]
        if not self._cached:
            for row, token in zip(self._rows, tokens):
                self._sequences[row] = torch.cat([self._sequences[row], token[None]])
            return
        # Rows that are done stay in the cache: not every kind of it can be cut.
        self._next = self._next.new_zeros(len(self._next), 1)
        self._next[self._rows, 0] = tokens
        self._mask = torch.cat([self._mask, torch.ones_like(self._next)], dim=1)


def _accepted(model: Any, **options: Any) -> dict[str, Any]:
    """Those of the options that a model's forward has by name."""
    names = inspect.signature(model.forward).parameters
    return {name: value for name, value in options.items() if name in names}
