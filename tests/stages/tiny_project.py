"""A tiny project, made by the stages themselves in this process, for tests of what they read and write."""

import json
import runpy
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.models.policy import save_model
from pipeline.nested import put
from tests.project_copy import ROOT
from tests.tiny import make_model, make_tokenizer

TASK = "arithmetic"
STAGES = (
    "fetch_model",
    "build_corpus",
    "build_index",
    f"prepare {TASK}",
    f"demonstrate {TASK}",
    f"warm_start {TASK}",
    f"train {TASK} 1",
    f"evaluate {TASK} base",
    f"evaluate {TASK} sft",
    f"evaluate {TASK} rl-1",
    f"analyse {TASK}",
    "report",
    f"run_arm {TASK} default 1",
    "report_studies",
    "prepare triviaqa",
    "demonstrate triviaqa",
)
"""The stages, in an order in which each finds what it needs."""

CHANGES = {
    "tasks": [TASK],
    "model.source": "path",
    "model.path": "tiny-model",
    "machine.device": "cpu",
    "machine.precision": "float32",
    "ppo.mini_batch_size": 2,
    "corpus.source": "path",
    "corpus.path": "documents.jsonl",
    "arithmetic.data.train": 8,
    "arithmetic.data.test": 2,
    "arithmetic.environment.max_new_tokens": 40,
    "arithmetic.warm_start": {"steps": 1, "demonstrations": 4, "batch_size": 2},
    "arithmetic.train.steps": 1,
    "arithmetic.train.warmup_steps": 0,
    "arithmetic.train.episodes_per_step": 4,
    "triviaqa.data.source": "path",
    "triviaqa.data.test": 4,
    "triviaqa.warm_start.demonstrations": 3,
}


def run(stage: str) -> str | int | None:
    """Runs a stage as its command line would, in the working folder; returns what it exits with."""
    name, *arguments = stage.split()
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
            runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before
    return None


def make_project(
    folder: Path, stages: Sequence[str] = STAGES, changes: Mapping[str, Any] | None = None
) -> None:
    """Makes the project in the folder, which is the working folder, by running the stages.

    `changes` are values of params, by key, beside `CHANGES`.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in (CHANGES | dict(changes or {})).items():
        put(params, key, value)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "studies").mkdir()
    shutil.copy(ROOT / "studies/arms.yaml", folder / "studies/arms.yaml")
    save_model(make_model(), make_tokenizer(), folder / "tiny-model")
    names = [chr(ord("A") + i) + "ville" for i in range(12)]
    rows = {
        "documents": [
            {"id": n, "contents": f"{n}\nThe mayor of {n} is Dr {n[0] * 3}."} for n in names
        ],
        "train": [
            {"id": n, "question": f"Who is mayor of {n}?", "answers": [n[0] * 3]} for n in names[:8]
        ],
        "test": [
            {"id": n, "question": f"Who is mayor of {n}?", "answers": [n[0] * 3]} for n in names[8:]
        ],
    }
    for file, lines in rows.items():
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for stage in stages:
        ended = run(stage)
        assert ended is None, f"{stage}: {ended}"
