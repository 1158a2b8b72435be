"""What all stage scripts share: where things lie, and errors told in one line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from pipeline.errors import PipelineError
from pipeline.files import replacing, require

PRETRAINED = Path("data/models/pretrained")
REPORTS = Path("reports")


def problems_path(task: str, split: str) -> Path:
    return Path("data/tasks") / task / f"{split}.jsonl"


def policy_path(task: str, seed: int | str) -> Path:
    return Path("data/models") / f"{task}-{seed}"


def training_path(task: str, seed: int) -> Path:
    """The folder of a training's curve.csv and record.json."""
    return Path("data/training") / f"{task}-{seed}"


def episodes_path(task: str, when: str) -> Path:
    """`when` is "before" or "after-<seed>"."""
    return Path("data/episodes") / task / f"{when}.parquet"


def run_stage(main: Callable[..., None], **arguments: type) -> None:
    """Calls `main` with the command line's arguments, one for each of `arguments`, in their order.

    What the user can mend is told in a line on standard error, with exit status 1.
    """
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").strip())
    for name, kind in arguments.items():
        parser.add_argument(name, type=kind)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        main(**vars(parser.parse_args()))
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or ''}: {error.strerror or error}")


def read_problems(path: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a task set. Raises PipelineError that names file and line if one is not JSON."""
    rows = []
    for number, line in enumerate(require(path, f"prepare@{task}").read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise PipelineError(f"{path}:{number}: not JSON: {error.msg}") from None
    return rows


def write_problems(path: Path, problems: list[dict[str, Any]]) -> None:
    with replacing(path) as beside:
        beside.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in problems))
