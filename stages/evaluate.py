"""Plays a task's test problems with the pretrained, the warm-started or a trained model."""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.environment.environment import TaskEnvironment
from pipeline.evaluation.evaluate import MODES, evaluate
from pipeline.files import replacing, require, sha256
from pipeline.models.policy import WEIGHTS_FILE, load_policy
from pipeline.models.sampling import TorchSampler
from pipeline.params import Params, load_params
from pipeline.tasks import load_task
from pipeline.workspace import (
    PRETRAINED,
    episodes_path,
    policy_path,
    problems_path,
    read_jsonl,
    read_setup,
    start_path,
)
from stages.common import run_stage


def main(task: str, when: str) -> None:
    """Writes data/episodes/<task>/<when>.parquet; `when` is "before", "warm_start" or
    "after-<seed>". Without a warm start, the second table is empty."""
    params = load_params()
    seed = None
    if when == "before":
        folder = require(PRETRAINED, "fetch_model")
    elif when == "warm_start":
        folder = require(start_path(task), f"warm_start@{task}")
        if not (folder / WEIGHTS_FILE).exists():
            with replacing(episodes_path(task, when)) as beside:
                pd.DataFrame().to_parquet(beside)
            return
    else:
        seed = int(when.removeprefix("after-"))
        folder = require(policy_path(task, seed), f"train@{task}-{seed}")
    table = play(params, task, folder, when, seed)
    with replacing(episodes_path(task, when)) as beside:
        table.to_parquet(beside, index=False)


def play(params: Params, task: str, model: Path, when: str, seed: int | None) -> pd.DataFrame:
    """The episodes of the model in a folder, trained from `seed`, if it was.

    Each seed's policy is sampled from a seed of its own: else all would draw the same numbers, and the
    luck of those draws would look like a property of the recipe, in the mean over seeds and its interval.
    """
    section = params.task(task)
    settings = params.evaluation.model_copy(update={"seed": params.evaluation.seed + (seed or 0)})
    problems = read_jsonl(problems_path(task, "test"), f"prepare@{task}")
    policy, tokenizer = load_policy(model, params.machine.resolve_device())
    prompt, resources = read_setup(task)
    played = load_task(task)
    tools = played.tools(section.tools, resources)
    environments = {
        mode: TaskEnvironment(
            TorchSampler(policy.pretrained_model, tokenizer, do_sample=mode == "sampled"),
            tokenizer,
            played,
            prompt,
            tools,
            section.environment,
        )
        for mode in MODES
    }
    batches = evaluate(environments, problems, settings, params.machine)
    rows: list[dict] = []
    with tqdm(total=len(MODES) * len(problems), desc=f"evaluate {task}, {when}") as bar:
        for batch in batches:
            rows += batch
            recent = [row["reward"] for row in rows if row["mode"] == batch[0]["mode"]]
            bar.set_postfix_str(f"{batch[0]['mode']} correct {sum(recent) / len(recent):.2f}")
            bar.update(len(batch))
    source = {
        "when": when.partition("-")[0],
        "training_seed": seed,
        "sampling_seed": settings.seed,
        "checkpoint": sha256(model / WEIGHTS_FILE),
    }
    return pd.DataFrame({**source, **row} for row in rows).astype({"training_seed": "Int64"})


if __name__ == "__main__":
    run_stage(main, task=str, when=str)
