import pytest

from pipeline.evaluation.measures import (
    F1,
    Accuracy,
    AnswerInFirstWords,
    ContainsAnswer,
    ExactMatch,
    NumericMatch,
)


def test_accuracy_has_wilsons_interval():
    # By hand in test_metrics.py: 8 of 10.
    summary = Accuracy().compute(predictions=[1.0] * 8 + [0.0] * 2)
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
