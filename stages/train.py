"""Trains a task by one of the algorithms, from one seed."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipeline.algorithms import NAMES
from pipeline.environment.environment import TaskEnvironment
from pipeline.files import model_bytes, read_json, require, require_room, sha256_of
from pipeline.models.fetch import SOURCE_FILE, Origin
from pipeline.models.lora import set_trained
from pipeline.models.policy import load_policy, save_model
from pipeline.models.sampling import TorchSampler
from pipeline.params import Params, load_params
from pipeline.tasks import load_task
from pipeline.training.run import train as train_policy
from pipeline.training.stability import Unstable
from pipeline.training.tracking import tracking
from pipeline.workspace import (
    BASE,
    WEIGHTS_FILE,
    checkpoint_path,
    checkpoint_stage,
    holds_model,
    live_path,
    problems_path,
    read_problems,
    read_setup,
    setup_files,
    training_path,
    weights_files,
)
from stages.common import outputs, run_stage, snapshot_of

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
"""Those that a result may depend on."""


def main(name: str, seed: int) -> None:
    """Writes the policy, its learning curve, and a record of what it was trained with."""
    params = load_params()
    # Opened first: a place that cannot be written is found before the training, not after.
    with outputs(
        checkpoint_path(name, f"rl-{seed}"),
        training_path(name, seed),
        inputs=lambda: inputs(load_params(), name, seed),
    ) as (policy, record):
        train(params, name, seed, policy, record, live_path(name, seed))


def inputs(params: Params, name: str, seed: int) -> dict[str, Any]:
    """What decides a training's outcome, but for the code."""
    algorithm = params.algorithm_of(name)
    return {
        "model": read_json(BASE / SOURCE_FILE, Origin, "fetch_model"),
        "seed": seed,
        name: params.task(name).model_dump(
            mode="json", exclude={"data": True, "train": set(NAMES)}
        ),
        params.train.algorithm: algorithm.config.model_dump(mode="json"),
        "lora": params.model.lora and params.model.lora.describe(),
        "machine": params.machine.describe(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "sha256": sha256_of(
            require(problems_path(name, "train"), f"prepare@{name}"),
            *setup_files(name),
            *weights_files(*_start(name)),
        ),
    }


def _start(name: str) -> tuple[Path, str]:
    """The folder of the policy that a training starts from, and the stage that makes it."""
    warm = require(checkpoint_path(name, "sft"), checkpoint_stage(name, "sft"))
    if holds_model(warm):
        return warm, checkpoint_stage(name, "sft")
    return require(BASE / WEIGHTS_FILE, "fetch_model").parent, "fetch_model"


def train(
    params: Params, name: str, seed: int, policy_folder: Path, training_folder: Path, live: Path
) -> None:
    """Trains as the params say, and writes both folders; `live` is where to watch it meanwhile."""
    section = params.task(name)
    task = load_task(name)
    problems = read_problems(name, "train", task.Row)
    prompt, resources = read_setup(name, task.resources)
    decisive = inputs(params, name, seed)
    start, made_by = _start(name)
    record = {**decisive, "code": code_revision()}
    if params.model.lora is None:  # an adapter is small
        require_room(policy_folder, model_bytes(start))
    policy, tokenizer = load_policy(start, made_by=made_by)
    precision = params.machine.resolve_precision()
    set_trained(policy.pretrained_model, params.model.lora, precision, seed, start)
    policy.to(params.machine.resolve_device())
    env = TaskEnvironment(
        TorchSampler(policy.pretrained_model, tokenizer),
        tokenizer,
        task,
        prompt,
        task.tools(section.tools, resources),
        section.environment,
    )
    snapshot = snapshot_of(f"train-{live.name}", decisive, params.snapshot_seconds)
    curve: list[dict[str, float]] = []
    with (
        tracking(params.tracking, live.name, live, record) as log,
        tqdm(total=section.train.steps, desc=f"train {name}, seed {seed}", unit="step") as bar,
    ):

        def on_step(stats: dict[str, float]) -> None:
            curve.append(stats)
            log(stats, int(stats["step"]))
            bar.set_postfix_str(
                f"reward {stats['env/reward_mean']:.2f}, KL {stats['objective/kl']:.2f}"
            )
            bar.update()

        try:
            train_policy(
                policy,
                env,
                problems,
                section.train,
                params.algorithm_of(name),
                params.machine,
                seed,
                on_step,
                snapshot,
            )
        except Unstable as stop:
            if stop.best_step == 0:
                raise  # there is no policy worth keeping
            tqdm.write(f"warning: stopped at {stop}; keeping the policy of step {stop.best_step}")
            record["stopped"] = {"at": str(stop)}
    best_step = curve[-1]["best_step"]
    if best_step and (section.train.keep == "best" or "stopped" in record):
        record["kept"] = {"policy that played step": best_step}
    save_model(policy, tokenizer, policy_folder)
    training_folder.mkdir()
    pd.DataFrame(curve).to_csv(training_folder / "curve.csv", index=False, float_format="%.6g")
    (training_folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def code_revision() -> dict[str, Any]:
    """The git commit that is checked out, and whether the code differs from it; None where git knows none."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = bool(git("status", "--porcelain", "--", "pipeline", "stages"))
        return {"revision": git("rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "changed": None}


if __name__ == "__main__":
    run_stage(main, task=str, seed=int)
