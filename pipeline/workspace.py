"""Where each stage's outputs lie, and reading them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from pipeline.errors import PipelineError
from pipeline.files import broken, check, read_json, read_jsonl, read_text, read_yaml, require

if TYPE_CHECKING:
    import pandas as pd

BASE = Path("data/models/base")
"""The model that every task starts from."""

WEIGHTS_FILE = "model.safetensors"
"""In the folder of a model, its weights. Without it a folder holds no model."""


DOCUMENTS = Path("data/wiki/documents.jsonl.gz")


INDEX = Path("data/wiki/index")


INDEX_RECORD = Path("data/wiki/index.json")


class IndexRecord(BaseModel):
    """What is needed of an index's record."""

    folder: str
    documents: int


RESOURCES = {"index": (INDEX_RECORD, "build_index", IndexRecord)}
"""What stages make for tasks' tools, by the name in `Task.resources`: its record, the stage, and what the
record must have."""


SNAPSHOTS = Path("data/snapshots")


STUDIES = "studies/dvc.yaml"
"""Whose stages make the runs."""


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


EPISODE_COLUMNS = [
    "checkpoint",
    "training_seed",
    "sampling_seed",
    "weights_sha256",
    "mode",
    "id",
    "question",
    "answer",
    "aliases",
    "kind",
    "subset",
    "reward",
    "end_reason",
    "tool_calls",
    "prompt_tokens",
    "model_tokens",
    "tool_tokens",
    "segments",
    "calls",
]
"""What every table of episodes has. Further columns are the task's measures and, after the analysis, `label`
and what the task diagnoses."""


CURVE_COLUMNS = ["step", "episodes", "best_step", "env/reward_mean", "objective/kl"]
"""What every learning curve has, all of them numbers."""


class ProblemRow(BaseModel):
    """What every problem of a task has. Each task may have further fields."""

    model_config = ConfigDict(extra="allow")
    id: str
    question: str
    answer: str
    aliases: list[str] = []
    kind: str | None = None
    subset: str = ""


class CallRow(BaseModel):
    """A call in a demonstration."""

    model_config = ConfigDict(extra="forbid")
    tool: str
    argument: str
    output: str


class DemonstrationRow(BaseModel):
    """A demonstration as a line of JSON."""

    model_config = ConfigDict(extra="forbid")
    question: str
    calls: list[CallRow]
    result: str
    guess: str


class TrainingRecord(BaseModel):
    """What is needed of record.json, which says more."""

    machine: dict[str, Any]
    code: dict[str, Any]
    stopped: dict[str, Any] = {}


class SetupRecord(BaseModel):
    """What is needed of tools.json."""

    resources: dict[str, dict[str, Any]]


def problems_path(task: str, split: str) -> Path:
    return Path("data/tasks") / task / f"{split}.jsonl"


def setup_path(task: str) -> Path:
    """What every episode of the task begins with and calls: a folder of shots.jsonl and tools.json.

    The text of prompt.txt in it is what people read.
    """
    return Path("data/setup") / task


def setup_files(task: str) -> tuple[Path, Path]:
    """Its shots.jsonl and tools.json. Raises PipelineError if one is not there yet."""
    folder, made_by = setup_path(task), f"demonstrate@{task}"
    return require(folder / "shots.jsonl", made_by), require(folder / "tools.json", made_by)


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


def read_problems(task: str, split: str, row: type[ProblemRow]) -> list[dict[str, Any]]:
    """A task's problems, each of which must be a `row`. Raises PipelineError, also if there are none."""
    path, made_by = problems_path(task, split), f"prepare@{task}"
    problems = read_jsonl(path, row, made_by)
    if not problems:
        raise broken(path, "no problems in it", made_by)
    return problems


def read_demonstrations(task: str) -> list[dict[str, Any]]:
    """A task's demonstrations, each as a `DemonstrationRow`."""
    return read_jsonl(demonstrations_path(task), DemonstrationRow, f"demonstrate@{task}")


def read_prompt(task: str, root: Path = Path()) -> str:
    """The task's few-shot prompt, from the project or a copy of its data in the folder `root`."""
    made_by = f"demonstrate@{task}"
    return read_text(require(root / setup_path(task), made_by) / "prompt.txt", made_by)


def read_shots(task: str) -> list[dict[str, Any]]:
    """The demonstrations of the task's few-shot prompt, each as a `DemonstrationRow`; at least one."""
    path, made_by = setup_files(task)[0], f"demonstrate@{task}"
    shots = read_jsonl(path, DemonstrationRow, made_by)
    if not shots:
        raise broken(path, "no demonstrations in it", made_by)
    return shots


def read_resources(names: Sequence[str]) -> dict[str, Any]:
    """The records of what a task's tools need. Raises PipelineError for one that is not there yet."""
    records = {}
    for name in names:
        path, made_by, kind = RESOURCES[name]
        records[name] = read_json(path, kind, made_by)
    return records


def read_setup(task: str, needed: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `read_shots` returns, and the records of what the task's tools need, by name.

    Raises PipelineError, also if there is no record of something `needed`.
    """
    shots, made_by = read_shots(task), f"demonstrate@{task}"
    file = setup_path(task) / "tools.json"
    resources = read_json(file, SetupRecord, made_by)["resources"]
    for name in needed:
        if name not in resources:
            raise broken(file, f"resources.{name}: field required", made_by)
        check(
            resources[name], TypeAdapter(RESOURCES[name][2]), f"{file}: resources.{name}", made_by
        )
    return shots, resources


def read_table(path: Path, columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """A Parquet file with at least these columns, or with no rows.

    Raises PipelineError, naming the stage that makes it, if it cannot be read or lacks one.
    """
    import pandas as pd  # half a second, which most stages do not need

    try:
        table = pd.read_parquet(require(path, made_by))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(
            f"{path} cannot be read as a table ({reason}): remove it and run `dvc repro {made_by}`"
        ) from error
    if not table.empty:
        _require_columns(table, columns, path, made_by)
    return table


def read_csv(
    path: Path, columns: Sequence[str], numbers: Sequence[str], made_by: str, **options: Any
) -> pd.DataFrame:
    """A table as text, with at least one row, these columns, and those of `numbers`, which hold such.

    `options` go to pandas. Raises PipelineError, naming the stage that makes it, if it is anything else
    or was cut off.
    """
    import io

    import pandas as pd

    text = read_text(path, made_by)
    if not text.endswith("\n"):
        raise broken(path, "cut off in the midst of a line", made_by)
    try:
        table = pd.read_csv(io.StringIO(text), **options)
    except ValueError as error:
        raise broken(path, f"cannot be read as a table ({error})", made_by) from error
    _require_columns(table, [*columns, *numbers], path, made_by)
    if table.empty:
        raise broken(path, "no rows in it", made_by)
    for column in numbers:
        wrong = table[column].notna() & pd.to_numeric(table[column], errors="coerce").isna()
        if wrong.any():
            line = 2 + int(wrong.to_numpy().argmax())
            raise broken(f"{path}:{line}", f"{column}: not a number", made_by)
    return table


def read_training(folder: Path, made_by: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The learning curve and the record of a training. Raises PipelineError if one of them is broken."""
    curve = read_csv(require(folder, made_by) / "curve.csv", (), CURVE_COLUMNS, made_by)
    return curve, read_json(folder / "record.json", TrainingRecord, made_by)


def read_run(folder: Path) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Curve, record and episodes of a study's run. Raises PipelineError if one of them is broken."""
    curve, record = read_training(folder, STUDIES)
    episodes = read_csv(
        folder / "episodes.csv", STUDY_COLUMNS, ("reward",), STUDIES, keep_default_na=False
    )
    return curve, record, episodes


def _require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path, made_by: str) -> None:
    if absent := [column for column in columns if column not in table.columns]:
        raise broken(path, f"no column {absent[0]!r}", made_by)


def read_arms() -> dict[str, dict[str, Any]]:
    """What each arm of the studies changes of the params. Raises PipelineError if that cannot be read."""
    arms = read_yaml(ARMS)
    if not isinstance(arms, dict) or not all(isinstance(each, dict) for each in arms.values()):
        raise PipelineError(f"{ARMS}: expected `arm: {{key: value}}`, as in the committed file")
    return arms


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
