import pytest

from pipeline.evaluation.answers import contains, contains_early, exact_match, f1, normalize


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("A.B.-C's", "b c s"),
        ("1,200", "1 200"),
        ("Africa/Addis_Ababa", "africa addis ababa"),
        ("“Anna” an' the theatre", "anna theatre"),
        ("🚁", "🚁"),
        ("", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("It was the Brown Act.", ["brown act"], 1),
        ("browning action", ["brown"], 0),
        ("Paris", ["London", "PARIS!"], 1),
        ("Paris", [], 0),
        ("Paris", ["", "the", "!"], 0),
        ("", ["Paris"], 0),
        ("Act, Brown", ["Brown Act"], 0),
    ],
)
def test_contains(text, answers, found):
    assert contains(text, answers) == found


def test_only_the_first_twenty_words_count_early():
    words = "word " * 19
    assert contains_early(words + "Paris", ["Paris"]) == 1
    assert contains_early(words + "word Paris", ["Paris"]) == 0


def test_exact_match():
    assert exact_match("The Brown-Act", ["x", "brown act"]) == 1
    assert exact_match("the Brown Act of 1953", ["Brown Act"]) == 0
    assert exact_match("", ["", "the"]) == 0


@pytest.mark.parametrize(
    ("text", "answers", "value"),
    [
        ("brown act", ["the Brown Act"], 1),
        ("brown act of 1953", ["Brown Act"], 2 * 2 / (4 + 2)),
        ("brown brown", ["brown act"], 2 * 1 / (2 + 2)),
        ("red", ["brown", "red act"], 2 * 1 / (1 + 2)),
        ("red", ["brown"], 0),
        ("", ["brown"], 0),
        ("red", [], 0),
    ],
)
def test_f1(text, answers, value):
    assert f1(text, answers) == pytest.approx(value)
