import math

import pytest
import torch

from pipeline.algorithms.ppo.value_loss import value_loss
from pipeline.training.loss import masked_mean, masked_var, policy_loss, whiten

MASK = torch.tensor([[True, False, True], [True, True, False]])


def test_masked_moments_by_hand():
    x = torch.tensor([[1.0, float("nan"), 2.0], [3.0, 6.0, float("inf")]])
    assert masked_mean(x, MASK).item() == 3.0
    assert masked_var(x, MASK).item() == pytest.approx((4 + 1 + 0 + 9) / 3)
    nothing = torch.zeros_like(MASK)
    assert masked_mean(x, nothing).item() == masked_var(x, nothing).item() == 0
    assert masked_var(torch.tensor([5.0]), torch.tensor([True])).item() == 0


def test_whiten():
    x = torch.tensor([[1.0, 100.0, 2.0], [3.0, 6.0, -100.0]])
    white = whiten(x, MASK)
    assert masked_mean(white, MASK).item() == pytest.approx(0, abs=1e-6)
    assert masked_var(white, MASK).item() == pytest.approx(1, abs=1e-4)
    assert white[~MASK].tolist() == [0, 0]


def test_scaled_without_a_shift():
    x = torch.tensor([[1.0, float("nan"), 2.0], [3.0, 6.0, -100.0]])
    scaled = whiten(x, MASK, shift=False)
    # The mean square is (1 + 4 + 9 + 36) / 4 = 12.5.
    assert scaled[MASK].tolist() == pytest.approx([n / 12.5**0.5 for n in (1, 2, 3, 6)])
    assert scaled[~MASK].tolist() == [0, 0]
    alike = whiten(torch.ones(MASK.shape), MASK, shift=False)
    assert alike[MASK].tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0),
        (1.5, 2.0, -2.4, 1),  # gains beyond 1.2 do not count
        (0.5, 2.0, -1.0, 0),
        (1.5, -2.0, 3.0, 0),  # losses always do
        (0.5, -2.0, 1.6, 1),
    ],
)
def test_policy_loss_by_hand(ratio, advantage, loss, clipped):
    result = policy_loss(
        torch.tensor([[math.log(ratio)]]),
        torch.zeros(1, 1),
        torch.tensor([[advantage]]),
        torch.ones(1, 1).bool(),
        cliprange=0.2,
    )
    assert result.loss.item() == pytest.approx(loss)
    assert result.clipfrac.item() == clipped
    assert result.mean_ratio.item() == pytest.approx(ratio)
    assert result.policykl.item() == pytest.approx(-math.log(ratio))


@pytest.mark.parametrize(
    ("value", "loss", "clipped"),
    [
        (0.6, 0.4**2 / 2, 0),
        (0.9, 0.3**2 / 2, 1),  # from .5 it may move to .7 only
        (0.0, 1.0 / 2, 0),
    ],
)
def test_value_loss_by_hand(value, loss, clipped):
    result, clipfrac = value_loss(
        torch.tensor([[value]]),
        torch.tensor([[0.5]]),
        torch.tensor([[1.0]]),
        torch.ones(1, 1).bool(),
        cliprange=0.2,
    )
    assert result.item() == pytest.approx(loss)
    assert clipfrac.item() == clipped


def test_what_lies_outside_the_mask_has_no_gradient():
    old = torch.zeros(2, 3)
    old[~MASK] = float("nan")
    logprobs = torch.full((2, 3), 0.1, requires_grad=True)
    values = torch.full((2, 3), 0.1, requires_grad=True)
    targets = torch.where(MASK, 1.0, float("nan"))
    policy_loss(logprobs, old, targets, MASK, 0.2).loss.backward()
    value_loss(values, old, targets, MASK, 0.2)[0].backward()
    for x in (logprobs, values):
        assert x.grad[~MASK].tolist() == [0, 0]
        assert (x.grad[MASK] != 0).all()
