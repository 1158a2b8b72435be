import math

import pytest
import torch

from pipeline.training.stability import BestPolicy, instability


def play(model, steps):
    """Rewards of steps one after the other, by policies whose bias is the step's number."""
    best = BestPolicy(model)
    for step, rewards in enumerate(steps, 1):
        model.bias.data.fill_(step)
        best.rolled_out(step, rewards)
    model.bias.data.fill_(99)
    return best


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([0.1, 0.2, 0.3, 0.4], 4),
        ([0.5, 0.9, 0.8, 0.6, 0.1], 4),  # means from step 3 on: .733, .767, .5
        (
            [1.0, 0.0, 0.0, 0.4, 0.4],
            3,
        ),  # a lucky step alone is not enough to last: .333, .133, .267
        ([0.5, 0.5, 0.5, 0.5], 4),  # of equals the last
        ([0.9, 0.1], 99),  # too few steps to tell: the last policy stays
    ],
)
def test_the_best_policy_is_the_one_that_played_when_three_steps_did_best(rewards, kept):
    model = torch.nn.Linear(1, 1)
    best = play(model, [[reward, reward] for reward in rewards])
    best.restore()
    assert model.bias.item() == kept
    assert best.step == (kept if kept < 99 else 0)


def curve(rewards, entropies=None, **last):
    entropies = entropies or [0.5] * len(rewards)
    steps = [
        {"env/reward_mean": reward, "objective/token_entropy": entropy, "objective/kl": 0.1}
        for reward, entropy in zip(rewards, entropies, strict=True)
    ]
    steps[-1] |= last
    return steps


def test_a_statistic_that_is_not_finite_stops_at_once():
    assert instability(curve([0.1]), 32) is None
    broken = curve([0.1], **{"objective/kl": math.nan, "ppo/loss/total": math.inf})
    assert instability(broken, 32) == "step 1: objective/kl, ppo/loss/total not a finite number"


@pytest.mark.parametrize(
    ("rewards", "episodes", "collapsed"),
    [
        ([0.9, 0.9, 0.9, 0.0, 0.0, 0.0], 32, True),  # from .9 to 0
        ([0.9, 0.9, 0.9, 0.5, 0.4, 0.4], 32, True),  # .9 to .433, below half, .467 > .289
        ([0.9, 0.9, 0.9, 0.5, 0.5, 0.4], 32, False),  # .467 is more than half of .9
        ([0.9, 0.9, 0.9, 0.0], 32, False),  # a bad step alone: .6
        ([0.2, 0.2, 0.2, 0.0, 0.0, 0.0], 32, False),  # .2 is within 4 standard errors, .289
        ([0.2, 0.2, 0.2, 0.0, 0.0, 0.0], 128, True),  # but not of as many episodes, .144
        ([0.9, 0.0], 32, False),  # too few steps to tell
        ([0.0, 0.0, 0.0, 0.9, 0.9, 0.9], 32, False),  # learning
    ],
)
def test_a_reward_that_collapses_stops(rewards, episodes, collapsed):
    reason = instability(curve(rewards), episodes)
    assert (reason is not None) == collapsed
    if collapsed:
        assert f"step {len(rewards)}: the mean reward has collapsed from" in reason


@pytest.mark.parametrize(
    ("reward", "entropies", "collapsed"),
    [
        (0.3, [0.5, 1e-4, 1e-4, 1e-4], True),
        (0.95, [0.5, 1e-4, 1e-4, 1e-4], False),  # sure of itself, and right
        (0.3, [0.5, 0.1, 1e-4, 1e-4], False),  # mean .03
    ],
)
def test_an_entropy_that_collapses_stops_unless_the_task_is_mastered(reward, entropies, collapsed):
    reason = instability(curve([reward] * 4, entropies), 32)
    assert (reason is not None) == collapsed
    if collapsed:
        assert "step 4: the entropy has collapsed to 0.0001 nats per token" in reason
