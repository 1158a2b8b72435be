import pytest

from pipeline.evaluation.intervals import bootstrap


def test_the_bootstrap_interval_is_about_the_normal_one_and_the_same_every_time():
    values = [i / 400 for i in range(401)]  # mean .5, standard deviation .289, error .01445
    low, high = bootstrap(values)
    assert (low, high) == (pytest.approx(0.4717, abs=2e-3), pytest.approx(0.5283, abs=2e-3))
    assert bootstrap(values) == (low, high)
    assert bootstrap([0.5, 0.5]) == (0.5, 0.5)
