import pytest

from pipeline.environment.cutting import cut_alike, shares


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ([], 9, []),
        ([3, 4], 9, [3, 4]),
        ([8, 8, 8], 12, [4, 4, 4]),
        ([2, 9, 9], 12, [2, 5, 5]),
        ([9, 1, 9, 9], 10, [3, 1, 3, 3]),
        ([9, 9], 5, [2, 3]),
        ([9, 9], -1, [0, 0]),
    ],
)
def test_what_the_short_ones_leave_goes_to_the_long_ones(lengths, room, kept):
    assert shares(lengths, room) == kept


def cut(parts, room):
    return cut_alike(parts, room, list, "".join, "...")


def test_each_part_keeps_a_share_and_says_that_it_was_cut():
    text = cut(["a" * 40, "bb", "c" * 40], 42)
    assert text == "a" * 14 + "...\nbb\n" + "c" * 14 + "..."
    assert len(text) <= 42


def test_parts_that_fit_stay_whole():
    assert cut(["aa", "bb"], 99) == "aa\nbb"


def test_no_half_character_and_no_blank_stands_before_the_mark():
    text = cut_alike(
        ["aé" * 9], 12, lambda t: list(t.encode()), lambda b: bytes(b).decode(errors="replace"), "."
    )
    assert text == "aéaéaéa."
