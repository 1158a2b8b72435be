"""95% intervals, all there are: of shares, of means, and of differences."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

Interval = tuple[float, float]


def wilson(successes: int, n: int) -> Interval:
    """Wilson's interval of the share of `successes` in `n` independent trials."""
    found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def student(mean: Any, error: Any, n: int) -> tuple[Any, Any]:
    """Student's t interval of a mean of `n` values, or of many such means side by side.

    Args:
        mean: a number, or a series of them.
        error: the standard error of each.
    """
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    return mean - half, mean + half


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile bootstrap's interval of the mean; values that are all alike have no spread."""
    if len(set(values)) == 1:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=seed
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_difference(lost: int, gained: int, n: int) -> Interval:
    """The interval of the difference of two shares of the same n items.

    It is Wald's, with half an item added to each of the four counts: Agresti and Min 2005, "Simple improved
    confidence intervals for comparing matched proportions", https://doi.org/10.1002/sim.1781.

    Args:
        lost: how many items only the first has.
        gained: how many only the second has.
    """
    n, more, fewer = n + 2, gained + 0.5, lost + 0.5
    middle = (more - fewer) / n
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    half = z * math.sqrt((more + fewer) / n - middle**2) / math.sqrt(n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[Interval, float]:
    """Welch's interval of the second's mean less the first's, and his test's p-value.

    Both need at least two values, and not all of them may be alike.
    """
    test = stats.ttest_ind(second, first, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return (float(low), float(high)), float(test.pvalue)
