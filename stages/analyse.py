"""Labels a task's episodes: what went wrong in each."""

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.evaluation.analysis import analyse
from pipeline.files import replacing, require
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.workspace import analysis_path, episodes_path, read_setup, read_table
from stages.common import run_stage


def main(task: str) -> None:
    """Writes data/analysis/<task>.parquet: the episodes of all models, one row each."""
    params = load_params()
    made_by = {
        "before": f"evaluate_before@{task}",
        "warm_start": f"evaluate_warm_start@{task}",
        **{f"after-{seed}": f"evaluate_after@{task}-{seed}" for seed in params.seeds},
    }
    tables = {
        when: read_table(require(episodes_path(task, when), stage), stage)
        for when, stage in made_by.items()
    }
    for when, table in tables.items():
        if table.empty and when != "warm_start":  # that is empty where there was none
            raise PipelineError(
                f"{episodes_path(task, when)} holds no episodes: "
                f"run `dvc repro --single-item --force {made_by[when]}`"
            )
    played = load_task(task)
    _, resources = read_setup(task)
    tools = played.tools(params.task(task).tools, resources)
    together = pd.concat([t for t in tables.values() if not t.empty], ignore_index=True)
    analysed = analyse(together, played, tools)
    with replacing(analysis_path(task)) as beside:
        analysed.to_parquet(beside, index=False)
    wrong = analysed[(analysed["when"] == "after") & (analysed["reward"] == 0)]
    print(f"{task}: {len(analysed)} episodes; wrong after training, of both modes and all seeds:")
    print(wrong["label"].value_counts().to_string(header=False) if len(wrong) else "none")


if __name__ == "__main__":
    run_stage(main, task=str)
