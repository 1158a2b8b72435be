"""What studies found: the rates of each arm over its seeds, and how they differ from the default's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.evaluate import MODES
from pipeline.evaluation.metrics import CONFIDENCE, rates
from pipeline.reporting.figures import learning_curves
from pipeline.reporting.report import environment, inline

DEFAULT = "default"
"""The arm that the others are compared with."""

MASTERED = 0.95
"""The correct rate that counts as having learned the task."""


@dataclass(frozen=True)
class Run:
    """One training of an arm from one seed, and the test problems played with what it led to."""

    curve: pd.DataFrame  # a row each step
    record: Mapping[str, Any]
    episodes: pd.DataFrame  # with at least mode, subset, reward

    def correct_rate(self, mode: str) -> float:
        """On the problems that are like those of the training."""
        chosen = (self.episodes["mode"] == mode) & (self.episodes["subset"] == "")
        return float(self.episodes.loc[chosen, "reward"].mean())


Arms = Mapping[str, Mapping[int, Run]]
"""A task's runs, by arm and seed."""


def summarize(arms: Arms) -> dict[str, dict[str, Any]]:
    """For each arm of a task: `seeds`, `rates` (as in metrics.json), `mastered` (how many seeds'
    rate reached `MASTERED`, by mode), `stopped` (how many were), `kl` (the last step's, nats per
    episode, mean over seeds), `episodes` (of a training), and `difference` (of the sampled rate from
    the default arm's; None there)."""
    found = {}
    for arm, runs in arms.items():
        found[arm] = {
            "seeds": sorted(runs),
            "rates": rates([run.episodes for run in runs.values()], []),
            "mastered": {
                mode: sum(run.correct_rate(mode) >= MASTERED for run in runs.values())
                for mode in MODES
            },
            "stopped": sum("stopped" in run.record for run in runs.values()),
            "kl": round(
                float(np.mean([run.curve["objective/kl"].iloc[-1] for run in runs.values()])), 3
            ),
            "episodes": max(int(run.curve["episodes"].iloc[-1]) for run in runs.values()),
            "difference": difference(_sampled(arms[DEFAULT]), _sampled(runs))
            if arm != DEFAULT and DEFAULT in arms
            else None,
        }
    return found


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float] | None:
    """The mean of the second less that of the first, with Welch's 95% interval and p value.

    Args:
        first, second: a rate for each seed.

    Returns:
        None where a side has one seed only, or all are equal, and there is no spread to go by.
    """
    if min(len(first), len(second)) < 2 or np.ptp([*first, *second]) == 0:
        return None
    test = stats.ttest_ind(second, first, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return {
        "mean": round(float(np.mean(second) - np.mean(first)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "p": float(f"{test.pvalue:.2g}"),
    }


def figures(tasks: Mapping[str, Arms]) -> dict[str, str]:
    """Learning curves of each task as SVG files, by name: a mean with its band for each arm."""
    return {
        f"{task}-curves": learning_curves(
            {arm: {seed: run.curve for seed, run in runs.items()} for arm, runs in arms.items()}
        )
        for task, arms in tasks.items()
    }


def render(
    tasks: Mapping[str, Arms],
    summaries: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, str],
) -> str:
    """The page's HTML.

    Args:
        summaries: what `summarize` returns of each task.
        changes: the params that an arm changes, by arm.
        drawn: the figures.
    """
    return (
        environment()
        .get_template("studies.html")
        .render(
            summaries=summaries,
            tasks=tasks,
            changes=changes,
            mastered=MASTERED,
            figure=lambda name: inline(drawn[name]),
        )
    )


def _sampled(runs: Mapping[int, Run]) -> list[float]:
    return [run.correct_rate("sampled") for run in runs.values()]
