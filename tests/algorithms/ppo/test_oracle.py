"""TRL 0.11.4's numbers and ours, for the cases of `tests.oracle`."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.algorithms.ppo import PPO, PPOConfig, advantages
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.training import loss
from pipeline.training.trainer import PolicyTrainer
from pipeline.trl import batch_of
from tests.oracle.write_inputs import CASES
from tests.tiny import token_batch

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

CASE_AND_GAE = [
    ("tools", "walk"),
    ("no-tools", "walk"),
    ("no-tools", "skip"),  # where there is nothing to skip, both are the textbook's estimator
]

OTHERWISE = {
    "ppo/val/var_explained": "ours is the field's: it forgives a constant error",
    "ppo/policy/advantages_mean": "ours is of the advantages before they are whitened; theirs is 0",
}
"""Statistics that go by TRL's name and are computed otherwise, and why."""


@pytest.fixture(scope="module", params=CASE_AND_GAE, ids="-".join)
def compared(request):
    """What TRL kept of a case, and what our trainer computes of the same."""
    case, gae = request.param
    settings = json.loads((CASES / "settings.json").read_text())
    weights = load_file(CASES / "models.safetensors")
    episodes = load_file(CASES / f"{case}.safetensors")
    size = len(episodes["scores"])
    queries, responses, masks = (
        [episodes[f"{name}.{i}"] for i in range(size)] for name in ("query", "response", "mask")
    )
    policy = CausalLMWithValueHead(model(settings["llama"], weights, "policy"))
    policy.v_head.load_state_dict({name: weights[f"v_head.{name}"] for name in ("weight", "bias")})
    reference = model(settings["llama"], weights, "reference")
    updates = {
        ("epochs" if name == "ppo_epochs" else name): x for name, x in settings["ppo"].items()
    }
    config = PPOConfig(**updates, mini_batch_size=size, gae=gae, target_kl_update=100)
    optimizer = torch.optim.SGD(policy.parameters(), lr=config.learning_rate)
    ours = {}

    def first_gradient(optimizer, *_):
        if "gradient.v_head.bias" not in ours:
            ours.update({f"gradient.{n}": p.grad.clone() for n, p in names(policy)})

    optimizer.register_step_pre_hook(first_gradient)
    width = max(len(response) for response in responses)
    batch = token_batch(queries, responses)

    def keep(name, x):
        """As TRL's outputs: a response's tokens from the left. Our columns are of all rows alike."""
        aligned = torch.zeros(size, width)
        for row, (query, response) in enumerate(zip(queries, responses)):
            start = len(query) - batch.prefix_length - 1
            aligned[row, : len(response)] = x[row, start : start + len(response)]
        ours[name] = aligned

    with pytest.MonkeyPatch.context() as patch:
        spy(patch, "token_rewards", lambda arguments, result: keep("rewards", result))
        spy(patch, "token_rewards", lambda arguments, result: keep("kl", arguments[1]))
        spy(
            patch,
            "gae" if gae == "skip" else "gae_walk",
            lambda _, result: keep("returns", result[1]),
        )
        spy(patch, "whiten", lambda arguments, result: keep("advantages", result))
        trainer = PolicyTrainer(PPO(config), policy, reference, optimizer)
        old, referred = trainer._score_in_parts(batch, batch.place(masks).bool())
        keep("logprobs", old.logprobs)
        keep("ref_logprobs", referred.logprobs)
        keep("values", old.values)
        stats = trainer.step(batch_of(queries, responses, episodes["scores"].tolist(), masks))
    ours |= {f"stats.{name}": torch.tensor([value]) for name, value in stats.items()}
    ours |= {f"after.{name}": parameter.detach() for name, parameter in names(policy)}
    counts = torch.zeros(size, width, dtype=torch.bool)
    for row, mask in enumerate(masks):
        counts[row, : len(mask)] = mask.bool()
    return load_file(CASES / f"{case}-trl.safetensors"), ours, counts


def model(shape, weights, which):
    language_model = LlamaForCausalLM(LlamaConfig(**shape))
    prefix = f"{which}."
    language_model.load_state_dict(
        {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)},
        strict=False,  # the vocabulary head is the embedding
    )
    return language_model


def names(policy):
    """Parameters by TRL's names: with the language model's in front."""
    return list(policy.named_parameters())


def spy(patch, name, look):
    module = loss if name == "whiten" else advantages
    genuine = getattr(module, name)

    def spied(*arguments, **options):
        result = genuine(*arguments, **options)
        look(arguments, result)
        return result

    patch.setattr(module, name, spied)


@pytest.mark.parametrize(
    "name", ["logprobs", "ref_logprobs", "values", "kl", "rewards", "advantages", "returns"]
)
def test_numbers_of_the_models_tokens(compared, name):
    theirs, ours, mask = compared
    assert theirs[name][mask].std() > 1e-3  # there is something to compare
    torch.testing.assert_close(ours[name][mask], theirs[name][mask], **TOLERANCE)


def test_the_first_gradient(compared):
    assert_same_parameters(compared, "gradient")


def test_the_policy_after_three_epochs(compared):
    """In which ratios move away from 1 and losses are clipped: see the test below."""
    assert_same_parameters(compared, "after")


def assert_same_parameters(compared, prefix):
    theirs, ours, _ = compared
    named = {name for name in theirs if name.startswith(f"{prefix}.")}
    assert named == {name for name in ours if name.startswith(f"{prefix}.")}
    for name in named:
        torch.testing.assert_close(ours[name], theirs[name], **TOLERANCE)


def test_statistics(compared):
    theirs, ours, _ = compared
    common = {
        name.removeprefix("stats.") for name in theirs.keys() & ours.keys() if "stats" in name
    }
    assert len(common) > 20
    assert OTHERWISE.keys() <= common
    assert min(theirs[f"stats.ppo/{kind}/clipfrac"].item() for kind in ("policy", "val")) > 0
    for name in common - OTHERWISE.keys():
        torch.testing.assert_close(ours[f"stats.{name}"], theirs[f"stats.{name}"], **TOLERANCE)
