"""Advantages against numbers worked out by hand."""

import pytest
import torch

from pipeline.algorithms.ppo.advantages import gae, gae_walk, token_rewards


def episode(tool_tokens, call_tokens=3, answer_tokens=5):
    """A winning episode: call, tool answer, model's answer; V = .5 everywhere, reward 1 at the end."""
    mask = torch.tensor([[1] * call_tokens + [0] * tool_tokens + [1] * answer_tokens]).bool()
    rewards = torch.zeros(mask.shape)
    rewards[0, -1] = 1.0
    return rewards, torch.full(mask.shape, 0.5), mask


def test_by_hand():
    # gamma .9, lambda .8; model tokens in columns 0, 1 and 4.
    mask = torch.tensor([[1, 1, 0, 0, 1, 0]]).bool()
    rewards = torch.tensor([[0.1, -0.2, 9.0, 9.0, 1.0, 9.0]])
    values = torch.tensor([[0.4, 0.3, 7.0, 7.0, 0.6, 7.0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    a3 = 1.0 - 0.6
    a2 = -0.2 + 0.9 * 0.6 - 0.3 + 0.72 * a3
    a1 = 0.1 + 0.9 * 0.3 - 0.4 + 0.72 * a2
    torch.testing.assert_close(advantages, torch.tensor([[a1, a2, 0, 0, a3, 0]]))
    torch.testing.assert_close(returns, torch.tensor([[a1 + 0.4, a2 + 0.3, 0, 0, 1.0, 0]]))


@pytest.mark.parametrize("tool_tokens", [0, 5, 20, 100])
def test_the_length_of_a_tools_answer_changes_no_advantage(tool_tokens):
    advantages, _ = gae(*episode(tool_tokens), gamma=1.0, lam=0.95)
    # .5 at the last token, decayed over the five answer tokens between.
    assert advantages[0, 2].item() == pytest.approx(0.5 * 0.95**5, abs=1e-6)
    assert advantages[0, 2].item() == pytest.approx(0.387, abs=5e-4)


@pytest.mark.parametrize(("tool_tokens", "advantage"), [(0, 0.387), (20, -0.182), (100, -0.495)])
def test_walking_punishes_a_call_that_won(tool_tokens, advantage):
    """TRL 0.11.4's numbers, kept for comparison."""
    advantages, _ = gae_walk(*episode(tool_tokens), gamma=1.0, lam=0.95)
    assert advantages[0, 2].item() == pytest.approx(advantage, abs=5e-4)


def test_without_tool_tokens_walking_and_skipping_agree():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 9, generator=generator) for _ in range(2))
    mask = torch.arange(9) < torch.tensor([[9], [5], [1], [0]])
    for here, there in zip(
        gae(rewards, values, mask, 0.97, 0.9), gae_walk(rewards, values, mask, 0.97, 0.9)
    ):
        torch.testing.assert_close(here, there)


def test_without_a_baseline_or_decay_walking_and_skipping_agree():
    """Why the studies have no arm that walks on word problems."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(2, (4, 9), generator=generator).bool()
    rewards = torch.where(mask, torch.randn(4, 9, generator=generator), 0.0)
    settings = (rewards, torch.zeros(4, 9), mask, 1.0, 1.0)
    for here, there in zip(gae(*settings), gae_walk(*settings)):
        torch.testing.assert_close(here, there)


def test_a_truncated_episode_goes_on_at_its_bootstrap_value():
    mask = torch.tensor([[1, 1], [1, 1]]).bool()
    values = torch.full((2, 2), 0.5)
    advantages, _ = gae(
        torch.zeros(2, 2), values, mask, 0.9, 1.0, bootstrap=torch.tensor([0.0, 0.5])
    )
    assert advantages[:, 1].tolist() == pytest.approx([-0.5, 0.9 * 0.5 - 0.5])
    assert advantages[:, 0].tolist() == pytest.approx(
        [0.9 * 0.5 - 0.5 + 0.9 * -0.5, 0.9 * 0.5 - 0.5 + 0.9 * (0.9 * 0.5 - 0.5)]
    )


def test_nan_at_a_tools_tokens_spreads_nowhere():
    rewards, values, mask = episode(5)
    expected = gae(rewards, values, mask, 1.0, 0.95)
    rewards[~mask] = values[~mask] = float("nan")
    for here, there in zip(gae(rewards, values, mask, 1.0, 0.95), expected):
        torch.testing.assert_close(here, there)


def test_an_episode_without_model_tokens():
    mask = torch.zeros(1, 4).bool()
    for x in gae(torch.ones(1, 4), torch.ones(1, 4), mask, 1.0, 0.95):
        assert x.tolist() == [[0, 0, 0, 0]]
    assert token_rewards(torch.ones(1), torch.ones(1, 4), mask, 0.1).tolist() == [[0, 0, 0, 0]]


def test_the_score_falls_on_the_last_model_token():
    mask = torch.tensor([[0, 1, 1, 0, 1, 0, 0]]).bool()
    kl = torch.tensor([[5.0, 1.0, 2.0, float("nan"), -1.0, 5.0, 5.0]])
    rewards = token_rewards(torch.tensor([1.0]), kl, mask, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[0, -0.1, -0.2, 0, 1.1, 0, 0]]))
