"""What a sampler is: it continues token sequences. No torch is needed to know that.

`TorchSampler` in `pipeline/models/sampling.py` is one; a server, or a script in a test, may be another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pipeline.chance import Place


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


class Sampler(Protocol):
    """Continues a batch of token sequences."""

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        stop_strings: Sequence[str],
        places: Sequence[Place],
    ) -> list[Continuation]:
        """Continues each of B contexts.

        Args:
            contexts: B lists of token ids.
            max_new_tokens: B limits, each at least 1.
            stop_strings: a continuation ends with the token that completes one of these.
            places: B places, which decide what is drawn.
        """
        ...
