"""Puts metrics, figures and the page together from what training and evaluation left."""

import json

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import replacing, require
from pipeline.params import load_params
from pipeline.reporting.figures import correct_rates, episode_picture, learning_curves
from pipeline.reporting.report import COLUMNS, TaskResults, render
from stages.common import REPORTS, episodes_path, run_stage, training_path


def main() -> None:
    """Writes reports/metrics.json, curves.csv, figures and index.html."""
    params = load_params()
    results = [_read(task, params.seeds) for task in params.tasks]
    metrics = {result.name: result.metrics() for result in results}
    curves = pd.concat(
        curve.assign(run=f"{result.name}-{seed}")
        for result in results
        for seed, curve in result.curves.items()
    )
    drawn = {result.name: learning_curves(result.curves) for result in results}
    overview = correct_rates(metrics, COLUMNS)
    page = render(results, overview, drawn)
    curve_files = {f"{name}-curve": svg for name, svg in drawn.items()}
    pictures = {"rates": overview, **curve_files, **_episodes(results)}
    # Everything is computed before anything is replaced.
    with (
        replacing(REPORTS / "metrics.json") as new_metrics,
        replacing(REPORTS / "curves.csv") as new_curves,
        replacing(REPORTS / "figures") as new_figures,
        replacing(REPORTS / "index.html") as new_page,
    ):
        new_metrics.write_text(json.dumps(metrics, indent=2) + "\n")
        curves.to_csv(new_curves, index=False)
        new_figures.mkdir()
        for name, svg in pictures.items():
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


def _episodes(results: list[TaskResults]) -> dict[str, str]:
    """Pictures by name: an episode of each task before and after training, one that it fixed."""
    pictures = {}
    for result in results:
        for pair in result.examples()["fixed"][:1]:
            for when in ("before", "after"):
                parts = [(s["author"], s["text"]) for s in pair[when]["segments"]]
                parts.insert(0, ("prompt", f"{pair['question']}\n"))
                parts.append(("reward", f"\nReward: {pair[when]['reward']:g}"))
                pictures[f"{result.name}-{when}"] = episode_picture(parts, f"{when} PPO")
    return pictures


def _read(task: str, seeds: list[int]) -> TaskResults:
    runs = {seed: require(training_path(task, seed), f"train@{task}-{seed}") for seed in seeds}
    records = {seed: json.loads((run / "record.json").read_text()) for seed, run in runs.items()}
    warmed = records[seeds[0]][task]["warm_start"]["steps"] > 0
    return TaskResults(
        name=task,
        before=_read_episodes(task, "before", f"evaluate_before@{task}"),
        warm_start=(
            _read_episodes(task, "warm_start", f"evaluate_warm_start@{task}") if warmed else None
        ),
        after={
            seed: _read_episodes(task, f"after-{seed}", f"evaluate_after@{task}-{seed}")
            for seed in seeds
        },
        curves={seed: pd.read_csv(run / "curve.csv") for seed, run in runs.items()},
        records=records,
    )


def _read_episodes(task: str, when: str, made_by: str) -> pd.DataFrame:
    path = episodes_path(task, when)
    try:
        table = pd.read_parquet(require(path, made_by))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"{path} cannot be read as a table of episodes ({error}): "
            f"remove it and run `dvc repro {made_by}`"
        ) from error
    if table.empty:
        raise PipelineError(f"{path} holds no episodes: run `dvc repro --force {made_by}`")
    return table


if __name__ == "__main__":
    run_stage(main)
