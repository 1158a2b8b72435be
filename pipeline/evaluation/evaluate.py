"""Rolls out every test problem twice, sampled and greedy, and keeps one row for each episode."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.chance import number_of
from pipeline.environment.environment import TaskEnvironment
from pipeline.environment.history import TextHistory
from pipeline.models.machine import Machine
from pipeline.tasks import Problem, Task, recorded

MODES = ("sampled", "greedy")
"""Where the right way is already the most likely one, training shows in sampled episodes only, so
both are always reported."""


class EvaluationSettings(BaseModel):
    """How to roll out the test problems."""

    model_config = ConfigDict(extra="forbid")
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)


def evaluate(
    environments: Mapping[str, TaskEnvironment],
    problems: Sequence[Problem],
    settings: EvaluationSettings,
    machine: Machine,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the episodes' rows batch by batch.

    What is sampled for a problem depends on `settings.seed` and its id only, not on the batch.

    Args:
        environments: the task's environment by mode; see `MODES`.
    """
    for mode, env in environments.items():
        for start in range(0, len(problems), settings.batch_size):
            batch = list(problems[start : start + settings.batch_size])
            numbers = [number_of(problem["id"]) for problem in batch]
            with machine.autocast():
                episodes = env.rollout_problems(batch, settings.seed, numbers=numbers)
            yield [_row(mode, env.task, p, e) for p, e in zip(batch, episodes, strict=True)]


def _row(mode: str, task: Task, problem: Problem, history: TextHistory) -> dict[str, Any]:
    written = history.segments[1:]
    return {
        "mode": mode,
        **recorded(problem),
        "reward": history.reward,
        **{
            name: measure.of(history.answer_text, problem)
            for name, measure in task.measures.items()
        },
        "end_reason": str(history.end_reason),
        "tool_calls": len(history.calls),
        "prompt_tokens": len(history.segments[0].tokens),
        "model_tokens": sum(len(s.tokens) for s in written if not s.system),
        "tool_tokens": sum(len(s.tokens) for s in written if s.system),
        "segments": [
            {"author": author, "text": text, "tokens": len(segment.tokens)}
            for (author, text), segment in zip(history.authored()[1:], written, strict=True)
        ],
        "calls": [
            {
                "tool": call.tool,
                "argument": call.argument,
                "output": call.output,
                "error_kind": call.error_kind,
                "cut": call.cut,
                **call.details,
            }
            for call in history.calls
        ],
    }
