"""Labels a task's episodes: what went wrong in each."""

from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.evaluation.analysis import analyse
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.workspace import (
    EPISODE_COLUMNS,
    analysis_path,
    episodes_path,
    episodes_stage,
    read_setup,
    read_table,
)
from stages.common import outputs, run_stage


def main(name: str) -> None:
    """Writes data/analysis/<task>.parquet: the episodes of all checkpoints, one row each."""

    def inputs() -> dict[str, Any]:
        params = load_params()
        return {"seeds": params.seeds, "tools": params.task(name).tools.model_dump(mode="json")}

    params = load_params()
    with outputs(analysis_path(name), inputs=inputs) as (beside,):
        checkpoints = ["base", "sft", *(f"rl-{seed}" for seed in params.seeds)]
        tables = {}
        for checkpoint in checkpoints:
            path, stage = episodes_path(name, checkpoint), episodes_stage(name, checkpoint)
            tables[checkpoint] = read_table(path, EPISODE_COLUMNS, stage)
            if (
                tables[checkpoint].empty and checkpoint != "sft"
            ):  # that is empty without a warm start
                raise PipelineError(
                    f"{path} holds no episodes: run `dvc repro --single-item --force {stage}`"
                )
        task = load_task(name)
        _, resources = read_setup(name, task.resources)
        tools = task.tools(params.task(name).tools, resources)
        together = pd.concat([t for t in tables.values() if not t.empty], ignore_index=True)
        analysed = analyse(together, task, tools)
        analysed.to_parquet(beside, index=False)
    wrong = analysed[(analysed["checkpoint"] == "rl") & (analysed["reward"] == 0)]
    print(f"{name}: {len(analysed)} episodes; wrong after training, of both modes and all seeds:")
    print(wrong["label"].value_counts().to_string(header=False) if len(wrong) else "none")


if __name__ == "__main__":
    run_stage(main, task=str)
