import pytest

from pipeline.answers import (
    contains,
    contains_early,
    exact_match,
    f1,
    find,
    normalize,
    number,
    numeric_match,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("A.B.-C's", "b c s"),
        ("1,200", "1 200"),
        ("Africa/Addis_Ababa", "africa addis ababa"),
        ("´Anna` an' the theatre", "anna theatre"),
        ("🚁", "🚁"),
        ("The The", "the the"),
        ("A.", "a"),
        (" !!!", "!!!"),
        (" _ ", ""),
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
        ("It has 5,234,567 people", ["234,567"], 0),
        ("It has 234567 people.", ["234,567"], 1),
        ("1,994 in all", ["994"], 0),
        ("1,994,0 in all", ["1,994"], 0),
        ("on May 5, 1994.", ["1994"], 1),
        ("on 12.10.1994", ["1994"], 1),
        ("from 1914–1918", ["1918"], 1),
        ("below -5 degrees", ["5"], 0),
        ("some 5% of them", ["5"], 0),
        ("some 5 % of them", ["5%"], 1),
        ("from 10%-20% on", ["20%"], 1),
        ("it cost US$5 then", ["$5"], 1),
        ("-$5, 5$, $-5 and $ 5", ["5"], 0),
        ("$3, 5 $7", ["5"], 1),  # the next number's dollar
        ("if x >5 (<5, ~5)", ["5"], 0),
        ("<b>5</b>", ["5"], 1),
        ("all films 18+, and up", ["18"], 0),
        ("5+3", ["5"], 1),
        ("C#, C++; F# too", ["C"], 0),
        ("C#, C++; F# too", ["c++"], 1),
        ("a + b, c+d", ["b"], 1),
        ("Google+", ["Google"], 0),
    ],
)
def test_contains(text, answers, found):
    assert contains(text, answers) == found


@pytest.mark.parametrize("answer", ["The The", "A", "!!!", "a/the"])
def test_an_answer_of_articles_or_punctuation_has_to_be_the_whole_text(answer):
    for text in (answer, f" {answer.upper()}\n"):
        assert (
            contains(text, ["x", answer]) == exact_match(text, [answer]) == f1(text, [answer]) == 1
        )
        assert find(text, [answer]) == (len(text) - len(text.lstrip()), len(text.rstrip()))
    for text in ("", "an", f"{answer} Paris", "The city of Paris is a capital!"):
        assert contains(text, [answer]) == exact_match(text, [answer]) == 0
        assert find(text, [answer]) is None
    assert contains("Paris", ["Paris", answer]) == 1


def test_only_the_first_twenty_words_count_early():
    words = "word " * 19
    assert contains_early(words + "Paris", ["Paris"]) == 1
    assert contains_early(words + "word Paris", ["Paris"]) == 0


def test_exact_match():
    assert exact_match("The Brown-Act", ["x", "brown act"]) == 1
    assert exact_match("the Brown Act of 1953", ["Brown Act"]) == 0
    assert exact_match("", ["", "the"]) == 0


@pytest.mark.parametrize("text", ["5%", "$5", "<5", ">5", "-5", "5+"])
def test_the_measures_are_the_official_ones_and_read_neither_signs_nor_units(text):
    assert exact_match(text, ["5"]) == 1
    assert f1(text, ["5"]) == 1


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        (" -1,250 ", -1250),
        ("$7.50", 7.5),
        ("-$3", -3),
        ("$-3", -3),
        ("−4", -4),
        (".5", 0.5),
        ("8.0", 8),
        ("3.", 3),
        ("29.00.", 29),
        ("$1,234.50.", 1234.5),
        ("+2", 2),
        ("5e-05", 0.00005),
        ("1e+16", 10**16),
        ("1e+100", 10**100),
        ("1,234,567.5", 1234567.5),
        ("042", 42),
        ("-0", 0),
    ],
)
def test_numbers(text, value):
    assert number(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "-", ".", "$", "e5", "1,25", "1,2345", "7 8", "7 apples", "seven", "1e999", "4.2e1", "12e+05", "0,042", ",5", "1,0.1", "25%", "٤٢", "４２", "9" * 5000, "1\n2", "1/2", "nan", "--1", "1..", "1.2..", "-$-1", "1.2.3"])  # fmt: skip
def test_no_numbers(text):
    assert number(text) is None


@pytest.mark.parametrize(
    ("text", "answer", "match"),
    [
        ("0.30000000000000004", "0.3", 1),
        ("33.333333333333336", "33.33", 0),
        ("1000001", "1000000", 0),
        ("1e-12", "0", 1),
        ("0.01", "0", 0),
        ("eight", "8", 0),
    ],
)
def test_numeric_match(text, answer, match):
    assert numeric_match(text, answer) == match


def test_an_answer_that_is_no_number_is_a_mistake():
    with pytest.raises(ValueError, match="'many' is no number"):
        numeric_match("7", "many")


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("It was the Beatles, I think.", ["Fab Four", "The Beatles"], "Beatles"),
        ("He saw U.S.A. coins", ["usa", "U S A"], "U.S"),
        ("rock_and_roll!", ["Rock 'and' Roll"], "rock_and_roll"),
        ("Peter Pan, a play", ["Pan the play"], "Pan, a play"),
        ("Peter Panther", ["Pan"], None),
        ("Peter", [""], None),
        ("Peter", [], None),
        ("İstanbul is big", ["is big"], "is big"),
    ],
)
def test_where_an_answer_stands(text, answers, found):
    span = find(text, answers)
    assert (span and text[slice(*span)]) == found
