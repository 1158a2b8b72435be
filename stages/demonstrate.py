"""Puts a task's few-shot prompt and demonstrations together, with what its tools really answer."""

import importlib.metadata
import json
from dataclasses import asdict
from typing import Any

from pipeline.dependencies import sources
from pipeline.files import sha256
from pipeline.params import load_params
from pipeline.tasks import load_task, transcript
from pipeline.workspace import (
    demonstrations_path,
    read_problems,
    read_resources,
    setup_path,
    write_jsonl,
)
from stages.common import outputs, run_stage


def main(name: str) -> None:
    """Writes data/setup/<task> and data/demonstrations/<task>.jsonl."""

    def inputs() -> dict[str, Any]:
        section = load_params().task(name)
        keys: Any = {"environment": {"protocol"}, "tools": True, "warm_start": True}
        return section.model_dump(mode="json", include=keys)

    with outputs(setup_path(name), demonstrations_path(name), inputs=inputs) as new:
        setup, new_demonstrations = new
        section = load_params().task(name)
        task = load_task(name)
        problems = read_problems(name, "train", task.Row)
        resources = read_resources(task.resources)
        tools = task.tools(section.tools, resources)
        shots, demonstrations = task.demonstrate(problems, tools, section.warm_start.demonstrations)
        demonstrations += task.demonstrate_more(tools, section.warm_start.mix)
        setup.mkdir()
        write_jsonl(setup / "shots.jsonl", [asdict(shot) for shot in shots])
        tags = section.environment.protocol == "tags"
        prompt = task.layout.prompt(shots) if tags else transcript(task.instruction, shots)
        (setup / "prompt.txt").write_text(prompt, encoding="utf-8")
        record = {
            "resources": resources,
            "code": {str(file): sha256(file) for file in sources(type(task).__module__)},
            "packages": {p: importlib.metadata.version(p) for p in task.packages},
        }
        (setup / "tools.json").write_text(json.dumps(record, indent=2) + "\n")
        write_jsonl(new_demonstrations, [asdict(d) for d in demonstrations])
    print(f"{name}: a prompt of {len(prompt.split())} words, {len(demonstrations)} demonstrations")


if __name__ == "__main__":
    run_stage(main, task=str)
