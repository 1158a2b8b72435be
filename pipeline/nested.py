"""Mappings and lists in mappings, as params and records are."""

from collections.abc import Mapping, MutableMapping
from numbers import Integral, Real
from typing import Any

from pipeline.errors import PipelineError


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One mapping of all values, with dots in its keys: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def put(nested: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Sets a value by its key, with dots; mappings that are missing on the way are made."""
    *path, last = key.split(".")
    for name in path:
        if not isinstance(nested.get(name), MutableMapping):
            nested[name] = {}
        nested = nested[name]
    nested[last] = value


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys, with dots and in their order, whose values are not the same in both."""
    first, second = flatten(one), flatten(other)
    return [key for key in first | second if first.get(key) != second.get(key)]


def plain(value: Any, where: str) -> Any:
    """The value as Python's own None, bool, int, float, str, and lists and dicts of them.

    So states and tables can keep it. NumPy's and torch's numbers, texts and arrays have such a value,
    tuples and further kinds of `str` and `int` too.

    Args:
        where: what holds the value, for the error.

    Raises:
        PipelineError: if there is no such value.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if hasattr(value, "tolist") and not isinstance(inner := value.tolist(), type(value)):
        return plain(inner, where)
    raise PipelineError(
        f"{where}: {str(value)[:100]!r} ({type(value).__name__}) is no number, text, list or mapping by "
        "text, so it cannot be kept"
    )
