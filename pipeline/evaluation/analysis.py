"""The table that the report is made from: each episode with its label and what a bad search missed."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import pandas as pd

from pipeline.evaluation.labels import Label, label
from pipeline.tasks import Task
from pipeline.tools import Tool
from pipeline.tools.wiki.diagnosis import Search, SearchDiagnosis, diagnose

DIAGNOSIS = tuple(field.name for field in fields(SearchDiagnosis))
"""The columns that say where the answer was that a search did not show; empty but for bad searches."""


def analyse(episodes: pd.DataFrame, task: Task, tools: Mapping[str, Tool]) -> pd.DataFrame:
    """The episodes, rows as `evaluate` yields them, with `label` and the columns of `DIAGNOSIS`."""
    rows: list[Any] = episodes.to_dict("records")
    labels = [label(row, partial(_holds, task, row), list(tools), task.computes) for row in rows]
    analysed = episodes.assign(label=pd.Series(map(str, labels), index=episodes.index, dtype=str))
    bad = [i for i, found in enumerate(labels) if found == Label.BAD_SEARCH]
    searcher = task.searcher(tools)
    diagnoses: dict[int, dict] = {}
    if searcher and bad:
        searches = [_search(rows[i]) for i in bad]
        found = diagnose(searcher, searches)
        diagnoses = {i: asdict(diagnosis) for i, diagnosis in zip(bad, found, strict=True)}
    for column in DIAGNOSIS:
        values = [diagnoses.get(i, {}).get(column) for i in range(len(rows))]
        kind = "Int64" if column == "rank" else "boolean"
        analysed[column] = pd.array(values, dtype=kind)  # type: ignore[call-overload]
    return analysed


def _holds(task: Task, row: Mapping[str, Any], text: str) -> bool:
    return task.find(text, row) is not None


def _search(row: Mapping[str, Any]) -> Search:
    """The last search of an episode that was answered."""
    answered = [call for call in row["calls"] if not call["error"]]
    return Search(answered[-1]["argument"], row["question"], tuple(row["answers"]))
