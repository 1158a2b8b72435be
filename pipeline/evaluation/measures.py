"""The measures as `evaluate.Metric` classes, for use on their own.

    >>> ExactMatch().compute(predictions=["The Beatles!"], references=[["Beatles", "Fab Four"]])
    {'mean': 1.0, 'low': 0.2065, 'high': 1.0, 'n': 1}

`mean` comes with a 95% interval: Wilson's where each item is right or wrong, else the percentile
bootstrap's. Nothing is loaded from the hub.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from pipeline import answers
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.metrics import accuracy

Summary = dict[str, float]


class _Measure(evaluate.Metric):
    """What all share: features and the summary of the items' values."""

    schema: ClassVar[dict[str, Any]]
    takes: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=self.takes,
            features=datasets.Features(self.schema),
        )


class Accuracy(_Measure):
    """The share of episodes whose answer is right."""

    schema: ClassVar[dict[str, Any]] = {"predictions": datasets.Value("float64")}
    takes = "predictions: rewards, each 1 or 0"

    def _compute(self, predictions: list[float]) -> Summary:
        return _share(predictions)


class _TextMeasure(_Measure):
    """The mean of a measure of texts, each against the answers that count as right."""

    schema: ClassVar[dict[str, Any]] = {
        "predictions": datasets.Value("string"),
        "references": datasets.List(datasets.Value("string")),
    }
    takes = "predictions: texts; references: for each the list of answers that count as right"

    def _compute(self, predictions: list[str], references: list[list[str]]) -> Summary:
        return _share(self._values(predictions, references))

    def _values(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        return [self._value(p, r) for p, r in zip(predictions, references, strict=True)]

    @abstractmethod
    def _value(self, text: str, right: Sequence[str]) -> float:
        """The measure of one text."""


class ContainsAnswer(_TextMeasure):
    """The share of texts that hold an answer, as whole words after normalization."""

    def _value(self, text: str, right: Sequence[str]) -> float:
        return answers.contains(text, right)


class AnswerInFirstWords(_TextMeasure):
    """The share of texts that hold an answer in their first 20 words (Toolformer's criterion)."""

    def _value(self, text: str, right: Sequence[str]) -> float:
        return answers.contains_early(text, right)


class ExactMatch(_TextMeasure):
    """The share of texts that are an answer, after normalization."""

    def _value(self, text: str, right: Sequence[str]) -> float:
        return answers.exact_match(text, right)


class NumericMatch(_TextMeasure):
    """The share of texts that are the number of one of the answers."""

    def _value(self, text: str, right: Sequence[str]) -> float:
        return max(answers.numeric_match(text, answer) for answer in right)


class F1(_TextMeasure):
    """The mean F1 of texts' and answers' words, the best of each text's answers, as SQuAD counts it."""

    def _value(self, text: str, right: Sequence[str]) -> float:
        return answers.f1(text, right)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> Summary:
        values = self._values(predictions, references)
        low, high = bootstrap(values)
        return {
            "mean": round(float(np.mean(values)), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "n": len(values),
        }


def _share(values: Sequence[float]) -> Summary:
    found = accuracy([values])
    return {"mean": found["accuracy"], **{key: found[key] for key in ("low", "high", "n")}}
