"""What is drawn is a function of its place."""

from collections import Counter

import numpy as np
import pytest

from pipeline.chance import DEMONSTRATIONS, PROBLEMS, Place, epochs, number_of, shuffled


def test_a_turns_numbers_do_not_depend_on_how_many_are_asked_for():
    place = Place(seed=1, step=2, episode=3, turn=1)
    assert place.uniforms(50)[:7].tolist() == place.uniforms(7).tolist()


@pytest.mark.parametrize(
    "other", [Place(2, 2, 3, 1), Place(1, 3, 3, 1), Place(1, 2, 2**64 - 1, 1), Place(1, 2, 3, 2)]
)
def test_every_part_of_a_place_counts(other):
    here = Place(1, 2, 3, 1)
    assert not set(here.uniforms(50).tolist()) & set(other.uniforms(50).tolist())


def test_the_numbers_are_uniform_over_places():
    """First numbers of many episodes, and numbers of one turn: mean 1/2, variance 1/12."""
    first = np.array([Place(0, 0, episode).uniforms(1)[0] for episode in range(4000)])
    for numbers in (first, Place(0, 0, 0).uniforms(4000)):
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert numbers.mean() == pytest.approx(0.5, abs=4 * 12**-0.5 / 4000**0.5)
        assert numbers.var() == pytest.approx(1 / 12, rel=0.06)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / 4000**0.5


def test_an_order_is_a_function_of_seed_and_place():
    assert sorted(shuffled(9, PROBLEMS, 1, 0)) == list(range(9))
    orders = {tuple(shuffled(9, PROBLEMS, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert shuffled(9, PROBLEMS, 1, 5) == shuffled(9, PROBLEMS, 1, 5)
    assert shuffled(9, PROBLEMS, 1, 5) != shuffled(9, DEMONSTRATIONS, 1, 5)


def test_every_item_comes_once_in_each_epoch():
    stream = epochs(5, range(15), PROBLEMS, seed=3)
    assert [Counter(stream[start : start + 5]) for start in (0, 5, 10)] == [Counter(range(5))] * 3
    # A step's items do not depend on the steps before.
    assert epochs(5, range(7, 11), PROBLEMS, seed=3) == stream[7:11]


def test_a_problems_number_is_the_same_everywhere():
    assert number_of("13.1-3") == number_of("13.1-3") != number_of("13.1-4")
    assert 0 <= number_of("é") < 2**64
