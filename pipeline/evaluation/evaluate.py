"""Rolls out every test problem twice, sampled and greedy, and keeps one row for each episode."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.chance import number_of
from pipeline.environment.environment import TaskEnvironment
from pipeline.environment.history import TextHistory
from pipeline.environment.outage import outage_of
from pipeline.errors import PipelineError
from pipeline.models import processes
from pipeline.models.machine import Machine
from pipeline.snapshot import NOWHERE, Snapshot, State
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
    on_batch: Callable[[list[dict[str, Any]]], None],
    snapshot: Snapshot = NOWHERE,
) -> None:
    """Rolls out the problems batch by batch.

    What is sampled for a problem depends on `settings.seed` and its id only, not on the batch. Several
    processes share out each batch, and have all its episodes in the end.

    Args:
        environments: the task's environment by mode; see `MODES`.
        on_batch: called with the rows of each batch's episodes; where the run goes on, with those of
            the batches before first.
        snapshot: where the rows are kept, for a run that is stopped to go on from.

    Raises:
        PipelineError: if tools fail by themselves in most calls of a batch; see `outage_of`.
    """
    size = settings.batch_size
    todo = [(mode, at) for mode in environments for at in range(0, len(problems), size)]
    done: list[list[dict[str, Any]]] = []
    if saved := snapshot.load():
        for rows in saved["batches"]:
            done.append(rows)
            on_batch(rows)
    processes.require_same(len(done), "the batch to go on from")

    def state() -> State:
        return {"batches": done}

    with snapshot.kept(state):
        for mode, at in todo[len(done) :]:
            env, batch = environments[mode], list(problems[at : at + size])
            mine = processes.share(batch)
            numbers = [number_of(problem["id"]) for problem in mine]
            with machine.autocast():
                found = env.rollout_problems(mine, settings.seed, numbers=numbers) if mine else []
            episodes = processes.gathered(found)
            if outage := outage_of(episodes):
                raise PipelineError(
                    f"{outage}. Accuracy would tell of the tool and not of the model: mend the "
                    "tool and evaluate again; a tool that refuses a bad input raises ToolError"
                )
            with snapshot.update():
                done.append(
                    [_row(mode, env.task, p, e) for p, e in zip(batch, episodes, strict=True)]
                )
                snapshot.offer(state)
            on_batch(done[-1])


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
