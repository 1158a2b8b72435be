import time

import pytest

from pipeline.tools import ToolError
from pipeline.tools.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("13.1-3", "10.1"),
        ("4*3", "12"),
        ("12.1+1", "13.1"),
        ("12.1-20", "-7.9"),
        ("0.1+0.2", "0.3"),
        ("7/3", "2.33"),
        ("2/3", "0.67"),
        ("-1/3", "-0.33"),
        ("1/1000", "0"),
        ("-1/1000", "0"),
        ("100*1", "100"),
        ("1.005*1", "1"),  # exactly between, to even
        ("1.015*1", "1.02"),
        (" 2 × (3 − 1) ÷ 4\n", "1"),
        ("1,200+1", "1201"),
        (".5*2", "1"),
        ("+3--2", "5"),
        ("05+3", "8"),
        ("007", "7"),
        ("00.50+0.05", "0.55"),
        ("100*1.005+0", "100.5"),
        ("13.1-3=", "10.1"),
        ("4*3 = ", "12"),
    ],
)
def test_calculates(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("1/0", "division by zero"),
        ("1/(2-2)", "division by zero"),
        ("", "cannot read"),
        ("two plus two", "cannot read"),
        ("1 +", "cannot read"),
        ("x", "only numbers"),
        ("2**9999999", "only numbers"),
        ("__import__('os')", "only numbers"),
        ("(1).real", "only numbers"),
        ("1,2", "only numbers"),
        ("1e999", "only numbers"),
        ("0x10", "only numbers"),
        ("1_05", "only numbers"),
        ("=", "cannot read"),
        ("1+1==", "cannot read"),
        ("True+1", "only numbers"),
        ("9" * 201, "longer than"),
        ("\0", "cannot read"),
        ("(" * 190, "cannot read"),
    ],
)
def test_says_what_is_wrong(expression, complaint):
    with pytest.raises(ToolError, match=complaint):
        calculate(expression)


@pytest.mark.parametrize("expression", ["9*" * 99 + "9", "1/" * 99 + "7", "-" * 199 + "1"])
def test_is_quick_whatever_it_gets(expression):
    start = time.perf_counter()
    calculate(expression)
    assert time.perf_counter() - start < 1
