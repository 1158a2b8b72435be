"""Mappings in mappings, as params and records are."""

from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One mapping of all values, with dots in its keys: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys, with dots and in their order, whose values are not the same in both."""
    first, second = flatten(one), flatten(other)
    return [key for key in first | second if first.get(key) != second.get(key)]
