"""Whether a task's problems can be learned and judged: looked at before any model runs."""

from collections.abc import Mapping, Sequence

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, Task
from pipeline.tools.protocol import SUBMIT


def check_problems(task: Task, splits: Mapping[str, Sequence[Problem]]) -> None:
    """Raises PipelineError, naming problems and numbers, for what would make all results worthless.

    That is a problem that stands in both splits, and one whose answer the reward does not take.
    """
    _check_apart(task.name, splits)
    for problems in splits.values():
        for problem in problems:
            answers = problem.get("aliases") or [problem["answer"]]
            if not any(task.reward(f"Result={a}{SUBMIT}", problem) == 1 for a in answers):
                raise PipelineError(
                    f"{task.name}.data: no answer to {problem['id']} can be right: handed in as "
                    f"{answers[0]!r}, it is not paid; docs/rewards.md says how answers are written"
                )


def _check_apart(name: str, splits: Mapping[str, Sequence[Problem]]) -> None:
    first, second = (
        {mark: problem["id"] for problem in splits[split] for mark in _marks(problem)}
        for split in ("train", "test")
    )
    common = [mark for mark in second if mark in first]
    if common:
        pairs = {(first[mark], second[mark]) for mark in common}
        known, asked = first[common[0]], second[common[0]]
        raise PipelineError(
            f"{name}.data: {known} of the training problems and {asked} of the test problems are the "
            f"same, {len(pairs)} in all: the test must have problems that training does not"
        )


def _marks(problem: Problem) -> list[tuple[str, str]]:
    """What no other problem has."""
    return [
        ("id", problem["id"]),
        ("question", " ".join(problem["question"].split()).casefold()),
    ]
