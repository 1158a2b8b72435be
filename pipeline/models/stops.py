"""When a continuation ends: at a stop string, at the end of text, or at its limit. No torch is needed."""

from collections.abc import Sequence
from typing import Any

from pipeline.models.sampler import StopReason
from pipeline.models.text import TextCodec


class Stops:
    """What ends a continuation, of which each token is looked at once.

    Args:
        tokenizer: the model's.
        codec: of the same tokenizer.
        strings: the stop strings.

    Raises:
        ValueError: for a stop string that ends in white space or beyond ASCII, which a tokenizer may spell
            otherwise.
    """

    def __init__(self, tokenizer: Any, codec: TextCodec, strings: Sequence[str]) -> None:
        for stop in strings:
            if not "!" <= stop[-1:] <= "~":
                raise ValueError(
                    f"stop string {stop!r}: its last character must be a printable ASCII one"
                )
        self._codec = codec
        self._strings = tuple(strings)
        self._end_of_text = tokenizer.eos_token_id
        self._longest = max(map(len, strings), default=0)
        # Those that hold a string's last character: only they can complete one.
        ends = {stop[-1] for stop in strings}
        self._last_tokens = {
            index
            for token, index in tokenizer.get_vocab().items()
            if any(end in token for end in ends)
        }

    def reason(self, tokens: Sequence[int], max_new_tokens: int) -> StopReason | None:
        """Why a continuation ends with the last of its tokens; None if it goes on.

        It was asked for all tokens before. So a stop string has its end in the last token. Each token
        before holds at least a character of it, and no more tokens than it has characters are decoded.
        """
        if tokens[-1] == self._end_of_text:
            return StopReason.END_OF_TEXT
        if tokens[-1] in self._last_tokens:
            text = self._codec.decode(tokens[-self._longest :])
            if any(stop in text for stop in self._strings):
                return StopReason.STOP_STRING
        return StopReason.LENGTH if len(tokens) >= max_new_tokens else None
