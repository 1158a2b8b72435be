"""Where each stage's outputs lie, and reading them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.files import require

if TYPE_CHECKING:
    import pandas as pd

BASE = Path("data/models/base")
"""The model that every task starts from."""

WEIGHTS_FILE = "model.safetensors"
"""In the folder of a model, its weights. Without it a folder holds no model."""


DOCUMENTS = Path("data/wiki/documents.jsonl.gz")


INDEX = Path("data/wiki/index")


INDEX_RECORD = Path("data/wiki/index.json")


RESOURCES = {"index": (INDEX_RECORD, "build_index")}
"""What stages make for tasks' tools, by the name in `Task.resources`: its record, and the stage."""


SNAPSHOTS = Path("data/snapshots")


REPORTS = Path("reports")


ARMS = Path("studies/arms.yaml")


RUNS = Path("studies/runs")


STUDY_COLUMNS = [
    "id",
    "mode",
    "subset",
    "reward",
    "label",
    "end_reason",
    "tool_calls",
    "model_tokens",
    "tool_tokens",
]
"""What is kept of the episodes of a study's runs, in git."""


def problems_path(task: str, split: str) -> Path:
    return Path("data/tasks") / task / f"{split}.jsonl"


def setup_path(task: str) -> Path:
    """What every episode of the task begins with and calls: a folder of prompt.txt and tools.json."""
    return Path("data/setup") / task


def demonstrations_path(task: str) -> Path:
    return Path("data/demonstrations") / f"{task}.jsonl"


def seed_of(checkpoint: str) -> int | None:
    """The training's seed of the checkpoint "rl-<seed>"; None for "base" and "sft".

    Raises PipelineError for any other name.
    """
    if checkpoint in ("base", "sft"):
        return None
    kind, _, seed = checkpoint.partition("-")
    if kind != "rl" or not seed.isdigit():
        raise PipelineError(f"no checkpoint {checkpoint!r}; there is base, sft and rl-<seed>")
    return int(seed)


def checkpoint_path(task: str, checkpoint: str) -> Path:
    """The folder of a model: "base", "sft" after the task's warm start, or "rl-<seed>" after its training.

    Where the task has no warm start, that of "sft" is without `WEIGHTS_FILE`.
    """
    return BASE if checkpoint == "base" else BASE.parent / f"{task}-{checkpoint}"


def checkpoint_stage(task: str, checkpoint: str) -> str:
    """The stage that writes the folder of a model."""
    seed = seed_of(checkpoint)
    if seed is not None:
        return f"train@{task}-{seed}"
    return "fetch_model" if checkpoint == "base" else f"warm_start@{task}"


def training_path(task: str, seed: int) -> Path:
    """The folder of a training's curve.csv and record.json."""
    return Path("data/training") / f"{task}-{seed}"


def live_path(task: str, seed: int) -> Path:
    """Where to watch a training while it runs; no output of the pipeline."""
    return Path("live") / f"{task}-{seed}"


def snapshot_path(run: str) -> Path:
    """The state of a training, a warm start or an evaluation that was stopped."""
    return SNAPSHOTS / f"{run}.pt"


def lock_path(run: str) -> Path:
    """What a process holds while it does something that no other may do at the same time."""
    return Path("data/locks") / f"{run}.lock"


def episodes_path(task: str, checkpoint: str) -> Path:
    """The episodes of a checkpoint, "base", "sft" or "rl-<seed>", on the task's test problems."""
    return Path("data/episodes") / task / f"{checkpoint}.parquet"


def episodes_stage(task: str, checkpoint: str) -> str:
    """The stage that writes them."""
    seed = seed_of(checkpoint)
    return f"evaluate_{checkpoint}@{task}" if seed is None else f"evaluate_rl@{task}-{seed}"


def analysis_path(task: str) -> Path:
    """The episodes of all checkpoints with their labels."""
    return Path("data/analysis") / f"{task}.parquet"


def run_path(task: str, arm: str, seed: int) -> Path:
    """The folder of a study's run: curve.csv and record.json of its training, and episodes.csv."""
    return RUNS / f"{task}-{arm}-{seed}"


def read_table(path: Path, made_by: str) -> pd.DataFrame:
    """A Parquet file. Raises PipelineError, naming the stage that makes it, if it cannot be read."""
    import pandas as pd  # half a second, which most stages do not need

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"{path} cannot be read as a table ({error}): remove it and run `dvc repro {made_by}`"
        ) from error


def read_resources(names: Sequence[str]) -> dict[str, Any]:
    """The records of what a task's tools need. Raises PipelineError for one that is not there yet."""
    return {name: json.loads(require(*RESOURCES[name]).read_text()) for name in names}


def read_setup(task: str) -> tuple[str, dict[str, Any]]:
    """The task's few-shot prompt, and what its tools need."""
    folder = require(setup_path(task), f"demonstrate@{task}")
    tools = json.loads((folder / "tools.json").read_text())
    return (folder / "prompt.txt").read_text(), tools["resources"]


def read_jsonl(path: Path, made_by: str) -> list[dict[str, Any]]:
    """A file's rows. Raises PipelineError that names file and line if one is not JSON."""
    rows = []
    with require(path, made_by).open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise PipelineError(f"{path}:{number}: not JSON: {error.msg}") from None
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
