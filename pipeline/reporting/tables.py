"""The small tables in reports/tables, and the pictures of episodes."""

import pandas as pd

from pipeline.evaluation.evaluate import MODES
from pipeline.reporting.figures import episode_picture
from pipeline.reporting.report import COLUMNS
from pipeline.reporting.results import TaskResults


def curves_table(results: list[TaskResults]) -> pd.DataFrame:
    """All trainings' statistics, one below the other."""
    return pd.concat(
        curve.assign(run=f"{result.name}-{seed}")
        for result in results
        for seed, curve in result.curves["after"].items()
    )


def labels_table(results: list[TaskResults]) -> pd.DataFrame:
    """The share of episodes that have a label, by task, mode and model."""
    return pd.DataFrame(
        {
            "task": result.name,
            "mode": mode,
            "model": COLUMNS[str(column)],
            "label": label,
            "share": share,
        }
        for result in results
        for mode in MODES
        for column, shares in result.label_shares(mode).items()
        for label, share in shares.items()
    )


def rates_table(metrics: dict) -> pd.DataFrame:
    """Correct rates, by task, row of the report and model."""
    return pd.DataFrame(
        {"task": task, "row": row, "model": COLUMNS[column], **rate}
        for task, columns in metrics.items()
        for column, rows in columns.items()
        for row, rate in rows.items()
    )


def episode_pictures(results: list[TaskResults]) -> dict[str, str]:
    """Pictures by name: an episode of each task before and after training, one that it fixed."""
    pictures = {}
    for result in results:
        for pair in result.shown_pairs():
            if pair["change"] == "fixed" and f"{result.name}-before" not in pictures:
                for when, side in (("before", "first"), ("after", "second")):
                    parts = [(s["author"], s["text"]) for s in pair[side]["segments"]]
                    parts.insert(0, ("prompt", f"{pair[side]['question']}\n"))
                    parts.append(("reward", f"\nReward: {pair[side]['reward']:g}"))
                    pictures[f"{result.name}-{when}"] = episode_picture(parts, f"{when} training")
    return pictures
