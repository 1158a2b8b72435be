"""No dropout while rolling out, scoring or learning, in whatever way a model drops."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from pipeline.algorithms import NAMES, load_algorithm
from pipeline.environment import EpisodeBatch
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.models.scoring import score
from pipeline.training.settings import GroupConfig
from pipeline.training.trainer import PolicyTrainer
from tests.models.test_sampling import contexts_of, places
from tests.tiny import make_tokenizer, random_ids, token_batch

SIZES = {"vocab_size": len(make_tokenizer()), "hidden_size": 32}
LLAMA = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_layer": 2, "n_head": 4, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
OPT = {"ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
DROPPING = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, **GPT)),
    "gpt_bigcode": lambda: GPTBigCodeForCausalLM(GPTBigCodeConfig(**SIZES, **GPT)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**SIZES, **OPT, dropout=0.5, attention_dropout=0.5, activation_dropout=0.5)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **LLAMA, attention_dropout=0.5)),
}
"""Models that drop half of everything in training, by modules, or by asking `self.training`."""


@pytest.fixture(params=DROPPING)
def dropping(request):
    torch.manual_seed(0)
    return DROPPING[request.param]()


def episodes():
    sequences = [random_ids(6, 0).tolist() + random_ids(6, 1 + i).tolist() for i in range(4)]
    return EpisodeBatch(
        sequences=sequences,
        prompt_lengths=[8] * 4,
        masks=[[True] * 4] * 4,
        rewards=[0.0, 1.0, 1.0, 0.0],
        truncated=[False] * 4,
    )


def train_all(policy):
    """Puts a policy in training mode in every way there is."""
    policy.train()
    policy.pretrained_model.train()
    for module in policy.modules():
        module.training = True


@pytest.mark.parametrize("name", NAMES)
def test_a_policys_kl_from_itself_is_zero(dropping, name):
    algorithm = load_algorithm(name)
    grouped = {"num_generations": 2} if issubclass(algorithm.Config, GroupConfig) else {}
    policy = CausalLMWithValueHead(dropping)
    config = algorithm.Config(epochs=1, mini_batch_size=4, **grouped)
    trainer = PolicyTrainer(algorithm(config), policy, copy.deepcopy(dropping))
    train_all(policy)
    trainer.reference.train()
    stats = trainer.step(replace(episodes(), group_size=trainer.algorithm.group_size))
    assert stats["objective/kl"] == 0.0
    # The update's probabilities are the scored ones, too.
    assert stats[f"{name}/policy/approxkl"] < 1e-8
    assert not any(module.training for module in policy.modules())


def test_the_same_is_sampled_and_scored_in_training_mode(dropping):
    policy, tokenizer = CausalLMWithValueHead(dropping), make_tokenizer()
    batch = token_batch([random_ids(6, 0)] * 2, [random_ids(5, 1), random_ids(3, 2)])
    contexts = contexts_of([2, 5])

    def outcome():
        sampled = TorchSampler(dropping, tokenizer).generate(contexts, [9, 9], [], places(2))
        return score(policy, batch).logprobs.tolist(), [c.logprobs for c in sampled]

    expected = outcome()
    train_all(policy)
    assert outcome() == expected


def test_a_policy_stays_in_evaluation_mode(policy):
    policy.train()
    assert not any(module.training for module in policy.modules())
