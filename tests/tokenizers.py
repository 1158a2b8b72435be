"""Small tokenizers of every family, made on the spot: how they spell, and which control tokens they have."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer

TAGS = ("<request>", "<call>", "<response>", "<submit>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = [chr(code) for code in range(33, 127)]
WORDS = ["call", "submit", "request", "response", "Result", "What", "is", "the"]


def _fast(tokenizer: Tokenizer, **roles: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _begins_with(tokenizer: Tokenizer, *tokens: str, ends_with: str = "") -> None:
    """Makes the tokenizer put tokens before a text, and after it."""
    single = " ".join([*tokens, "$A", *ends_with.split()])
    ids = [(token, tokenizer.token_to_id(token)) for token in (*tokens, *ends_with.split())]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)


def _byte_level(merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(dict.fromkeys([*alphabet, *(a + b for a, b in merges)]))
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def chat() -> PreTrainedTokenizerFast:
    """Byte-level, with control tokens, added ones that are not special, and runs of white space."""
    tokenizer = _byte_level([("c", "a"), ("l", "l"), ("ca", "ll"), ("s", "u"), ("Ġ", "Ġ")])
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"])
    tokenizer.add_tokens(["<tool_call>", "<think>", "    ", "\t\t"])
    tokenizer.add_tokens([AddedToken("[INST]", lstrip=True, rstrip=True, normalized=True)])
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def whole_words() -> PreTrainedTokenizerFast:
    """Byte-level, takes a whole piece that is in the vocabulary: control tokens are, and end merges."""
    merges = [("<", "s"), ("<s", ">"), ("<", "e"), ("<e", "o"), ("<eo", "s"), ("<eos", ">")]
    tokenizer = _byte_level([*merges, ("<s>", "<s>")], ignore_merges=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["<eos>", "<s>"])
    _begins_with(tokenizer, "<s>")
    return _fast(tokenizer, eos_token="<eos>", bos_token="<s>")


def tag_tokens() -> PreTrainedTokenizerFast:
    """Byte-level, whose tags are single added tokens, two of them special."""
    tokenizer = _byte_level([("c", "a"), ("l", "l")])
    tokenizer.add_special_tokens(["<eos>", "<call>", "<submit>"])
    tokenizer.add_tokens(["<request>", AddedToken("<response>", normalized=False)])
    return _fast(tokenizer, eos_token="<eos>", pad_token="<eos>")


def tags_that_merge() -> PreTrainedTokenizerFast:
    """Byte-level, with tokens that reach into tags and out of them."""
    merges = [(".", "<"), (">", "Ċ"), (">", "<"), ("<", "s"), ("=", "<"), (">", ".")]
    tokenizer = _byte_level(merges)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["<eos>"])
    return _fast(tokenizer, eos_token="<eos>")


def no_end() -> PreTrainedTokenizerFast:
    """Byte-level, with neither end of text nor padding, and a prefix space."""
    tokenizer = _byte_level([("Ġ", "a")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens(["<|sep|>"])
    return _fast(tokenizer)


def _piece_bpe(merges: list[tuple[str, str]]) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", *LETTERS, *(a + b for a, b in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    _begins_with(tokenizer, "<s>")
    return tokenizer


PIECE_MERGES = [("▁", "a"), ("<", "s"), ("/", "s"), ("<", "/s"), ("</s", ">"), ("<s", ">")]
"""Two of them make a control token out of characters."""


def prepending() -> PreTrainedTokenizerFast:
    """Pieces by BPE with byte fallback; the normalizer prepends a space. It begins with <s>."""
    tokenizer = _piece_bpe(PIECE_MERGES)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    spelled = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*spelled, decoders.Strip(" ", 1, 0)])
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """Pieces by BPE behind a Metaspace; padding is the unknown token."""
    tokenizer = _piece_bpe(PIECE_MERGES)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False)]
    )
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """A unigram model: its control tokens are pieces of the vocabulary, and the likeliest ones."""
    controls = ["<pad>", "</s>", "<unk>", "<s>"]
    pieces = [(control, 0.0) for control in controls]
    pieces += [(byte, 0.0) for byte in BYTES]
    pieces += [(piece, -3.0) for piece in ["▁", *WORDS, *("▁" + word for word in WORDS)]]
    pieces += [(letter, -6.0) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(controls)
    _begins_with(tokenizer, ends_with="</s>")
    return _fast(tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>")


def word_piece(tags: Sequence[str] = TAGS) -> PreTrainedTokenizerFast:
    """WordPiece; it could not spell the tags, so they are tokens of their own. It begins with [CLS]."""
    controls = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*controls, *LETTERS, *("##" + letter for letter in LETTERS), *map(str.lower, WORDS)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(controls)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    _begins_with(tokenizer, "[CLS]", ends_with="[SEP]")
    return _fast(
        tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]", cls_token="[CLS]"
    )


def word_level() -> PreTrainedTokenizerFast:
    """A word is a token, or unknown; the unknown token also ends texts."""
    words = ["<eos>", "<bos>", *TAGS, *WORDS, *LETTERS, " ", "\n"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\w+>|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>", "<bos>"])
    return _fast(tokenizer, eos_token="<eos>", unk_token="<eos>", bos_token="<bos>")


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    made.__name__: made
    for made in (
        make_tokenizer,
        chat,
        whole_words,
        tag_tokens,
        tags_that_merge,
        no_end,
        prepending,
        metaspace,
        unigram,
        word_piece,
        word_level,
    )
}

FAITHFUL = frozenset(FAMILIES) - {"unigram", "word_piece", "word_level"}
"""Those that can write every text: the others normalize it, or have no token for some characters."""
