import json
from collections import OrderedDict
from enum import IntEnum, StrEnum

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.nested import flatten, plain, put


def test_keys_get_dots_and_order_stays():
    nested = {"b": {"y": 1, "x": {"z": [2]}}, "a": None}
    assert list(flatten(nested).items()) == [("b.y", 1), ("b.x.z", [2]), ("a", None)]


def test_a_value_is_put_where_flatten_finds_it():
    nested = {"a": {"b": 1}, "n": None}
    for key in ("a.b", "a.c.d", "n.x", "e"):
        put(nested, key, 2)
    assert nested == {"a": {"b": 2, "c": {"d": 2}}, "n": {"x": 2}, "e": 2}


class Text(StrEnum):
    A = "a"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (None, None),
        (2**80, 2**80),
        (Text.A, "a"),
        (Number.ONE, 1),
        (np.str_("a"), "a"),
        (np.bool_(False), False),
        (np.int8(3), 3),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array(["a", None], dtype=object), ["a", None]),
        (torch.tensor([True]), [True]),
        ((1, [np.int64(2)]), [1, [2]]),
        (OrderedDict([(Text.A, {"b": np.float64(1)})]), {"a": {"b": 1.0}}),
    ],
)
def test_a_value_becomes_plain(value, same):
    found = plain(value, "here")
    assert found == same
    assert exact_types(found) == exact_types(same)
    assert json.loads(json.dumps(found)) == found


def exact_types(value):
    if type(value) is list:
        return [exact_types(item) for item in value]
    if type(value) is dict:
        return {(key, type(key)): exact_types(item) for key, item in value.items()}
    return type(value)


@pytest.mark.parametrize(
    "value", [{1, 2}, b"a", object(), {1: 2}, [np.datetime64("2020-01-01")], 1j]
)
def test_what_has_no_plain_value_is_refused(value):
    with pytest.raises(PipelineError, match=r"^here: "):
        plain(value, "here")
