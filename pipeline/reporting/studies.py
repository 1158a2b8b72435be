"""What studies found: each arm's accuracy over its seeds, and how it differs from the default's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.evaluate import MODES
from pipeline.evaluation.intervals import welch
from pipeline.evaluation.metrics import accuracies
from pipeline.reporting.figures import learning_curves
from pipeline.reporting.report import inline, templates

DEFAULT = "default"
"""The arm that the others are compared with."""

TARGET = 0.95
"""The accuracy that a seed should reach: then the task counts as learned."""


@dataclass(frozen=True)
class StudyRun:
    """One training of an arm from one seed, and the test episodes of what it led to."""

    curve: pd.DataFrame  # a row each step
    record: Mapping[str, Any]
    episodes: pd.DataFrame  # with at least mode, subset, reward

    def accuracy(self, mode: str) -> float:
        """On the problems that are like those of the training."""
        chosen = (self.episodes["mode"] == mode) & (self.episodes["subset"] == "")
        return float(self.episodes.loc[chosen, "reward"].mean())


Arms = Mapping[str, Mapping[int, StudyRun]]
"""A task's runs, by arm and seed."""


def summarize(arms: Arms) -> dict[str, dict[str, Any]]:
    """For each arm of a task: `seeds`, `accuracies` (as in metrics.json), `reached` (how many seeds'
    accuracy is at least `TARGET`, by mode), `stopped` (how many were), `kl` (the last step's, nats per
    episode, mean over seeds), `episodes` (of a training), and `difference` (of the sampled accuracy from
    the default arm's; None there)."""
    found = {}
    for arm, runs in arms.items():
        found[arm] = {
            "seeds": sorted(runs),
            "accuracies": accuracies([run.episodes for run in runs.values()], []),
            "reached": {
                mode: sum(run.accuracy(mode) >= TARGET for run in runs.values()) for mode in MODES
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
        first, second: an accuracy for each seed.

    Returns:
        None where a side has one seed only, or all are equal, and there is no spread to go by.
    """
    if min(len(first), len(second)) < 2 or np.ptp([*first, *second]) == 0:
        return None
    (low, high), p = welch(first, second)
    return {
        "mean": round(float(np.mean(second) - np.mean(first)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "p": float(f"{p:.2g}"),
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
        templates()
        .get_template("studies.html")
        .render(
            summaries=summaries,
            tasks=tasks,
            changes=changes,
            target=TARGET,
            figure=lambda name: inline(drawn[name]),
        )
    )


def _sampled(runs: Mapping[int, StudyRun]) -> list[float]:
    return [run.accuracy("sampled") for run in runs.values()]
