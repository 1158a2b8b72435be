"""Puts a task's few-shot prompt and demonstrations together, with what its tools really answer."""

import importlib.metadata
import json
from dataclasses import asdict

from pipeline.dependencies import sources
from pipeline.files import replacing, sha256
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.workspace import (
    demonstrations_path,
    problems_path,
    read_jsonl,
    read_resources,
    setup_path,
    write_jsonl,
)
from stages.common import run_stage


def main(task: str) -> None:
    """Writes data/setup/<task> and data/demonstrations/<task>.jsonl."""
    section = load_params().task(task)
    problems = read_jsonl(problems_path(task, "train"), f"prepare@{task}")
    learned = load_task(task)
    resources = read_resources(learned.resources)
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
            "code": {str(file): sha256(file) for file in sources(type(learned).__module__)},
            "packages": {name: importlib.metadata.version(name) for name in learned.packages},
        }
        (setup / "tools.json").write_text(json.dumps(tools, indent=2) + "\n")
        write_jsonl(new_demonstrations, [asdict(d) for d in demonstrations])
    print(f"{task}: a prompt of {len(prompt.split())} words, {len(demonstrations)} demonstrations")


if __name__ == "__main__":
    run_stage(main, task=str)
