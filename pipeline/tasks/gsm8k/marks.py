"""Programs from GSM8K's solutions, which mark each calculation: `She earned 12/60 = $<<12/60=0.2>>0.2`.

A program reads as a person writes it: a line for each calculation, named by the words around it, with
earlier results by their names.
"""

import ast
import copy
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.tasks.gsm8k.naming import PLAIN, name_asked, name_of, plain_name
from pipeline.tasks.program_task import write_program

_MARK = re.compile(r"<<([\d.,$+\-*/() ]+)=([^<>=]*)>>")
_UNMARKED = re.compile(
    r"((?:\$?\d[\d,.]*\s*[-+*/x×−–]\s*)+\$?\d[\d,.]*)\s*=\s*\$?(\d[\d,]*(?:\.\d+)?)(?![\d.]*[-+*/x×−–=<%])"
)
_BEFORE = re.compile(r"((?:\$?\d[\d,.]*\s*[-+*/x×−–]\s*)+\$?\d[\d,.]*)\s*=?\s*\$?$")
"""What stands before a mark like `<<300=300>>`, which holds no calculation itself."""
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.UAdd, ast.USub, ast.Constant, *_OPERATIONS)

MOST_DECIMALS = 4
"""A result with fewer decimals than its calculation has was rounded, to at most so many."""


MOST_OPERATIONS = 5
"""How many operations a line may have that a calculation without a name is put into."""

_NAMELESS = "nameless"


@dataclass(frozen=True)
class Calculation:
    """A calculation of a solution, and the text around it."""

    expression: ast.expr
    result: Fraction
    before: str  # from the line's beginning or the mark before
    after: str  # to the line's end or the next mark

    @property
    def sign(self) -> type[ast.operator] | None:
        """What is done last; None where nothing is."""
        return type(self.expression.op) if isinstance(self.expression, ast.BinOp) else None


@dataclass(frozen=True)
class Program:
    """A program, and whether all of its names tell something."""

    text: str
    meaningful: bool


def marked_program(question: str, solution: str, answer: str) -> Program | None:
    """The program of the solution's calculations that lead to `answer`, a number.

    An earlier result goes by its name. Only a number that the question gives, too, may be that one: it is
    the result where that has not been used yet. A calculation that the text has no name for is put where
    its result is used, if that is in one place.

    None if no calculation arrives at the answer, a mark is not true, or a line would be a number that
    the question does not give. Whether the program prints the
    answer, running it tells.
    """
    calculations = list(_calculations(solution))
    while calculations and calculations[-1].result != Fraction(answer):
        calculations.pop()
    asked = {Fraction(number) for number in _NUMBER.findall(question.replace(",", ""))}
    lines: dict[str, ast.expr] = {}
    signs: dict[str, type[ast.operator] | None] = {}  # of those without a name
    values: dict[str, Fraction] = {}  # as the solution gives them, so maybe rounded
    known: dict[Fraction, str] = {}
    waiting: set[str] = set()  # for a calculation that uses them
    for place, calculation in enumerate(calculations, 1):
        here = {n: name for n, name in known.items() if n not in asked or name in waiting}
        named: ast.expr = _Replaced(here).visit(calculation.expression)
        if isinstance(named, ast.Name):  # `$<<20=20>>20` calculates nothing
            continue
        if isinstance(named, ast.Constant) and calculation.result not in asked:
            return None  # calculated in the head
        expression = _true(named, values, calculation.result)
        if expression is None:
            return None
        name = name_of(calculation.before, calculation.after, lines)
        if name is None and place == len(calculations):
            name = name_asked(question, lines)
        if name is None:
            name = f"{_NAMELESS}{place}"
            signs[name] = calculation.sign
        waiting -= _names(expression)
        waiting.add(name)
        lines[name], values[name], known[calculation.result] = expression, calculation.result, name
    last = known.get(Fraction(answer))
    if last is None:
        return None
    lines = _put_in_place(_used(lines, last), last)
    for name in lines.keys() & signs.keys():
        plain = "result" if name == last else plain_name(signs[name], lines)
        lines = _renamed(lines, name, plain)
    steps = [f"{name} = {ast.unparse(expression)}" for name, expression in lines.items()]
    return Program(write_program(steps), lines.keys().isdisjoint(PLAIN))


def _calculations(solution: str) -> Iterator[Calculation]:
    """The solution's calculations, marked or not; those that are no arithmetic are passed over."""
    for line in solution.splitlines():
        found = [*_MARK.finditer(line), *_UNMARKED.finditer(_MARK.sub(_blank, line))]
        found.sort(key=lambda match: match.start())
        for number, match in enumerate(found):
            left, right = (_plain(side) for side in match.groups())
            expression = _parsed(left)
            if expression is None or not _NUMBER.fullmatch(right.removeprefix("-")):
                continue
            if match.re is _UNMARKED and _true(expression, {}, Fraction(right)) is None:
                continue
            start = found[number - 1].end() if number else 0
            end = found[number + 1].start() if number + 1 < len(found) else len(line)
            if isinstance(expression, ast.Constant) and (
                told := _BEFORE.search(line[start : match.start()])
            ):
                expression = _parsed(_plain(told.group(1))) or expression
            after = match.start(2) if match.re is _UNMARKED else match.end()
            yield Calculation(
                expression, Fraction(right), line[start : match.start()], line[after:end]
            )


def _blank(match: re.Match[str]) -> str:
    return "<" * len(match.group())


def _plain(text: str) -> str:
    """Arithmetic as Python writes it."""
    for sign, plain in ((",", ""), ("$", ""), ("x", "*"), ("×", "*"), ("−", "-"), ("–", "-")):
        text = text.replace(sign, plain)
    return text.strip()


def _parsed(text: str) -> ast.expr | None:
    """Arithmetic as a tree; None if it is none."""
    try:
        tree = ast.parse(_LEADING_ZEROS.sub("", text), mode="eval").body
    except SyntaxError:
        return None
    return tree if all(isinstance(node, _ARITHMETIC) for node in ast.walk(tree)) else None


def _true(
    expression: ast.expr, values: Mapping[str, Fraction], result: Fraction
) -> ast.expr | None:
    """The expression, rounded where the solution rounds; None if it does not give the result."""
    try:
        value = _value(expression, values)
    except ZeroDivisionError:
        return None
    if value == result:
        return expression
    decimals = next((d for d in range(MOST_DECIMALS + 1) if result == round(result, d)), None)
    if decimals is None or abs(value - result) > Fraction(1, 2 * 10**decimals):
        return None
    digits = [ast.Constant(decimals)] if decimals else []
    return ast.Call(ast.Name("round"), [expression, *digits], [])


def _value(expression: ast.expr, values: Mapping[str, Fraction]) -> Fraction:
    """Exactly. Raises ZeroDivisionError."""
    match expression:
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, values)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, values), _value(right, values))
        case _:
            return Fraction(ast.unparse(expression))


class _Replaced(ast.NodeTransformer):
    """Puts names in place of numbers, and expressions in place of names."""

    def __init__(
        self,
        numbers: Mapping[Fraction, str] | None = None,
        names: Mapping[str, ast.expr] | None = None,
    ) -> None:
        self.numbers = numbers or {}
        self.names = names or {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = self.numbers.get(Fraction(ast.unparse(node)))
        return node if name is None else ast.Name(name)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.names.get(node.id, node)


def _names(expression: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def _used(lines: Mapping[str, ast.expr], last: str) -> dict[str, ast.expr]:
    """The lines that the last one's value rests on, itself included."""
    used: set[str] = set()
    todo = {last}
    while todo:
        name = todo.pop()
        used.add(name)
        todo |= (_names(lines[name]) & lines.keys()) - used
    return {name: expression for name, expression in lines.items() if name in used}


def _put_in_place(lines: Mapping[str, ast.expr], last: str) -> dict[str, ast.expr]:
    """The lines, with those that have no name in the one line that uses them, unless that gets too long."""
    shorter = dict(lines)
    for name in [name for name in lines if name.startswith(_NAMELESS) and name != last]:
        users = [user for user, expression in shorter.items() if name in _names(expression)]
        uses = sum(ast.unparse(shorter[user]).count(name) for user in users)
        whole = _Replaced(names={name: shorter[name]}).visit(copy.deepcopy(shorter[users[0]]))
        if uses == 1 and _operations(whole) <= MOST_OPERATIONS:
            shorter[users[0]] = whole
            del shorter[name]
    return shorter


def _operations(expression: ast.expr) -> int:
    return sum(isinstance(node, ast.BinOp) for node in ast.walk(expression))


def _renamed(lines: Mapping[str, ast.expr], name: str, new: str) -> dict[str, ast.expr]:
    rename = _Replaced(names={name: ast.Name(new)})
    return {new if key == name else key: rename.visit(e) for key, e in lines.items()}
