"""The sampler: continues a batch of token sequences until each has written a stop string.

Token ids go in and come out; nothing is decoded and encoded again. Every sampled token comes with its
log-probability, taken while sampling. The tokens that all sequences share are computed once, and
sequences that are done leave the batch. A model for which that would be wrong goes the plain way.

A token is drawn by the number that belongs to its place, so a sequence's draws do not depend on its batch
mates. Its probabilities do, by rounding: in a batch of another shape a matrix product adds up in another
order.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from pipeline.chance import Place
from pipeline.models.check import check_vocabulary, goes_fast, max_positions, passes
from pipeline.models.forward import (
    SharedPrefix,
    packed_weights,
    shared_prefix_length,
    vocabulary_head,
    without_dropout,
)
from pipeline.models.plain import PlainDecoder
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.stops import Stops
from pipeline.models.text import TextCodec


class TorchSampler:
    """Samples continuations from a causal language model; a `Sampler`.

    Args:
        model: a `transformers` causal language model.
        tokenizer: its tokenizer.
        temperature: divides the logits; reported log-probabilities are of that distribution.
        do_sample: false for greedy decoding (log-probabilities then are at temperature 1).

    Raises:
        ValueError: for a temperature that is not above 0.
        PipelineError: for a model that cannot be used; see `check`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, temperature: float = 1.0, do_sample: bool = True
    ) -> None:
        if temperature <= 0:
            raise ValueError(
                f"temperature {temperature}: it must be above 0; do_sample=False is greedy"
            )
        self.model = model
        check_vocabulary(model, tokenizer)
        self._passes = passes(model)
        self.temperature = temperature if do_sample else 1.0
        self.do_sample = do_sample
        self.device = model.get_input_embeddings().weight.device
        self.max_positions = max_positions(model)
        """How many tokens the model was made for; None if it does not say."""
        self._codec = TextCodec(tokenizer)
        self._stops = functools.cache(functools.partial(Stops, tokenizer, self._codec))

    @torch.no_grad()
    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        stop_strings: Sequence[str],
        places: Sequence[Place],
    ) -> list[Continuation]:
        """See `Sampler`.

        Raises ValueError for a stop string that `Stops` does not take.
        """
        if not contexts:
            return []
        without_dropout(self.model)
        stops = self._stops(tuple(stop_strings))
        width = max(max_new_tokens) if self.do_sample else 0
        draws = torch.from_numpy(np.stack([place.uniforms(width) for place in places]))
        with packed_weights(self.model):
            return self._generate(contexts, max_new_tokens, stops, draws.to(self.device))

    def _generate(
        self,
        contexts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        stops: Stops,
        draws: torch.Tensor,
    ) -> list[Continuation]:
        longest = max(len(c) + limit for c, limit in zip(contexts, max_new_tokens))
        decoder: SharedDecoder | PlainDecoder
        if goes_fast(self.model, longest):
            decoder = SharedDecoder(self.model, contexts)
        else:
            decoder = PlainDecoder(self.model, contexts, self._passes.plain_cache)
        tokens: list[list[int]] = [[] for _ in contexts]
        logprobs: list[list[float]] = [[] for _ in contexts]
        stop_reasons: dict[int, StopReason] = {}
        rows = list(range(len(contexts)))  # which context each row of the batch continues
        for position in itertools.count():
            chosen, chosen_logprobs = self._choose(
                decoder.logits(), draws[:, position : position + 1]
            )
            for row, token, logprob in zip(rows, chosen.tolist(), chosen_logprobs.tolist()):
                tokens[row].append(token)
                logprobs[row].append(logprob)
                reason = stops.reason(tokens[row], max_new_tokens[row])
                if reason is not None:
                    stop_reasons[row] = reason
            staying = [i for i, row in enumerate(rows) if row not in stop_reasons]
            if not staying:
                break
            if len(staying) < len(rows):
                index = torch.tensor(staying, device=self.device)
                rows = [rows[i] for i in staying]
                chosen, draws = chosen[index], draws[index]
            decoder.go_on(staying, chosen)
        return [
            Continuation(
                tokens[row], logprobs[row], self._codec.decode(tokens[row]), stop_reasons[row]
            )
            for row in range(len(contexts))
        ]

    def _choose(
        self, logits: torch.Tensor, uniform: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row and its log-probability.

        `logits` has shape (rows, vocabulary), `uniform` (rows, 1).
        """
        distribution = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        if self.do_sample:
            chosen = _draw(distribution.exp(), uniform)
        else:
            chosen = distribution.argmax(dim=-1, keepdim=True)
        return chosen[:, 0], distribution.gather(1, chosen)[:, 0]


class SharedDecoder:
    """The next token's logits of B sequences, step after step, what they share computed once.

    Args:
        model: a `transformers` causal language model.
        contexts: B lists of token ids.
    """

    def __init__(self, model: Any, contexts: Sequence[Sequence[int]]) -> None:
        length = shared_prefix_length(contexts)
        self._prefix = SharedPrefix(model, contexts[0][:length])
        self._head = vocabulary_head(model)
        device = model.get_input_embeddings().weight.device
        rests = [torch.tensor(context[length:], device=device) for context in contexts]
        # Padded on the left, so that all end in the last column and go on from there.
        self._mask, self._next = (
            pad_sequence(x, batch_first=True, padding_side="left")
            for x in ([torch.ones_like(rest) for rest in rests], rests)
        )
        self._cache = DynamicCache()

    def logits(self) -> torch.Tensor:
        """(rows, vocabulary), of the rows that go on."""
        output = self._prefix.proceed(self._next, self._mask, self._cache)
        return self._head(output.last_hidden_state[:, -1])

    def go_on(self, staying: Sequence[int], tokens: torch.Tensor) -> None:
        """Appends a token to each of the rows that stay; the others leave the batch.

        Args:
            staying: their numbers among those that went on so far.
            tokens: (rows that stay,).
        """
        if len(staying) < len(self._mask):
            index = torch.tensor(staying, device=tokens.device)
            self._cache.batch_select_indices(index)
            self._mask = self._mask[index]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(staying), 1)], dim=1)
        self._next = tokens[:, None]


def _draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """An index for each row, (rows, 1), by inverting the cumulative distribution at `uniform`, (rows, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return index.clamp(max=cumulative.shape[1] - 1)
