"""Reads what the stages left of a task, for the report and for comparisons."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import require
from pipeline.reporting.results import TaskResults, columns_of
from pipeline.tasks import load_task
from stages.common import analysis_path, read_table, setup_path, training_path


def read_results(root: Path, task: str, seeds: Sequence[int]) -> TaskResults:
    """What the report shows of a task, from the project or a copy of its data in the folder `root`."""
    made_by = f"analyse@{task}"
    episodes = read_table(require(root / analysis_path(task), made_by), made_by)
    columns = columns_of(episodes)
    if absent := sorted(set(seeds) - set(columns.get("after", {}))):
        raise PipelineError(
            f"{root / analysis_path(task)} has no episodes of seed {absent[0]}: "
            f"run `dvc repro {made_by}`"
        )
    runs = {
        seed: require(root / training_path(task, seed), f"train@{task}-{seed}") for seed in seeds
    }
    prompt = require(root / setup_path(task), f"demonstrate@{task}") / "prompt.txt"
    return TaskResults(
        name=task,
        columns={**columns, "after": {seed: columns["after"][seed] for seed in seeds}},
        curves={"after": {seed: pd.read_csv(run / "curve.csv") for seed, run in runs.items()}},
        records={
            "after": {
                seed: json.loads((run / "record.json").read_text()) for seed, run in runs.items()
            }
        },
        prompt=prompt.read_text(),
        find=load_task(task).find,
    )
