import pytest

from pipeline.evaluation.measures import (
    F1,
    AnswerInFirstWords,
    ContainsAnswer,
    CorrectRate,
    ExactMatch,
    NumericMatch,
    mean_interval,
)


def test_rates_have_wilson_intervals():
    # By hand in test_metrics.py: 8 of 10.
    summary = CorrectRate().compute(predictions=[1.0] * 8 + [0.0] * 2)
    assert summary == {"mean": 0.8, "low": 0.4902, "high": 0.9433, "n": 10}


@pytest.mark.parametrize(
    ("metric", "text", "right", "mean"),
    [
        (ContainsAnswer, "It was the Beatles, I think", ["Fab Four", "Beatles"], 1),
        (ContainsAnswer, "It was the Stones", ["Beatles"], 0),
        (AnswerInFirstWords, "word " * 19 + "Beatles", ["Beatles"], 1),
        (AnswerInFirstWords, "word " * 20 + "Beatles", ["Beatles"], 0),
        (ExactMatch, "The Beatles!", ["Beatles"], 1),
        (ExactMatch, "The Beatles of Liverpool", ["Beatles"], 0),
        (NumericMatch, "$1,250.0", ["7", "1250"], 1),
        (NumericMatch, "1251", ["1250"], 0),
        (F1, "black cat", ["the cat"], 2 / 3),
    ],
)
def test_measures(metric, text, right, mean):
    summary = metric().compute(predictions=[text], references=[right])
    assert summary["mean"] == pytest.approx(mean, abs=1e-4)
    assert summary["n"] == 1


def test_batches_add_up():
    metric = ExactMatch()
    metric.add_batch(predictions=["a b", "c"], references=[["a b"], ["d"]])
    metric.add(prediction="e", reference=["e", "f"])
    assert metric.compute()["mean"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_bootstrap_interval_is_about_the_normal_one_and_the_same_every_time():
    values = [i / 400 for i in range(401)]  # mean .5, standard deviation .289, error .01445
    low, high = mean_interval(values)
    assert (low, high) == (pytest.approx(0.4717, abs=2e-3), pytest.approx(0.5283, abs=2e-3))
    assert mean_interval(values) == (low, high)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
