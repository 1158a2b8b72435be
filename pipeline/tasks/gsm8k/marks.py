"""Programs from GSM8K's solutions, which mark each calculation: `She earned 12/60 = $<<12/60=0.2>>0.2`."""

import re
from fractions import Fraction

from pipeline.tasks.program_task import write_program

_MARK = re.compile(r"<<([\d.+\-*/() ]+)=([^<>=]*)>>")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")


def marked_program(solution: str, answer: str) -> str | None:
    """The program of the solution's calculations up to the last whose result is `answer`, a number.

    A step uses earlier results by their names. None if no mark arrives at the answer. Marks may be
    wrong or rounded: whether the program prints the answer, running it tells.
    """
    marks = [(left, right.replace(",", "").strip()) for left, right in _MARK.findall(solution)]
    marks = [(left, right) for left, right in marks if _NUMBER.fullmatch(right.removeprefix("-"))]
    while marks and Fraction(marks[-1][1]) != Fraction(answer):
        marks.pop()
    known: dict[Fraction, str] = {}
    steps = []
    for number, (left, right) in enumerate(marks, 1):
        steps.append(f"step{number} = {_with_names(left, known)}")
        known[Fraction(right)] = f"step{number}"
    return write_program(steps) if steps else None


def _with_names(expression: str, known: dict[Fraction, str]) -> str:
    """The expression with known numbers by their names, and numbers as Python reads them."""

    def name(match: re.Match[str]) -> str:
        number = match.group()
        readable = str(int(number)) if number.isdigit() else number
        return known.get(Fraction(number), readable)

    return _NUMBER.sub(name, expression.strip())
