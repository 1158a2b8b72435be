"""How many tokens are computed at a time, and what is computed twice, changes no result."""

import copy

import pytest
import torch

from pipeline.algorithms import NAMES, load_algorithm
from pipeline.environment import EpisodeBatch
from pipeline.errors import PipelineError
from pipeline.models.checkpointing import checkpointed
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.training.trainer import PolicyTrainer, in_parts
from tests.tiny import make_model, random_ids

LENGTHS = (3, 30, 0, 9, 4, 1, 12)
"""Of the tools' answers; the last episode has no token of the model."""

OPTIONS = {
    "ppo": [{}, {"entropy_coef": 0.1, "value_head_learning_rate": 1e-2}, {"baseline": "none"}],
    "grpo": [{"loss_type": kind, "beta": 0.1} for kind in ("grpo", "dapo", "dr_grpo", "bnpo")],
    "rloo": [{}],
}
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


def episodes(group_size: int) -> EpisodeBatch:
    """Eight; a minibatch of five leaves three."""
    prompt = random_ids(11, 0).tolist()
    sequences, masks = [], []
    for i, tool in enumerate((*LENGTHS, 5)):
        response = [True] * 3 + [False] * tool + [True] * (2 + i % 3)
        masks.append(response if i != len(LENGTHS) else [False] * len(response))
        question = random_ids(2 + i % 3, 10 + i).tolist()
        sequences.append(prompt + question + random_ids(len(response), 30 + i).tolist())
    return EpisodeBatch(
        sequences=sequences,
        prompt_lengths=[len(s) - len(m) for s, m in zip(sequences, masks)],
        masks=masks,
        rewards=[1.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.25, 0.0],
        truncated=[False, True] * 4,
        group_size=group_size,
    )


def trained(name, options, kind="llama", **limits):
    """The statistics of two steps, and the weights after them; plain gradient descent is linear in them."""
    algorithm = load_algorithm(name)
    groups = {"num_generations": 2} if name in ("grpo", "rloo") else {}
    config = algorithm.Config(mini_batch_size=5, epochs=2, **groups, **options)
    policy = CausalLMWithValueHead(make_model(kind))
    torch.nn.init.normal_(policy.v_head.weight, generator=torch.Generator().manual_seed(1))
    trainer = PolicyTrainer(
        algorithm(config),
        policy,
        make_model(kind, seed=3),
        torch.optim.SGD(policy.parameters(), lr=0.02),
        **limits,
    )
    stats = [trainer.step(episodes(algorithm(config).group_size)) for _ in range(2)]
    return stats, policy.state_dict()


def assert_same(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, weights in one[1].items():
        torch.testing.assert_close(weights, other[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_parts_of_a_minibatch_add_up(name, options):
    """Each episode by itself, a few together, one that is longer than what is allowed, and all at once."""
    whole = trained(name, options)
    for most in (1, 17):
        assert_same(trained(name, options, max_tokens=most), whole)
    same = trained(name, options, max_tokens=1000)
    assert same[0] == whole[0]
    assert all(torch.equal(x, whole[1][name]) for name, x in same[1].items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_what_is_computed_twice_is_the_same_twice(name, kind):
    """The prefix that all episodes share is still computed once for all of them."""
    once = trained(name, {}, kind)
    twice = trained(name, {}, kind, gradient_checkpointing=True)
    assert twice[0] == once[0]
    assert all(torch.equal(x, once[1][name]) for name, x in twice[1].items())
    assert_same(trained(name, {}, kind, gradient_checkpointing=True, max_tokens=17), once)


def test_checkpointing_keeps_less_for_the_backward_pass():
    """Of each layer what enters it, and no product within it."""

    def kept(**limits):
        sizes = []

        def note(x):
            sizes.append(x.numel())
            return x

        policy = CausalLMWithValueHead(make_model())
        algorithm = load_algorithm("ppo")
        trainer = PolicyTrainer(algorithm(algorithm.Config()), policy, make_model(), **limits)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            trainer.step(episodes(1))
        return sum(sizes)

    assert kept(gradient_checkpointing=True) < kept() / 2


def test_no_part_is_larger_than_allowed_but_for_a_single_episode():
    lengths = {3: 5, 1: 4, 0: 12, 2: 1, 4: 6, 5: 4}
    assert in_parts([3, 1, 0, 2, 4, 5], lengths, 10) == [[3, 1], [0], [2, 4], [5]]
    assert in_parts([0, 3], lengths, 1) == [[0], [3]]
    assert in_parts([5, 0], lengths, float("inf")) == [[5, 0]]


def test_a_model_without_layers_to_compute_twice_is_named():
    with (
        pytest.raises(PipelineError, match="models like Linear do not offer it"),
        checkpointed(torch.nn.Linear(2, 2)),
    ):
        pass


def test_a_model_is_as_it_was_after_checkpointing():
    model = make_model()
    before = copy.deepcopy(model)
    with checkpointed(model):
        pass
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in before.modules()]
