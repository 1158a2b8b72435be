"""Puts metrics, figures and the page together from what training and the analysis left."""

import json
from pathlib import Path
from typing import Any

from pipeline.params import load_params
from pipeline.reporting.report import COLUMNS, figures, render
from pipeline.reporting.results import read_results
from pipeline.reporting.tables import accuracy_table, curves_table, episode_pictures, labels_table
from pipeline.workspace import REPORTS
from stages.common import outputs, run_stage


def main() -> None:
    """Writes reports/metrics.json, the tables, the figures and index.html."""

    def inputs() -> dict[str, Any]:
        return load_params().model_dump(mode="json", include={"tasks", "seeds"})

    names = ("metrics.json", "tables", "figures", "index.html")
    with outputs(*(REPORTS / name for name in names), inputs=inputs) as new:
        new_metrics, new_tables, new_figures, new_page = new
        params = load_params()
        results = [read_results(Path(), task, params.seeds) for task in params.tasks]
        metrics = {result.name: result.metrics() for result in results}
        drawn = figures(results, COLUMNS)
        tables = {
            "curves": curves_table(results),
            "labels": labels_table(results),
            "accuracy": accuracy_table(metrics),
        }
        page = render(results, COLUMNS, drawn)
        new_metrics.write_text(json.dumps(metrics, indent=2) + "\n")
        new_tables.mkdir()
        for name, table in tables.items():
            table.to_csv(new_tables / f"{name}.csv", index=False, float_format="%.6g")
        new_figures.mkdir()
        for name, svg in {**drawn, **episode_pictures(results)}.items():
            (new_figures / f"{name}.svg").write_text(svg)
        new_page.write_text(page)
    for task, columns in metrics.items():
        for row, rl in columns["rl"].items():
            accuracies = ", ".join(
                f"{columns[checkpoint][row]['accuracy']:.1%} {title}"
                for checkpoint, title in COLUMNS.items()
                if checkpoint in columns
            )
            print(f"{task}, {row}: accuracy {accuracies} (n = {rl['n']})")


if __name__ == "__main__":
    run_stage(main)
