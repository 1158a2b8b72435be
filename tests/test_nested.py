from pipeline.nested import flatten


def test_keys_get_dots_and_order_stays():
    nested = {"b": {"y": 1, "x": {"z": [2]}}, "a": None}
    assert list(flatten(nested).items()) == [("b.y", 1), ("b.x.z", [2]), ("a", None)]
