"""GSM8K, solved by writing programs (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

The problems come from the data set on the hub, or from files. Their solutions mark each calculation, and
the marks become the programs of demonstrations.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.answers import number
from pipeline.errors import PipelineError
from pipeline.sources import DataSet, HubSplits, draw, hub_rows, read_rows
from pipeline.tasks import Problem
from pipeline.tasks.gsm8k.marks import Program, marked_program
from pipeline.tasks.program_task import ProgramTask, demonstrations
from pipeline.tasks.word_problems import WordProblemData, WordProblems
from pipeline.workspace import ProblemRow

SHOT_LINES = (2, 3, 4)
"""How many lines the programs of the prompt have, after Olivia's."""

LONGEST_SHOT = 450
"""Problem and program of the prompt have at most so many characters: every episode holds them."""

MIX_SEED = 1_000_003
"""Of the built-in word problems that a warm start mixes in: not the one that the task `word_problems` has."""

OLIVIA: Problem = {
    "id": "Olivia",
    "question": "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
    "answer": "8",
    "solution": "",
}
"""The problem that the prompt of TRL's "Learning Tools" begins with."""

OLIVIAS_PROGRAM = """\
def solution():
    money_initial = 23
    bagels = 5
    bagel_cost = 3
    money_spent = bagels * bagel_cost
    money_left = money_initial - money_spent
    result = money_left
    return result
print(solution())
"""

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
    shot_count = 1 + len(SHOT_LINES)

    def problems(self, data: DataSet) -> dict[str, list[Problem]]:
        """Problems have a `solution`. Raises PipelineError where they cannot be had, or a row is bad."""
        return draw(data, "gsm8k.data", _from_file, _from_hub)

    def program(self, problem: Problem) -> str | None:
        if problem is OLIVIA:
            return OLIVIAS_PROGRAM
        found = _converted(problem)
        return found.text if found else None

    def in_order(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Olivia's, some short and various ones, and the others as they come."""
        chosen = _short_and_various(problems)
        return [OLIVIA, *chosen, *(problem for problem in problems if problem not in chosen)]

    def demonstrate_more(self, tools, count):
        """Word problems that the project makes itself."""
        if count == 0:
            return []
        told = WordProblemData(source="builtin", train=count, test=1, unseen=0, seed=MIX_SEED)
        problems = WordProblems().problems(told)["train"]
        return [d for p in problems for d in demonstrations(p, p["program"], tools)]


def _converted(problem: Problem) -> Program | None:
    return marked_program(problem["question"], problem["solution"], problem["answer"])


def _short_and_various(problems: Sequence[Problem]) -> list[Problem]:
    """One problem for each of `SHOT_LINES`: with operations that none before it has, and a short one.

    Its program has telling names and calculates with the question's numbers only.
    """
    by_lines: dict[int, list[tuple[Problem, str]]] = {lines: [] for lines in SHOT_LINES}
    for problem in problems:
        program = _converted(problem)
        if program and program.meaningful and _plain_to_see(problem["question"], program.text):
            by_lines.get(program.text.count(" = "), []).append((problem, program.text))
    chosen: list[Problem] = []
    shown = _operations(OLIVIAS_PROGRAM)
    for candidates in by_lines.values():
        if candidates:
            problem, text = min(
                candidates,
                key=lambda each: (-len(_operations(each[1]) - shown), len(each[0]["question"])),
            )
            chosen.append(problem)
            shown |= _operations(text)
    return chosen


def _plain_to_see(question: str, program: str) -> bool:
    """Whether the names have two words or more, and the numbers are the question's."""
    lines = [line.split(" = ") for line in program.splitlines() if " = " in line]
    given = set(re.findall(r"\d+", question))
    return (
        len(question) + len(program) <= LONGEST_SHOT
        and all("_" in name and not name.endswith("amount") for name, _ in lines)
        and all(set(re.findall(r"\d+", value)) <= given for _, value in lines)
    )


def _operations(program: str) -> set[str]:
    return set(re.findall(r" ([-+*/]) ", program))


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
