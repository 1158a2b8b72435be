"""Puts metrics, figures and the page together from what training and the analysis left."""

import json
from pathlib import Path

import pandas as pd

from pipeline.evaluation.evaluate import MODES
from pipeline.files import replacing
from pipeline.params import load_params
from pipeline.reporting.figures import episode_picture
from pipeline.reporting.report import COLUMNS, figures, render
from pipeline.reporting.results import TaskResults
from stages.common import REPORTS, run_stage
from stages.results import read_results


def main() -> None:
    """Writes reports/metrics.json, curves.csv, labels.csv, rates.csv, figures and index.html."""
    params = load_params()
    results = [read_results(Path(), task, params.seeds) for task in params.tasks]
    metrics = {result.name: result.metrics() for result in results}
    drawn = figures(results, COLUMNS)
    tables = {"curves": _curves(results), "labels": _labels(results), "rates": _rates(metrics)}
    page = render(results, COLUMNS, drawn)
    # Everything is computed before anything is replaced.
    with (
        replacing(REPORTS / "metrics.json") as new_metrics,
        replacing(REPORTS / "tables") as new_tables,
        replacing(REPORTS / "figures") as new_figures,
        replacing(REPORTS / "index.html") as new_page,
    ):
        new_metrics.write_text(json.dumps(metrics, indent=2) + "\n")
        new_tables.mkdir()
        for name, table in tables.items():
            table.to_csv(new_tables / f"{name}.csv", index=False, float_format="%.6g")
        new_figures.mkdir()
        for name, svg in {**drawn, **_episodes(results)}.items():
            (new_figures / f"{name}.svg").write_text(svg)
        new_page.write_text(page)
    for task, columns in metrics.items():
        for row, after in columns["after"].items():
            rates = ", ".join(
                f"{columns[column][row]['correct_rate']:.1%} {title}"
                for column, title in COLUMNS.items()
                if column in columns
            )
            print(f"{task}, {row}: correct {rates} (n = {after['n']})")


def _curves(results: list[TaskResults]) -> pd.DataFrame:
    """All trainings' statistics, one below the other."""
    return pd.concat(
        curve.assign(run=f"{result.name}-{seed}")
        for result in results
        for seed, curve in result.curves["after"].items()
    )


def _labels(results: list[TaskResults]) -> pd.DataFrame:
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


def _rates(metrics: dict) -> pd.DataFrame:
    """Correct rates, by task, row of the report and model."""
    return pd.DataFrame(
        {"task": task, "row": row, "model": COLUMNS[column], **rate}
        for task, columns in metrics.items()
        for column, rows in columns.items()
        for row, rate in rows.items()
    )


def _episodes(results: list[TaskResults]) -> dict[str, str]:
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


if __name__ == "__main__":
    run_stage(main)
