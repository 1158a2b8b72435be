"""GSM8K, solved by writing programs (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

The problems come from the data set on the hub, or from files. Their solutions mark each calculation, and
the marks become the programs of demonstrations.
"""

from pathlib import Path
from typing import Any

from pipeline.answers import number
from pipeline.errors import PipelineError
from pipeline.sources import DataSet, HubSplits, draw, hub_rows, read_rows
from pipeline.tasks import Problem
from pipeline.tasks.gsm8k.marks import marked_program
from pipeline.tasks.program_task import ProgramTask
from pipeline.workspace import ProblemRow

_FIELDS = {"question": str, "answer": str}


class GSM8KRow(ProblemRow):
    """What is read of a problem."""

    solution: str


class GSM8K(ProgramTask):
    """See the module's text. Files have rows of {question, answer}, as the data set has.

    An answer is a solution that ends in `#### 72`.
    """

    Data = DataSet
    Row = GSM8KRow

    def problems(self, data: DataSet) -> dict[str, list[Problem]]:
        """Problems have a `solution`. Raises PipelineError where they cannot be had, or a row is bad."""
        return draw(data, _from_file, _from_hub)

    def program(self, problem: Problem) -> str | None:
        found = marked_program(problem["question"], problem["solution"], problem["answer"])
        return found.text if found else None


def _from_file(path: Path) -> list[Problem]:
    rows = read_rows(path, _FIELDS, "gsm8k.data.path")
    return [_problem(where, row) for where, row in rows]


def _from_hub(source: HubSplits, split: str) -> list[Problem]:
    rows = hub_rows(source, split, "gsm8k.data.hub")
    return [_problem(f"{split}:{line}", row) for line, row in enumerate(rows, 1)]


def _problem(where: str, row: dict[str, Any]) -> Problem:
    """Raises PipelineError if no number stands after `####`."""
    solution, _, result = row["answer"].rpartition("####")
    value = number(result)
    if value is None:
        raise PipelineError(f"{where}: no good 'answer'; it must end in #### and a number")
    plain = result.strip().removesuffix(".").replace("−", "-").replace("$", "").replace(",", "")
    return {"id": where, "question": row["question"], "answer": plain, "solution": solution}


TASK = GSM8K
