"""Puts a task's few-shot prompt and demonstrations together, with what its tools really answer."""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.files import replacing, sha256
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.workspace import (
    demonstrations_path,
    problems_path,
    read_jsonl,
    setup_path,
    tool_resources_path,
    write_jsonl,
)
from stages.common import run_stage


def main(task: str) -> None:
    """Writes data/setup/<task> and data/demonstrations/<task>.jsonl."""
    section = load_params().task(task)
    problems = read_jsonl(problems_path(task, "train"), f"prepare@{task}")
    file = tool_resources_path(task)
    resources = json.loads(file.read_text()) if file.exists() else {}
    learned = load_task(task)
    prompt, demonstrations = learned.demonstrate(
        problems, learned.tools(section.tools, resources), section.warm_start.demonstrations
    )
    with (
        replacing(setup_path(task)) as setup,
        replacing(demonstrations_path(task)) as new_demonstrations,
    ):
        setup.mkdir()
        (setup / "prompt.txt").write_text(prompt)
        tools = {
            "resources": resources,
            "code": _hashes(learned.code),
            "packages": {name: importlib.metadata.version(name) for name in learned.packages},
        }
        (setup / "tools.json").write_text(json.dumps(tools, indent=2) + "\n")
        write_jsonl(new_demonstrations, [asdict(d) for d in demonstrations])
    print(f"{task}: a prompt of {len(prompt.split())} words, {len(demonstrations)} demonstrations")


def _hashes(places: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each file, by its path; of a folder, of the modules in it."""
    files = [
        file
        for place in map(Path, places)
        for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])
    ]
    return {str(file): sha256(file) for file in files}


if __name__ == "__main__":
    run_stage(main, task=str)
