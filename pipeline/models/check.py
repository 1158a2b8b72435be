"""Whether a model can be used here, and by which passes: tried on a few tokens before anything else.

The passes of `forward` change what attention sees. Not every architecture can be told. A model for which they
are wrong goes the plain way, of `plain`; one for which no way is right is refused.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from transformers import DynamicCache, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pipeline.errors import PipelineError
from pipeline.models import plain
from pipeline.models.forward import SharedPrefix, hidden_states, vocabulary_head, without_dropout

WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "sliding_window_size",
    "window_size",
    "local_attention",
)
"""What configs call the number of tokens that a layer sees."""

KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
"""The kinds of layers that see all of a short sequence."""

SHARED, TOKENS, FEWER = 6, 12, 10
"""Of the two sequences of the check: what they share, and their lengths."""

TOLERANCE = 1e-3
"""How far numbers may be apart, in their standard deviations; more where the weights have fewer bits."""


@dataclass(frozen=True)
class Passes:
    """What is right for a model."""

    fast_up_to: float
    """The longest sequence, in tokens, for the passes of `forward`; 0 if they are wrong for the model."""
    plain_cache: bool
    """Whether plain sampling can use the model's own cache."""
    hidden_size: int
    """The width of the last hidden states."""


Alike = Callable[[torch.Tensor, torch.Tensor], bool]

_found: WeakKeyDictionary[Any, Passes] = WeakKeyDictionary()


def passes(model: Any) -> Passes:
    """What is right for a causal language model of `transformers`; tried once for each object.

    Raises:
        PipelineError: for a model for which nothing is.
    """
    if model not in _found:
        _found[model] = _try(model)
    return _found[model]


def goes_fast(model: Any, longest: int) -> bool:
    """Whether the passes of `forward` are right for sequences of up to `longest` tokens."""
    limit = passes(model).fast_up_to
    if longest <= limit:
        return True
    if limit:
        _say(
            f"{type(model).__name__}: sequences of more than {limit} tokens, its window, are computed "
            "whole, which is slower"
        )
    return False


def max_positions(model: Any) -> int | None:
    """How many tokens the model was made for; None if it does not say."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")
    limits = [getattr(config, name, None) for name in names]
    for name, module in model.named_modules():
        if "position" in name and isinstance(module, torch.nn.Embedding) and module.padding_idx:
            # RoBERTa's kind: the first positions are those of padding.
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min((limit for limit in limits if limit and limit > 0), default=None)


def check_config(name: str | Path, tokenizer: Any, **options: Any) -> None:
    """Judges a model that is to be loaded by its config, before its weights are fetched.

    Args:
        name: its folder, or its name on the hub.
        tokenizer: the model's.
        options: those of transformers' `from_pretrained`.

    Raises:
        PipelineError: if transformers does not know such models, or they do not go on from a text; if the
            vocabulary is too small. Not for a config that is missing or broken: loading it tells.
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(name, **options)
    except Exception:  # each kind of broken file has its own
        return
    kind = config.get("model_type")
    if kind is None:
        return
    if kind not in CONFIG_MAPPING_NAMES:
        raise PipelineError(
            f"model: cannot load {name}: its config.json has model_type {kind!r}, which transformers "
            f"{transformers.__version__} does not know; docs/models.md lists what it knows"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise PipelineError(
            f"model: cannot load {name}: models of the type {kind!r} do not go on from a text; "
            "docs/models.md lists those that do"
        )
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    if isinstance(size, int):
        _check_vocabulary(f"{name}: its config.json", size, tokenizer)


def check_loaded(name: str | Path, model: Any, tokenizer: Any) -> None:
    """Judges a model that has been loaded.

    Raises:
        PipelineError: for weights with NaN or infinity, a vocabulary smaller than the tokenizer's, or a
            model for which no way is right.
    """
    try:
        check_vocabulary(model, tokenizer)
        passes(model)
    except PipelineError as error:
        reason = str(error).removeprefix("model: ")
        raise PipelineError(f"model: cannot load {name}: {reason}") from error


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises PipelineError if the tokenizer has ids for which the model has no embedding."""
    size = len(model.get_input_embeddings().weight)
    _check_vocabulary(f"{type(model).__name__}: its embedding", size, tokenizer)


def _check_vocabulary(what: str, size: int, tokenizer: Any) -> None:
    highest = max(tokenizer.get_vocab().values())
    if highest >= size:
        raise PipelineError(
            f"model: {what} has room for {size} tokens, but the tokenizer's ids go up to {highest}; the "
            "tokenizer must be the model's own"
        )


@functools.cache
def _say(message: str) -> None:
    """Tells the user, once."""
    logging.getLogger(__name__).warning(message)


@torch.no_grad()
def _try(model: Any) -> Passes:
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise PipelineError(
            f"model: {name} is an encoder with a decoder; it must be one that only goes on from a text"
        )
    for weight, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise PipelineError(f"model: {name}: its weights {weight} have NaN or infinity in them")
    without_dropout(model)
    first, second = _sequences(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    alike = functools.partial(_are_alike, tolerance=max(TOLERANCE, 32 * torch.finfo(coarsest).eps))
    # Weights of several kinds, as with an adapter, can only be multiplied so.
    with torch.autocast(first.device.type, coarsest, enabled=len(dtypes) > 1):
        try:
            expected = [plain.whole(model, row, len(row)) for row in (first, second)]
            beginning, _ = plain.whole(model, first[:SHARED], SHARED)
        except Exception as error:  # each architecture may fail in its own way
            raise PipelineError(
                f"model: {name} cannot be run on token ids alone: {_reason(error)}"
            ) from error
        logits = [logits for logits, _ in expected]
        if not all(x.isfinite().all() for x in logits):
            raise PipelineError(f"model: {name} computes NaN or infinity of finite weights")
        if not alike(beginning, logits[0][:SHARED]):
            raise PipelineError(
                f"model: {name} looks ahead: what it says of a token depends on later ones; it must "
                "read from left to right"
            )
        fast = _fast_is_right(model, [first, second], expected, alike)
        cached = _cache_is_right(model, [first, second], logits, alike)
    if not fast:
        _say(
            f"{name}: the shared prompt cannot be used with this architecture; sequences are computed "
            "whole, which is slower" + ("" if cached else ", token after token when sampling")
        )
    return Passes(_window(model.config) if fast else 0, cached, expected[0][1].shape[1])


def _sequences(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sequences of tokens that share their beginning; no token has a part of its own to play."""
    weight = model.get_input_embeddings().weight
    given = [v for k, v in model.config.to_dict().items() if k.endswith("_token_id")]
    special = {v for each in given for v in (each if isinstance(each, list) else [each])}
    usable = [i for i in range(min(len(weight), 1000)) if i not in special]
    drawn = [usable[(7 + 37 * i) % len(usable)] for i in range(TOKENS + FEWER)]
    first, rest = drawn[:TOKENS], drawn[TOKENS + SHARED :]
    rows = first, first[:SHARED] + rest
    return tuple(torch.tensor(row, device=weight.device) for row in rows)  # type: ignore[return-value]


def _fast_is_right(
    model: Any,
    sequences: list[torch.Tensor],
    expected: list[tuple[torch.Tensor, torch.Tensor]],
    alike: Alike,
) -> bool:
    """Whether the sampler's and the trainer's passes agree with the plain ones."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    if kinds - KINDS:
        return False
    rests = [row[SHARED:] for row in sequences]
    plain_states = torch.cat([states[SHARED:] for _, states in expected])
    plain_logits = torch.cat([logits[SHARED:] for logits, _ in expected])
    try:
        lists = [row.tolist() for row in sequences]
        hidden = hidden_states(model, lists, SHARED)
        # As the sampler does: padded on the left, and then token by token.
        width = TOKENS - SHARED
        padded = torch.stack([torch.nn.functional.pad(r, (width - len(r), 0)) for r in rests])
        mask = torch.stack(
            [torch.nn.functional.pad(torch.ones_like(r), (width - len(r), 0)) for r in rests]
        )
        prefix, cache = SharedPrefix(model, lists[0][:SHARED]), DynamicCache()
        steps = [
            prefix.proceed(padded[:, start:end], mask[:, :end], cache).last_hidden_state
            for start, end in ((0, width - 1), (width - 1, width))
        ]
        together = torch.cat(steps, dim=1)
        sampled = torch.cat([row[width - len(r) :] for row, r in zip(together, rests)])
        head = vocabulary_head(model)
        found = [(hidden, head(hidden)), (sampled, head(sampled))]
    except Exception:  # each architecture may fail in its own way
        return False
    return all(alike(h, plain_states) and alike(x, plain_logits) for h, x in found)


def _cache_is_right(
    model: Any, sequences: list[torch.Tensor], logits: list[torch.Tensor], alike: Alike
) -> bool:
    """Whether sampling with the model's own cache agrees with whole sequences."""
    starts = [len(row) - 3 for row in sequences]
    try:
        contexts = [row[:start].tolist() for row, start in zip(sequences, starts)]
        decoder = plain.PlainDecoder(model, contexts, cached=True)
        for step in range(3):
            here = torch.stack([x[start + step - 1] for x, start in zip(logits, starts)])
            if not alike(decoder.logits(), here):
                return False
            tokens = [row[start + step] for row, start in zip(sequences, starts)]
            decoder.go_on([0, 1], torch.stack(tokens))
    except Exception:  # each architecture may fail in its own way
        return False
    return True


def _window(config: Any) -> float:
    """The longest sequence of which every layer sees all; infinity where none sees less.

    Rotary positions of some kinds change with the sequence's length, from a length on: that counts, too.
    """
    config = config.get_text_config()
    limits = [getattr(config, name, None) for name in WINDOWS]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        limits.append(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        )
    return min((x for x in limits if isinstance(x, int) and x > 0), default=math.inf)


def _are_alike(ours: torch.Tensor, plain_ones: torch.Tensor, tolerance: float) -> bool:
    """Whether numbers are the same but for rounding."""
    spread = plain_ones.float().std().clamp(min=1e-9)
    # Not a number is not alike.
    return bool((ours.float() - plain_ones.float()).abs().max() <= tolerance * spread)


def _reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
