"""The sampler: continues a batch of token sequences until each has written a stop string.

Token ids go in and come out; nothing is decoded and encoded again. Every sampled token comes with its
log-probability, taken while sampling. The tokens that all sequences share are computed once, and
sequences that are done leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from pipeline.models.forward import (
    SharedPrefix,
    packed_weights,
    shared_prefix_length,
    vocabulary_head,
)


class StopReason(StrEnum):
    """Why the sampler stopped continuing a sequence."""

    STOP_STRING = "stop_string"
    END_OF_TEXT = "end_of_text"
    LENGTH = "length"


@dataclass(frozen=True)
class Continuation:
    """What the model wrote after one context: n sampled ids, their log-probabilities, the text."""

    tokens: list[int]
    logprobs: list[float]
    text: str
    stop_reason: StopReason


class Sampler:
    """Samples continuations from a causal language model.

    Args:
        model: a `transformers` causal language model.
        tokenizer: its tokenizer.
        stop_strings: a continuation ends with the token that completes one of these.
        temperature: divides the logits; reported log-probabilities are of that distribution.
        do_sample: false for greedy decoding (log-probabilities then are at temperature 1).
        seed: seeds the sampler's own random numbers.

    Raises:
        ValueError: for a temperature that is not above 0, and for a stop string that ends in white space
            or beyond ASCII, which a tokenizer may spell otherwise.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        stop_strings: Sequence[str],
        temperature: float = 1.0,
        do_sample: bool = True,
        seed: int = 0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(
                f"temperature {temperature}: it must be above 0; do_sample=False is greedy"
            )
        for stop in stop_strings:
            if not "!" <= stop[-1:] <= "~":
                raise ValueError(
                    f"stop string {stop!r}: its last character must be a printable ASCII one"
                )
        self.model = model
        self.head = vocabulary_head(model)
        self.tokenizer = tokenizer
        self.stop_strings = tuple(stop_strings)
        self.temperature = temperature if do_sample else 1.0
        self.do_sample = do_sample
        self.device = model.get_input_embeddings().weight.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        # Only a token that holds the last character of a stop string can complete one, so only after
        # such a token is the text looked at.
        ends = {stop[-1] for stop in self.stop_strings}
        vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._may_complete_stop = {
            index for index, token in enumerate(vocabulary) if any(end in token for end in ends)
        }

    @torch.no_grad()
    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]
    ) -> list[Continuation]:
        """Continues each of B contexts by at most its own `max_new_tokens` (at least 1)."""
        if not contexts:
            return []
        with packed_weights(self.model):
            return self._generate(contexts, max_new_tokens)

    def _generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]
    ) -> list[Continuation]:
        length = shared_prefix_length(contexts)
        prefix = SharedPrefix(self.model, contexts[0][:length])
        rests = [torch.tensor(context[length:], device=self.device) for context in contexts]
        # Padded on the left, so that all end in the last column and go on from there.
        mask, next_tokens = (
            pad_sequence(x, batch_first=True, padding_side="left")
            for x in ([torch.ones_like(rest) for rest in rests], rests)
        )
        cache = DynamicCache()
        tokens: list[list[int]] = [[] for _ in contexts]
        logprobs: list[list[float]] = [[] for _ in contexts]
        stop_reasons: dict[int, StopReason] = {}
        rows = list(range(len(contexts)))  # which context each row of the batch continues
        while True:
            output = prefix.proceed(next_tokens, mask, cache)
            chosen, chosen_logprobs = self._choose(self.head(output.last_hidden_state[:, -1]))
            for row, token, logprob in zip(rows, chosen.tolist(), chosen_logprobs.tolist()):
                tokens[row].append(token)
                logprobs[row].append(logprob)
                reason = self._stop_reason(tokens[row], max_new_tokens[row])
                if reason is not None:
                    stop_reasons[row] = reason
            staying = [i for i, row in enumerate(rows) if row not in stop_reasons]
            if not staying:
                break
            if len(staying) < len(rows):
                index = torch.tensor(staying, device=self.device)
                rows = [rows[i] for i in staying]
                cache.batch_select_indices(index)
                mask, chosen = mask[index], chosen[index]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            next_tokens = chosen[:, None]
        return [
            Continuation(tokens[row], logprobs[row], self._decode(tokens[row]), stop_reasons[row])
            for row in range(len(contexts))
        ]

    def _choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row and its log-probability; `logits` has shape (rows, vocabulary)."""
        distribution = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        if self.do_sample:
            chosen = _draw(distribution.exp(), self.generator)
        else:
            chosen = distribution.argmax(dim=-1, keepdim=True)
        return chosen[:, 0], distribution.gather(1, chosen)[:, 0]

    def _stop_reason(self, tokens: list[int], max_new_tokens: int) -> StopReason | None:
        if tokens[-1] == self.tokenizer.eos_token_id:
            return StopReason.END_OF_TEXT
        if tokens[-1] in self._may_complete_stop:
            text = self._decode(tokens)
            if any(stop in text for stop in self.stop_strings):
                return StopReason.STOP_STRING
        return StopReason.LENGTH if len(tokens) >= max_new_tokens else None

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def _draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An index for each row, (rows, 1), drawn by inverting the cumulative distribution.

    `torch.multinomial` draws a random number for each of 49,152 tokens, a tenth of a decoding step.
    """
    cumulative = probabilities.cumsum(dim=-1)
    uniform = torch.rand(len(cumulative), 1, generator=generator, device=cumulative.device)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return index.clamp(max=cumulative.shape[1] - 1)
