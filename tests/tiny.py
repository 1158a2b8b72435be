"""Tiny models, randomly initialised on the spot: a test of the mechanics needs no knowledge."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from pipeline.models.scoring import TokenBatch

MERGES = [("<", "c"), (">", "Ċ"), (">", "<")]
"""A few tokens of two characters, so that tags do not end where tokens end."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with the merges above and an end-of-text token that also pads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<eos>", *alphabet, *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def make_model(kind: str = "llama", seed: int = 0):
    torch.manual_seed(seed)
    vocabulary = len(make_tokenizer())
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=0
        )
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = LlamaForCausalLM(config)
    # Sharper than at random initialisation, so that mistakes show in the probabilities.
    for parameter in model.parameters():
        parameter.data *= 3
    return model.eval()


def random_ids(count: int, seed: int) -> torch.Tensor:
    """Token ids, none of them the end-of-text token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, len(make_tokenizer()), (count,), generator=generator)


def token_batch(queries, responses) -> TokenBatch:
    """From tensors of token ids."""
    sequences = [[*q.tolist(), *r.tolist()] for q, r in zip(queries, responses)]
    return TokenBatch.of(sequences, [len(query) for query in queries])
