"""Correct rates with their intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.evaluate import MODES

CONFIDENCE = 0.95


def correct_rate(rewards_by_seed: Sequence[Sequence[float]]) -> dict[str, float]:
    """The share of correct episodes and its 95% interval.

    For one seed this is the Wilson interval. With several, seeds differ by more than chance in the
    episodes: then it spans both the Wilson interval of all episodes and Student's t interval over the
    seeds' rates.

    Args:
        rewards_by_seed: for each seed its episodes' rewards, 1 for correct and 0 for not.
    """
    rewards = [reward for seed in rewards_by_seed for reward in seed]
    correct = round(sum(rewards))
    wilson = stats.binomtest(correct, len(rewards)).proportion_ci(CONFIDENCE, method="wilson")
    low, high = wilson.low, wilson.high
    if len(rewards_by_seed) > 1:
        rates = [float(np.mean(seed)) for seed in rewards_by_seed]
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(rates) - 1) * stats.sem(rates)
        low = max(0.0, min(low, float(np.mean(rates) - half)))
        high = min(1.0, max(high, float(np.mean(rates) + half)))
    return {
        "correct_rate": round(correct / len(rewards), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(rewards),
    }


def rates(tables: Sequence[pd.DataFrame], measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Correct rates of the episode tables of one or several seeds, "sampled" and "greedy".

    Subsets of the test are reported apart, as "unseen sampled" and so on. `measures` names further
    columns; their means are added to each of the rates.
    """
    found = {}
    for subset in sorted(set(tables[0]["subset"])):
        for mode in MODES:
            chosen = [t[(t["mode"] == mode) & (t["subset"] == subset)] for t in tables]
            together = pd.concat(chosen)
            found[f"{subset} {mode}".strip()] = correct_rate(
                [table["reward"].tolist() for table in chosen]
            ) | {measure: round(float(together[measure].mean()), 4) for measure in measures}
    return found
