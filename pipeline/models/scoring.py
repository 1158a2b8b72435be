"""What a model says of tokens that are already there: log-probabilities, entropies, values.

Queries and responses are lined up in *columns*, one token each, right after the prefix that all
queries share. Column t is about token y_t of a row; the numbers a model computes at the token before
it are those *for* y_t.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from pipeline.models import plain
from pipeline.models.check import goes_fast
from pipeline.models.forward import (
    hidden_states,
    shared_prefix_length,
    vocabulary_head,
    without_dropout,
)

CHUNK = 64
"""How many tokens go through the vocabulary head at a time."""


@dataclass(frozen=True)
class TokenBatch:
    """B sequences of query and response, whose columns begin after `prefix_length + 1` tokens.

    The one token more gives every column a predecessor that is computed row by row.
    """

    sequences: list[list[int]]
    prefix_length: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> "TokenBatch":
        """Finds the prefix that all prompts, the sequences' first tokens, share."""
        prompts = [s[:length] for s, length in zip(sequences, prompt_lengths, strict=True)]
        return cls([list(sequence) for sequence in sequences], shared_prefix_length(prompts))

    def select(self, rows: Sequence[int]) -> "TokenBatch":
        """The same for some of the rows; there may be fewer columns."""
        return replace(self, sequences=[self.sequences[row] for row in rows])

    @property
    def lengths(self) -> list[int]:
        """How many columns each row fills, from the first."""
        return [len(sequence) - self.prefix_length - 1 for sequence in self.sequences]

    @property
    def width(self) -> int:
        """T, the number of columns."""
        return max(self.lengths)

    def place(self, rows: Sequence[Sequence[float] | torch.Tensor]) -> torch.Tensor:
        """Puts numbers that belong to each row's last tokens in their columns, 0 elsewhere: (B, T)."""
        placed = torch.zeros(len(rows), self.width)
        for target, row, end in zip(placed, rows, self.lengths, strict=True):
            target[end - len(row) : end] = torch.as_tensor(row, dtype=placed.dtype)
        return placed


@dataclass(frozen=True)
class Scores:
    """What a model says of a batch of B rows and T columns."""

    logprobs: torch.Tensor
    """(B, T): log-probability of y_t given all before it, in nats; 0 where it was not asked for."""
    entropy: torch.Tensor
    """(B, T): entropy of the distribution of y_t, in nats; 0 where it was not asked for."""
    values: torch.Tensor
    """(B, T + 1): value of the state before y_t; at a row's end, of the state after its last token;
    0 on padding."""


def score(
    model: Any,
    batch: TokenBatch,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> Scores:
    """Runs a model over a batch of tokens, in evaluation mode. A shared prefix is computed only once.

    A model for which that would be wrong is run over whole sequences, one at a time; see `check`.

    Args:
        model: a causal language model, or a policy with a value head; without one, values are 0.
        mask: (B, T), true on the tokens whose log-probability and entropy are asked for; None for all.
            The vocabulary head, a fifth of the work, is left out for the others: task and tools'
            answers are often more tokens than the model's own.
        temperature: divides the logits, as in sampling.
        entropy_gradient: whether the entropy will be differentiated.
    """
    without_dropout(model)
    language_model = getattr(model, "pretrained_model", model)
    device = language_model.get_input_embeddings().weight.device
    rests = [sequence[batch.prefix_length :] for sequence in batch.sequences]
    tokens = torch.tensor([token for rest in rests for token in rest[1:]], device=device)
    # The state before y_t is that of the token before it: of each sequence all but the last.
    before = [i < len(rest) for rest in rests for i in range(1, len(rest) + 1)]
    states = torch.tensor(before, device=device).nonzero()[:, 0]
    present = batch.place([torch.ones(length) for length in batch.lengths]).bool().to(device)
    wanted = present if mask is None else mask
    chosen = wanted[present]
    if goes_fast(language_model, max(map(len, batch.sequences))):
        hidden = hidden_states(language_model, batch.sequences, batch.prefix_length)
        logprobs, entropy = _score_tokens(
            hidden[states[chosen]],
            tokens[chosen],
            vocabulary_head(language_model),
            temperature,
            entropy_gradient,
        )
    else:
        hidden, logprobs, entropy = _score_whole(
            language_model, batch, tokens, chosen, temperature, entropy_gradient
        )
    logprobs, entropy = (
        torch.zeros(wanted.shape, device=device).masked_scatter(wanted, x)
        for x in (logprobs, entropy)
    )
    ones = present.new_ones(len(rests), 1)
    with_end = torch.cat([ones, present], dim=1)
    values = hidden.new_zeros(with_end.shape, dtype=torch.float32)
    if hasattr(model, "v_head"):
        with torch.autocast(device.type, enabled=False):
            values = values.masked_scatter(with_end, model.v_head(hidden.float())[:, 0])
    return Scores(logprobs=logprobs, entropy=entropy, values=values)


def _score_tokens(
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    head: torch.nn.Module,
    temperature: float,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of N tokens, a few at a time.

    The logits of a few tokens fit the processor's cache; with gradients they are computed again in
    the backward pass instead of kept. Twice as fast here as all at once, in a fraction of the memory.
    """

    def score_chunk(hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _of_logits(head(hidden), tokens, temperature, entropy_gradient)

    chunks = [
        checkpoint(score_chunk, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(CHUNK), tokens.split(CHUNK))
    ]
    logprobs, entropy = zip(*chunks)
    return torch.cat(logprobs), torch.cat(entropy)


def _score_whole(
    model: Any,
    batch: TokenBatch,
    tokens: torch.Tensor,
    chosen: torch.Tensor,
    temperature: float,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last hidden states, and log-probabilities and entropies of the chosen ones of all rows' tokens.

    With gradients a sequence is computed again in the backward pass: its logits are not kept.
    """

    def score_sequence(
        sequence: torch.Tensor, tokens: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits, states = plain.whole(model, sequence, len(chosen) + 1)
        scored = _of_logits(logits[:-1][chosen], tokens[chosen], temperature, entropy_gradient)
        return states, *scored

    scored = [
        checkpoint(
            score_sequence,
            torch.tensor(sequence, device=tokens.device),
            row_tokens,
            row_chosen,
            use_reentrant=False,
        )
        for sequence, row_tokens, row_chosen in zip(
            batch.sequences, tokens.split(batch.lengths), chosen.split(batch.lengths)
        )
    ]
    states, logprobs, entropy = zip(*scored)
    return torch.cat(states), torch.cat(logprobs), torch.cat(entropy)


def _of_logits(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of N tokens and the entropies of their distributions; `logits` is (N, vocabulary)."""
    distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
    logprobs = distribution.gather(-1, tokens[:, None])[:, 0]
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(distribution.exp() * distribution).sum(dim=-1)
    return logprobs, entropy
