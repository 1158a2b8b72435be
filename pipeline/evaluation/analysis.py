"""The table that the report is made from: each episode with its label and what its task says of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from pipeline.evaluation.labels import Label, label
from pipeline.tasks import Problem, Task, problem_of
from pipeline.tools import Tool

WITHOUT_ANSWER = (Label.BAD_SEARCH, Label.WRONG_NUMBER)
"""The labels of episodes in which no tool's output had the answer: those that a task diagnoses."""


def analyse(episodes: pd.DataFrame, task: Task, tools: Mapping[str, Tool]) -> pd.DataFrame:
    """The episodes, rows as `evaluate` yields them, with `label` and the columns of `Task.grouped` and `Task.diagnose`.

    The last have values in the rows of `WITHOUT_ANSWER` only.
    """
    rows: list[Any] = episodes.to_dict("records")
    labels = [label(row, partial(_holds, task, problem_of(row)), task.computes) for row in rows]
    analysed = episodes.assign(label=pd.Series(map(str, labels), index=episodes.index, dtype=str))
    for name, values in _grouped(rows, task, tools).items():
        analysed[name] = values
    asked = [i for i, found in enumerate(labels) if found in WITHOUT_ANSWER]
    for name, values in task.diagnose([rows[i] for i in asked], tools).items():
        by_row = dict(zip(asked, values, strict=True))
        analysed[name] = pd.array([by_row.get(i) for i in range(len(rows))])
    return analysed


def _grouped(
    rows: Sequence[Any], task: Task, tools: Mapping[str, Tool]
) -> Mapping[str, list[bool]]:
    """For each row whether its problem is in a group; each problem is asked about once."""
    problems = {row["id"]: problem_of(row) for row in rows}
    place = {name: i for i, name in enumerate(problems)}
    groups = task.grouped(list(problems.values()), tools)
    return {name: [held[place[row["id"]]] for row in rows] for name, held in groups.items()}


def _holds(task: Task, problem: Problem, text: str) -> bool:
    return task.find(text, problem) is not None
