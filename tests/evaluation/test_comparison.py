import random

import pytest

from pipeline.evaluation.comparison import PairedComparison


def test_items_are_paired_whatever_their_order():
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0, "e": 0.0}
    second = {"e": 1.0, "d": 1.0, "c": 0.0, "b": 0.0, "a": 1.0}
    compared = PairedComparison.of(first, second)
    assert compared == PairedComparison(both=1, only_first=1, only_second=2, neither=1)
    assert (compared.n, compared.difference) == (5, pytest.approx(0.2))


def test_different_items_cannot_be_compared():
    with pytest.raises(ValueError, match="different items, 2 of them in one only: 'a'"):
        PairedComparison.of({"a": 1.0, "c": 1.0}, {"b": 1.0, "c": 1.0})


def test_mcnemars_exact_test_by_hand():
    # Of six changes all for the better: 2 * (1/2)^6. Of six, five: 2 * (6 + 1) / 2^6.
    assert PairedComparison(10, 0, 6, 4).p_value == pytest.approx(2 / 64)
    assert PairedComparison(10, 1, 5, 4).p_value == pytest.approx(14 / 64)
    assert PairedComparison(10, 3, 3, 4).p_value == 1
    assert PairedComparison(10, 0, 0, 4).p_value == 1


def test_the_interval_by_hand():
    # n = 102, gained = 20.5, lost = 10.5: middle 10/102, half 1.95996 sqrt(31/102 - (10/102)^2)/sqrt(102)
    low, high = PairedComparison(50, 10, 20, 20).interval
    assert (low, high) == (pytest.approx(-0.00724, abs=1e-5), pytest.approx(0.20332, abs=1e-5))


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says():
    rng = random.Random(1)
    held = 0
    for _ in range(2000):
        outcomes = rng.choices(range(4), weights=(0.5, 0.1, 0.25, 0.15), k=80)
        low, high = PairedComparison(*(outcomes.count(i) for i in range(4))).interval
        held += low <= 0.15 <= high
    assert 0.935 < held / 2000 < 0.97
