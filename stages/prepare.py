"""Makes a task's training and test problems."""

from pipeline.files import replacing
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.workspace import problems_path, write_jsonl
from stages.common import run_stage


def main(name: str) -> None:
    """Writes data/tasks/<task>/{train,test}.jsonl."""
    splits = load_task(name).problems(load_params().task(name).data)
    for split, problems in splits.items():
        with replacing(problems_path(name, split)) as beside:
            write_jsonl(beside, problems)
        print(f"{name}: {len(problems)} {split} problems")


if __name__ == "__main__":
    run_stage(main, task=str)
