"""Rolls out every test problem twice, sampled and greedy, and keeps one row for each episode."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.environment import TextHistory
from pipeline.environment.environment import EnvironmentSettings, task_environment
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.tasks import RECORDED, Problem, Task
from pipeline.tools import Tool

MODES = ("sampled", "greedy")
"""Where the right way is already the most likely one, training shows in sampled episodes only, so
both are always reported."""


class EvaluationSettings(BaseModel):
    """How to roll out the test problems."""

    model_config = ConfigDict(extra="forbid")
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)


def evaluate(
    policy: CausalLMWithValueHead,
    tokenizer: Any,
    task: Task,
    prompt: str,
    tools: Mapping[str, Tool],
    problems: Sequence[Problem],
    environment: EnvironmentSettings,
    settings: EvaluationSettings,
    machine: Machine,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the episodes' rows batch by batch: all problems sampled at temperature 1, then greedy."""
    for mode in MODES:
        env = task_environment(
            task,
            policy,
            tokenizer,
            prompt,
            tools,
            environment,
            do_sample=mode == "sampled",
            seed=settings.seed,
        )
        for start in range(0, len(problems), settings.batch_size):
            batch = list(problems[start : start + settings.batch_size])
            with machine.autocast():
                *_, histories = env.run([task.query(p) for p in batch], problems=batch)
            yield [_row(mode, task, p, h) for p, h in zip(batch, histories, strict=True)]


def problem_of(row: Mapping[str, Any]) -> Problem:
    """The problem of an episode's row: the fields of `tasks.RECORDED`."""
    return {field: row[field] for field in RECORDED}


def _recorded(problem: Problem) -> Problem:
    """What a row keeps of a problem."""
    defaults = {"aliases": [problem["answer"]], "kind": None, "subset": ""}
    return {field: problem.get(field, defaults.get(field)) for field in RECORDED}


def _row(mode: str, task: Task, problem: Problem, history: TextHistory) -> dict[str, Any]:
    written = history.segments[1:]
    return {
        "mode": mode,
        **_recorded(problem),
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
