"""The small tables in reports/tables, the README's table, and the pictures of episodes."""

import itertools
from collections.abc import Mapping

import pandas as pd

from pipeline.evaluation.evaluate import MODES
from pipeline.reporting.figures import episode_picture
from pipeline.reporting.report import COLUMNS
from pipeline.reporting.results import TaskResults
from pipeline.tasks import load_task


def curves_table(results: list[TaskResults]) -> pd.DataFrame:
    """All trainings' statistics, one below the other."""
    return pd.concat(
        curve.assign(run=f"{result.name}-{seed}")
        for result in results
        for seed, curve in result.curves["rl"].items()
    )


def labels_table(results: list[TaskResults]) -> pd.DataFrame:
    """The share of episodes that have a label, by task, mode and checkpoint."""
    return pd.DataFrame(
        {
            "task": result.name,
            "mode": mode,
            "checkpoint": checkpoint,
            "label": label,
            "share": share,
        }
        for result in results
        for mode in MODES
        for checkpoint, shares in result.label_shares(mode).items()
        for label, share in shares.items()
    )


def accuracy_table(metrics: dict) -> pd.DataFrame:
    """Accuracies by task, row of the report and checkpoint."""
    return pd.DataFrame(
        {"task": task, "row": row, "checkpoint": checkpoint, **accuracy}
        for task, columns in metrics.items()
        for checkpoint, rows in columns.items()
        for row, accuracy in rows.items()
    )


def results_markdown(metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """The table of accuracies for the README: a row each task and subset, a column each checkpoint and mode.

    Args:
        metrics: as in reports/metrics.json, by task, checkpoint and row of `accuracies`.

    Returns:
        lines of Markdown. A cell has accuracy and 95% interval in percent. It is empty where there is no
        such checkpoint.
    """
    columns = [
        (checkpoint, mode) for checkpoint in COLUMNS for mode in sorted(MODES)
    ]  # greedy, sampled
    lines = [
        ["task", *(f"{checkpoint}, {mode}" for checkpoint, mode in columns)],
        ["---", *("---:" for _ in columns)],
    ]
    for task, checkpoints in metrics.items():
        for subset in dict.fromkeys(
            row.rpartition(" ")[0] for rows in checkpoints.values() for row in rows
        ):
            title = ", ".join(filter(None, (f"`{task}`", subset)))
            cells = [
                _percent(checkpoints.get(checkpoint, {}).get(f"{subset} {mode}".strip()))
                for checkpoint, mode in columns
            ]
            lines.append([f"{title} (built in)" if load_task(task).built_in else title, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(accuracy: Mapping[str, float] | None) -> str:
    if accuracy is None:
        return ""
    value, low, high = (100 * accuracy[key] for key in ("accuracy", "low", "high"))
    return f"{value:.0f}% ({low:.0f}–{high:.0f})"


def episode_pictures(results: list[TaskResults]) -> dict[str, str]:
    """Pictures by name, `<task>-<checkpoint>`: of each task an episode that the training put right, with
    the checkpoint that it started from and with the one that it ended in."""
    pictures = {}
    for result in results:
        fixed = (pair for pair in result.shown_pairs() if pair["change"] == "fixed")
        for pair in itertools.islice(fixed, 1):
            for checkpoint, side in zip(result.compared, ("first", "second"), strict=True):
                parts = [(s["author"], s["text"]) for s in pair[side]["segments"]]
                parts.insert(0, ("prompt", f"{pair[side]['question']}\n"))
                parts.append(("reward", f"\nReward: {pair[side]['reward']:g}"))
                name = f"{result.name}-{checkpoint}"
                pictures[name] = episode_picture(parts, COLUMNS[checkpoint])
    return pictures
