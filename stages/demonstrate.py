"""Puts a task's few-shot prompt and demonstrations together, with what its tools really answer."""

import json
from dataclasses import asdict

from pipeline.files import replacing
from pipeline.params import load_params
from pipeline.tasks import load_task
from stages.common import (
    demonstrations_path,
    problems_path,
    read_jsonl,
    run_stage,
    setup_path,
    tool_resources_path,
    write_jsonl,
)


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
        (setup / "tools.json").write_text(json.dumps(resources, indent=2) + "\n")
        write_jsonl(new_demonstrations, [asdict(d) for d in demonstrations])
    print(f"{task}: a prompt of {len(prompt.split())} words, {len(demonstrations)} demonstrations")


if __name__ == "__main__":
    run_stage(main, task=str)
