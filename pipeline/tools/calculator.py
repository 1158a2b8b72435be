"""A calculator for + - * / and parentheses, exact, rounded to two decimal places at the end.

It reads numbers as written (0.1+0.2 is 0.3) and computes with fractions. It parses, never evaluates.
"""

import ast
import re
from fractions import Fraction

from pipeline.tools import ToolError

MAX_CHARACTERS = 200
"""Longer expressions are refused. It also bounds the size of results and the time a call takes."""

_SPELLINGS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, rounded to two places: `calculate("13.1-3") == "10.1"`.

    An equals sign may end it.

    Raises ToolError for anything else than numbers, + - * / (or × ÷ −) and parentheses, for a
    division by zero, and for an expression of more than 200 characters.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
    source = _THOUSANDS.sub("", expression.translate(_SPELLINGS)).strip().removesuffix("=").rstrip()
    source = _LEADING_ZEROS.sub("", source)  # 05 is no number to Python
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError(f"cannot read {expression.strip()!r} as arithmetic") from None
    return format_number(_value(tree.body, source))


def format_number(value: Fraction) -> str:
    """The number rounded to two places (ties to even) without trailing zeros: 12, 10.1, -7.95."""
    hundredths = round(value * 100)
    sign, digits = "-" if hundredths < 0 else "", f"{abs(hundredths):03d}"
    return sign + f"{digits[:-2]}.{digits[-2:]}".rstrip("0").rstrip(".")


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            literal = ast.get_source_segment(source, node) or ""
            if re.fullmatch(r"\d+\.?\d*|\.\d+", literal):
                return Fraction(literal)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, source)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, source)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, source) + _value(right, source)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, source) - _value(right, source)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, source) * _value(right, source)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _value(right, source)
            if divisor == 0:
                raise ToolError("division by zero")
            return _value(left, source) / divisor
    raise ToolError("only numbers, + - * / and parentheses are understood")
