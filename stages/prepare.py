"""Makes a task's training and test problems."""

from pipeline.params import load_params
from pipeline.tasks import load_task
from stages.common import problems_path, run_stage, write_problems


def main(task: str) -> None:
    """Writes data/tasks/<task>/{train,test}.jsonl."""
    splits = load_task(task).problems(load_params().task(task).data)
    for split, problems in splits.items():
        write_problems(problems_path(task, split), problems)
        print(f"{task}: {len(problems)} {split} problems")


if __name__ == "__main__":
    run_stage(main, task=str)
