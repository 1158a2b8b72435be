"""Makes a task's training and test problems."""

from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tasks.soundness import check_problems
from pipeline.workspace import problems_path, write_jsonl
from stages.common import outputs, run_stage


def main(name: str) -> None:
    """Writes data/tasks/<task>/{train,test}.jsonl."""
    splits = ("train", "test")
    paths = [problems_path(name, split) for split in splits]
    with outputs(
        *paths, inputs=lambda: load_params().task(name).data.model_dump(mode="json")
    ) as files:
        problems = load_task(name).problems(load_params().task(name).data)
        check_problems(load_task(name), problems)
        for split, beside in zip(splits, files, strict=True):
            write_jsonl(beside, problems[split])
            print(f"{name}: {len(problems[split])} {split} problems")


if __name__ == "__main__":
    run_stage(main, task=str)
