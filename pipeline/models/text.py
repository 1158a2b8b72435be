"""`TextCodec`: text to token ids and back, so that data stay data.

A tokenizer reads `<|im_end|>` in a text as one token, the very token by which the model ends its turn.
In a question or a tool's output it must not: that text is data, and arrives as plain characters. All text
of an episode goes through here. Tokens come from a copy of the tokenizer in which the control tokens have
names that no text has.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from tokenizers import Tokenizer

Encoder = Callable[[str], list[int]]


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair that stands alone: UTF-8 cannot hold one."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TextCodec:
    """Encodes and decodes the text of episodes with a model's tokenizer.

    No method puts a space before a text that continues another, as some tokenizers do. A control token
    comes out of no text, but for a tag. A character that the tokenizer does not know becomes its unknown
    token. If it has none, or one that also begins or ends texts, the character is left out.

    Args:
        tokenizer: a fast tokenizer of `transformers`. Any other object will do that is called and decodes as
            they do; then a control token in the text is cut in two, and white space is up to the object.
        tags: texts that mean something where the model or the environment writes them. Those of them that
            are tokens of their own are encoded as such, by `written` and `opening` only.
    """

    def __init__(self, tokenizer: Any, tags: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self._controls = _controls(tokenizer)
        self._tags = {index: text for index, text in self._controls.items() if text in tags}
        self._backend = getattr(tokenizer, "backend_tokenizer", None)

    def data(self, text: str) -> list[int]:
        """The token ids of a text that is data, after other text."""
        return self._data(text)

    def written(self, text: str) -> list[int]:
        """The token ids of a text by the model or the environment, after other text: tags count."""
        return self._written(text)

    def opening(self, text: str) -> list[int]:
        """As `written`, of a text at the very start, behind what the tokenizer puts before a text."""
        return [*self._first_tokens, *self._opening(text)]

    def decode_opening(self, tokens: Sequence[int]) -> str:
        """The text of tokens from `opening`, without what the tokenizer puts before a text."""
        own = list(tokens)[len(self._first_tokens) :]
        return self.tokenizer.decode(
            own, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def templated(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """The token ids of texts that follow each other. Control tokens count in those that are a template's.

        Args:
            pieces: each a text, and whether it is a template's.
        """
        ids = {text: index for index, text in self._controls.items()}
        tokens: list[int] = []
        plain = ""
        for text, template in pieces:
            for part in self._at_controls(text) if template else [text]:
                if template and part in ids:
                    tokens += [*self.data(plain), ids[part]]
                    plain = ""
                else:
                    plain += part
        return tokens + self.data(plain)

    def first_control(self, text: str) -> str | None:
        """The first control token in a template's text."""
        controls = set(self._controls.values())
        return next((part for part in self._at_controls(text) if part in controls), None)

    def _at_controls(self, text: str) -> list[str]:
        """The text in parts, control tokens among them."""
        longest_first = sorted(self._controls.values(), key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        return [part for part in re.split(f"({pattern})", text) if part] if pattern else [text]

    def is_token(self, tag: str) -> bool:
        """Whether the tag is a token of its own."""
        return tag in self._tags.values()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that follow others: a space at its start stays."""
        return self._decode(list(tokens))

    @cached_property
    def _data(self) -> Encoder:
        return self._encoder(self._controls, continues=True)

    @cached_property
    def _written(self) -> Encoder:
        return self._encoder(self._all_but_tags, continues=True) if self._tags else self._data

    @cached_property
    def _opening(self) -> Encoder:
        return self._encoder(self._all_but_tags, continues=False)

    @property
    def _all_but_tags(self) -> dict[int, str]:
        return {index: text for index, text in self._controls.items() if index not in self._tags}

    def _encoder(self, controls: Mapping[int, str], continues: bool) -> Encoder:
        """Encodes texts in which these control tokens, by id, do not count."""
        encode = self._plain(controls, continues)
        banned = controls.keys() - _harmless_unknown(self.tokenizer)

        def encoder(text: str) -> list[int]:
            tokens = encode(well_formed(text))
            if banned.isdisjoint(tokens):
                return tokens
            return [token for token in tokens if token not in banned]

        return encoder

    def _plain(self, controls: Mapping[int, str], continues: bool) -> Encoder:
        """As `_encoder`, where there is no token for what the tokenizer does not know."""
        if self._backend is not None:
            state = json.loads(self._backend.to_str())
            plain = _made(
                json.dumps(_without(controls, _continuing(state) if continues else state))
            )
            return lambda text: plain.encode(text, add_special_tokens=False).ids
        # Cut behind the first character of each, so that no piece has one whole.
        inside = "|".join(
            f"(?<={re.escape(c[0])})(?={re.escape(c[1:])})" for c in controls.values()
        )
        return lambda text: [
            token
            for piece in (re.split(inside, text) if inside else [text])
            for token in self.tokenizer(piece, add_special_tokens=False).input_ids
        ]

    @cached_property
    def _decode(self) -> Callable[[list[int]], str]:
        if self._backend is None:
            return lambda tokens: self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        backend, state = self._backend, json.loads(self._backend.to_str())
        decoder = _changed(state["decoder"], _CONTINUING_DECODER)
        if decoder != state["decoder"]:
            backend = _made(json.dumps(state | {"decoder": decoder}))
        return lambda tokens: backend.decode(tokens, skip_special_tokens=False)

    @cached_property
    def _first_tokens(self) -> list[int]:
        """What the tokenizer puts before a text. What it would put after it belongs to no beginning."""
        alone = self.tokenizer("a", add_special_tokens=False).input_ids
        whole = self.tokenizer("a").input_ids
        starts = range(len(whole) - len(alone) + 1)
        return whole[: next(i for i in starts if whole[i : i + len(alone)] == alone)]


def _controls(tokenizer: Any) -> dict[int, str]:
    """The control tokens by id: the special ones, and those that were added beside the vocabulary.

    Not those that are white space or one character: they are text, written in one token.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {
        index: token.content
        for index, token in added.items()
        if token.special or len(token.content.strip()) > 1
    }
    for content in getattr(tokenizer, "all_special_tokens", ()):
        found.setdefault(tokenizer.convert_tokens_to_ids(content), content)
    return found


def _harmless_unknown(tokenizer: Any) -> set[int | None]:
    """The id of the unknown token, where it stands for nothing else but padding."""
    used = {getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "sep", "cls")}
    return {getattr(tokenizer, "unk_token_id", None)} - used


# --- a tokenizer's JSON ------------------------------------------------------------------------------


@cache
def _made(state: str) -> Tokenizer:
    """Takes a second with a large vocabulary; most of what is asked for is alike."""
    return Tokenizer.from_str(state)


_CONTINUING_ENCODER: dict[str, dict[str, Any]] = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
    "Prepend": {"prepend": ""},
}
_CONTINUING_DECODER: dict[str, dict[str, Any]] = {
    "Metaspace": {"prepend_scheme": "never"},
    "Strip": {"start": 0},
}
"""What to change in steps that put a space before a text, and in those that take it away again."""


def _continuing(state: dict[str, Any]) -> dict[str, Any]:
    """The same for texts that follow others."""
    steps = ("normalizer", "pre_tokenizer")
    return state | {step: _changed(state[step], _CONTINUING_ENCODER) for step in steps}


def _changed(step: dict[str, Any] | None, changes: Mapping[str, dict[str, Any]]) -> Any:
    """A step with changes by type, in the steps that it consists of as well."""
    if step is None:
        return None
    parts = ("normalizers", "pretokenizers", "decoders")
    inner = {name: [_changed(s, changes) for s in step[name]] for name in parts if name in step}
    return step | inner | changes.get(step["type"], {})


def _without(controls: Mapping[int, str], state: dict[str, Any]) -> dict[str, Any]:
    """The same with names for these control tokens that no text has, and no other way to them."""
    names = {text: f"\ufdd0{index}\ufdd1" for index, text in controls.items()}  # non-characters
    plain = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    added = [
        token | {"content": names[token["content"]]} | plain if token["content"] in names else token
        for token in state["added_tokens"]
    ]
    model = dict(state["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = _pieces(model, names)
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if names.keys().isdisjoint((left, right, left + right[prefix:]))
            and not (model.get("byte_fallback") and _BYTE.fullmatch(left + right))
        ]
    unused = ("post_processor", "decoder", "truncation", "padding")
    return state | dict.fromkeys(unused) | {"added_tokens": added, "model": model}


_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""The name of a token that stands for a byte of a character that the vocabulary lacks."""


def _pieces(model: dict[str, Any], names: dict[str, str]) -> list[list[Any]]:
    """A unigram model's pieces. The name of a byte, spelled out, is text: it must not pay to read it as the byte."""
    pieces = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if not model.get("byte_fallback"):
        return pieces
    worst = min(score for _, score in pieces) - 1000
    return [[piece, worst if _BYTE.fullmatch(piece) else score] for piece, score in pieces]
