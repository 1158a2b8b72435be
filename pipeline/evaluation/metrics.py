"""Accuracy, the share of episodes whose answer is right, with its interval."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.evaluate import MODES
from pipeline.evaluation.intervals import student, wilson

EXACT_MATCH = "exact_match"
"""The measure that shows whether the reward pays for more than the answer."""

PAID_INEXACT = "paid_inexact"
"""The share of episodes with reward 1 whose exact match is 0."""


def accuracy(rewards_by_seed: Sequence[Sequence[float]]) -> dict[str, float]:
    """`accuracy`, the share of right episodes, its 95% interval from `low` to `high`, and `n`, their number.

    For one seed this is the Wilson interval. With several, seeds differ by more than chance in the
    episodes: then it spans both the Wilson interval of all episodes and Student's t interval over the
    seeds' accuracies.

    Args:
        rewards_by_seed: for each seed its episodes' rewards, 1 for right and 0 for wrong.
    """
    rewards = [reward for seed in rewards_by_seed for reward in seed]
    right = round(sum(rewards))
    low, high = wilson(right, len(rewards))
    if len(rewards_by_seed) > 1:
        seeds = [float(np.mean(seed)) for seed in rewards_by_seed]
        lowest, highest = student(float(np.mean(seeds)), float(stats.sem(seeds)), len(seeds))
        low, high = max(0.0, min(low, lowest)), min(1.0, max(high, highest))
    return {
        "accuracy": round(right / len(rewards), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(rewards),
    }


def parts(table: pd.DataFrame, groups: Sequence[str]) -> list[str]:
    """The subsets of the test, "" for one without a name, and the groups that have problems."""
    return [*sorted(set(table["subset"])), *(group for group in groups if table[group].any())]


def in_part(
    table: pd.DataFrame, part: str, groups: Sequence[str], suffix: str = ""
) -> "pd.Series[bool]":
    """Which rows are of a subset or group; `suffix` ends the names of the columns."""
    if part in groups:
        return table[part + suffix].astype(bool)
    return table["subset" + suffix] == part


def accuracies(
    tables: Sequence[pd.DataFrame], measures: Sequence[str], groups: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """The accuracy of the episode tables of one or several seeds, by row: "sampled" and "greedy".

    Subsets of the test have rows of their own, "unseen sampled" and so on, and so have `groups`, columns
    that say whether a problem is in one. Groups without problems are left out. `measures` names further
    columns; their means stand beside each accuracy. If one of them is the exact match, `PAID_INEXACT`
    stands there too, unless nothing was paid.
    """
    found = {}
    for subset in parts(tables[0], groups):
        for mode in MODES:
            chosen = [t[(t["mode"] == mode) & in_part(t, subset, groups)] for t in tables]
            together = pd.concat(chosen)
            row = f"{subset} {mode}".strip()
            found[row] = accuracy([table["reward"].tolist() for table in chosen]) | {
                measure: round(float(together[measure].mean()), 4) for measure in measures
            }
            paid = together[together["reward"] == 1]
            if EXACT_MATCH in measures and len(paid):
                inexact = paid[EXACT_MATCH] == 0
                found[row][PAID_INEXACT] = round(float(inexact.mean()), 4)
    return found
