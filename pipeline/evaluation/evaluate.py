"""Rolls out every test problem twice, sampled and greedy, and keeps one row for each episode."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.chance import number_of
from pipeline.environment.environment import TaskEnvironment
from pipeline.environment.history import CallRecord, TextHistory
from pipeline.errors import PipelineError
from pipeline.evaluation.outage import Outages
from pipeline.models import processes
from pipeline.models.machine import Machine
from pipeline.nested import plain
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
        PipelineError: if a tool is down, see `Outages`; if a row would hold what is no plain value, as
            a measure that is no number.
    """
    size = settings.batch_size
    todo = [(mode, at) for mode in environments for at in range(0, len(problems), size)]
    done: list[list[dict[str, Any]]] = []
    outages = Outages()
    if saved := snapshot.load():
        for rows in saved["batches"]:
            outages.called(_calls(rows))
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
            rows = [_row(mode, env.task, p, e) for p, e in zip(batch, episodes, strict=True)]
            if outage := outages.called(_calls(rows)):
                raise PipelineError(
                    f"{outage}. Accuracy would tell of the tool and not of the model: mend the "
                    "tool and evaluate again; a tool that refuses a bad input raises ToolError"
                )
            with snapshot.update():
                done.append(rows)
                snapshot.offer(state)
            on_batch(rows)


def _row(mode: str, task: Task, problem: Problem, history: TextHistory) -> dict[str, Any]:
    """An episode's row: plain values only, as states and tables keep no others."""
    written = history.segments[1:]
    return {
        "mode": mode,
        **plain(recorded(problem), f"problem {problem['id']}"),
        "reward": _number(f"{task.name}: the reward", history.reward, problem),
        **{
            name: _number(
                f"{task.name}: the measure {name!r}",
                measure.of(history.answer_text, problem),
                problem,
            )
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
                **plain(call.details, f"what the tool {call.tool} recorded"),
            }
            for call in history.calls
        ],
    }


def _number(name: str, value: Any, problem: Problem) -> float:
    """The value of a reward or a measure. Raises PipelineError, with its name, if that is no finite number."""
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PipelineError(
            f"{name} must be a number, got {str(value)[:100]!r} ({type(value).__name__}) for problem "
            f"{problem['id']}"
        )
    return number


def _calls(rows: Sequence[Mapping[str, Any]]) -> list[CallRecord]:
    """The calls of rows, but for what tools recorded of them."""
    names = [field.name for field in fields(CallRecord) if field.name != "details"]
    return [
        CallRecord(**{name: call[name] for name in names}, details={})
        for row in rows
        for call in row["calls"]
    ]
