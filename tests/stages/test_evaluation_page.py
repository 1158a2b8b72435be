"""docs/evaluation.md names the columns of the table of episodes, and no others."""

import re

import pandas as pd
import pytest

from pipeline.tasks import load_task, task_names
from pipeline.tools.wiki.diagnosis import DIAGNOSES
from pipeline.workspace import EPISODE_COLUMNS
from tests.project_copy import ROOT

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
BY_TASK = "and the task's measures, groups and diagnoses"
"""What stands in the page for the columns that differ from task to task."""


def first_cells(heading):
    """The first cells of the table below that heading, but for its head."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.*?) \|", part, re.MULTILINE)[1:]


def named(cells):
    """What stands in backticks in the cells."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def columns():
    return named(first_cells("The table of episodes"))


def test_the_page_has_every_column_that_evaluation_and_analysis_write(project, columns):
    evaluated = pd.read_parquet("data/episodes/arithmetic/base.parquet")
    analysed = pd.read_parquet("data/analysis/arithmetic.parquet")
    task = load_task("arithmetic")
    by_task = {*task.measures, *task.groups, *task.diagnoses}
    assert len(set(columns)) == len(columns)
    assert set(columns) == set(analysed.columns) - by_task
    assert set(columns) - {"label"} == set(evaluated.columns) - by_task == set(EPISODE_COLUMNS)


def test_the_columns_that_differ_from_task_to_task_are_told_of(columns):
    (row,) = (cell for cell in first_cells("The table of episodes") if BY_TASK in cell)
    assert "`label`" in row
    tasks = [load_task(name) for name in task_names()]
    assert not {
        name for task in tasks for name in (*task.measures, *task.groups, *task.diagnoses)
    } & set(columns)


def test_the_page_has_every_diagnosis_of_a_bad_search():
    assert named(first_cells("Bad searches")) == list(DIAGNOSES)
