"""Rolls out a checkpoint on its task's test problems."""

from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipeline.environment.environment import TaskEnvironment
from pipeline.environment.limits import check_limits
from pipeline.evaluation.evaluate import MODES, evaluate
from pipeline.files import require, sha256, sha256_of
from pipeline.lifetime import is_main
from pipeline.models import processes
from pipeline.params import Params, load_params
from pipeline.tasks import load_task, read_demonstration
from pipeline.workspace import (
    checkpoint_path,
    checkpoint_stage,
    episodes_path,
    holds_model,
    problems_path,
    read_problems,
    read_setup,
    seed_of,
    setup_files,
    weights_files,
)
from stages.common import outputs, run_launched, snapshot_of


def main(name: str, checkpoint: str) -> None:
    """Writes data/episodes/<task>/<checkpoint>.parquet; `checkpoint` is "base", "sft" or "rl-<seed>".
    Without a warm start, the table of "sft" is empty."""
    model = require(checkpoint_path(name, checkpoint), checkpoint_stage(name, checkpoint))
    empty = checkpoint == "sft" and not holds_model(model)
    params = load_params()
    if not empty:
        processes.join(params.machine.resolve_device() == "cpu")
    with outputs(
        episodes_path(name, checkpoint),
        inputs=lambda: {} if empty else inputs(load_params(), name, model, checkpoint),
    ) as (beside,):
        run = f"{name}-{checkpoint}"
        table = pd.DataFrame() if empty else roll_out(params, name, model, checkpoint, run)
        if is_main():
            table.to_parquet(beside, index=False)


def inputs(params: Params, name: str, model: Path, checkpoint: str) -> dict[str, Any]:
    """What decides an evaluation's outcome, but for the code."""
    section = params.task(name)
    return {
        "checkpoint": checkpoint,
        "evaluation": params.evaluation.model_dump(mode="json"),
        name: section.model_dump(mode="json", include={"environment", "tools"}),
        "machine": {**params.machine.describe(), "processes": processes.count()},
        "sha256": sha256_of(
            require(problems_path(name, "test"), f"prepare@{name}"),
            *setup_files(name),
            *weights_files(model, checkpoint_stage(name, checkpoint)),
        ),
    }


def roll_out(params: Params, name: str, model: Path, checkpoint: str, run: str) -> pd.DataFrame:
    """The episodes of the model in a folder, which is the checkpoint "base", "sft" or "rl-<seed>".

    `run` names the evaluation among all.

    Each seed's policy is sampled from a seed of its own: else all would draw the same numbers, and the
    luck of those draws would look like a property of the recipe, in the mean over seeds and its interval.
    """
    # Seconds, which a task without a warm start does not wait for.
    from pipeline.models.policy import load_policy
    from pipeline.models.sampling import TorchSampler

    seed = seed_of(checkpoint)
    section = params.task(name)
    settings = params.evaluation.model_copy(update={"seed": params.evaluation.seed + (seed or 0)})
    task = load_task(name)
    problems = read_problems(name, "test", task.Row)
    shots, resources = read_setup(name, task.resources)
    processes.require_work(min(settings.batch_size, len(problems)), "evaluation.batch_size")
    made_by = checkpoint_stage(name, checkpoint)
    policy, tokenizer = load_policy(model, params.machine.resolve_device(), made_by)
    tools = task.tools(section.tools, resources)
    shown = [read_demonstration(shot) for shot in shots]
    environments = {
        mode: TaskEnvironment(
            TorchSampler(policy.pretrained_model, tokenizer, do_sample=mode == "sampled"),
            tokenizer,
            task,
            shown,
            tools,
            section.environment,
        )
        for mode in MODES
    }
    check_limits(environments["greedy"], shown)
    source = {
        "checkpoint": checkpoint.partition("-")[0],
        "training_seed": seed,
        "sampling_seed": settings.seed,
        "weights_sha256": sha256(weights_files(model, made_by)[0]),
    }
    decisive = inputs(params, name, model, checkpoint)
    snapshot = snapshot_of(f"evaluate-{run}", decisive, params.snapshot_seconds)
    rows: list[dict] = []
    rewards = dict.fromkeys(MODES, 0.0)
    count = dict.fromkeys(MODES, 0)
    with tqdm(
        total=len(MODES) * len(problems),
        desc=f"evaluate {name}, {checkpoint}",
        disable=not is_main(),
    ) as bar:

        def on_batch(batch: list[dict]) -> None:
            rows.extend(batch)
            mode = batch[0]["mode"]
            rewards[mode] += sum(row["reward"] for row in batch)
            count[mode] += len(batch)
            bar.set_postfix_str(f"{mode} accuracy {rewards[mode] / count[mode]:.1%}")
            bar.update(len(batch))

        evaluate(environments, problems, settings, params.machine, on_batch, snapshot)
    return pd.DataFrame({**source, **row} for row in rows).astype({"training_seed": "Int64"})


if __name__ == "__main__":
    run_launched(main, task=str, checkpoint=str)
