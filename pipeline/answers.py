"""How an answer is written, and when it is right: one grammar for all tasks.

`docs/rewards.md` has the rules, with reasons and examples. Every function takes any text, in time that
grows with its length and no faster.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

FIRST_WORDS = 20
"""Toolformer's criterion looks at this many words (Schick et al. 2023, https://arxiv.org/abs/2302.04761)."""

TOLERANCE = Fraction(1, 10**9)
"""How far numbers may differ, relative to the right one where that is beyond 1: programs compute with
floats."""

LONGEST_NUMBER = 1000
"""Numbers of more characters are not read: Python refuses to convert very long ones."""

LONGEST_WORD = 1000
"""Longer words, in characters, are compared in no other form: Unicode's take quadratic time."""

MOST_OTHER_WORDS = 12
"""How many words an answer may have beside the right one."""

MOST_OTHER_CHARACTERS = 1000
"""How many characters more than the longest right one."""

LINKS = frozenset(("are", "at", "by", "called", "in", "is", "named", "of", "on", "was", "were"))
"""Words that may stand next to the right answer: `it is Tirana`."""

KINDS = frozenset(
    ("city", "country", "county", "island", "river", "state", "town", "village", "year")
)
"""Words that may stand before it and tell what kind of thing it is: `the city of Tirana`."""

SAID = LINKS | frozenset(("answer", "i", "it", "its", "result", "s", "that", "think", "this"))
"""All other words that may stand beside it, whatever the question. None of them names anything."""

DENYING = frozenset(("but", "except", "instead", "neither", "never", "no", "none", "nor", "not", "or", "other", "rather", "t", "than", "unlike", "without"))  # fmt: skip
"""Words that may not stand beside it, even if the question has them."""

_ARTICLES = frozenset(("a", "an", "the"))
_QUOTES = "‘’´`“”"
_DASHES = "‐‑‒–—―−"
_MARKS = re.escape(string.punctuation) + _QUOTES + _DASHES
_ALONE = rf"(?<![^\s{_MARKS}])"  # no letter or digit before
_GROUPED = r"[1-9][0-9]{0,2}(?:,[0-9]{3})++"

_RESULT = re.compile(r"^[ \t]*Result[ \t]*=", re.MULTILINE)
_NUMBER = re.compile(
    r"(?:[+-]?\$?|\$[+-])"
    rf"(?:(?:{_GROUPED}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+|[0-9](?:\.[0-9]+)?e[+-][0-9]{{2,3}})"
)
_SIGN = rf"[+\-{_DASHES}]"
_TOKEN = re.compile(
    # A whole number: no part of a word, of a longer number, of a list without blanks. With it goes what
    # makes it another: `>1948`, `-5`, `$5`, `5%`, `18+`.
    rf"(?P<compared>(?<![^\s(\[\"'])[<>~]=?[ \t]*+)?"
    rf"(?P<sign>{_ALONE}(?<![%$+]){_SIGN}|\A\s*{_SIGN}\s+)?(?P<currency>\$[ \t]*+(?P<inner>{_SIGN})?)?"
    rf"(?<![0-9][.,]){_ALONE}(?P<number>{_GROUPED}(?:\.[0-9]++)?|[.,]?[0-9]++(?:\.[0-9]++)?)"
    rf"(?![.,]?[0-9])(?![^\s{_MARKS}])(?P<unit>[ \t]*+[$%](?![ \t]*+[.,]?[0-9])|\+(?![0-9]))?"
    # Or a word, as `C`, `C#`, `C++`.
    rf"|(?P<word>[^\s{_MARKS}]++(?:(?:\#|\+\+?)(?![^\s{_MARKS}]))?)"
)
_DELIMITER = re.compile(r"[,;:()\n]|\s[-–—]\s")
_OFFICIAL_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}‘’´`]")
_OFFICIAL_ARTICLES = re.compile(r"\b(a|an|the)\b")


# --- what is handed in -----------------------------------------------------------------------------


def handed_in(text: str, end: str) -> str:
    """What stands between `Result=` and the tag `end`; empty where nothing is handed in like this.

    `Result` has to begin a line, and the last such line counts: the model has replaced what stands before
    it. `end` may occur once only. The environment ends an episode there, and two would be two answers.
    """
    before, *after = text.split(end)
    starts = [match.end() for match in _RESULT.finditer(before)] if len(after) == 1 else []
    return before[starts[-1] :].strip() if starts else ""


# --- numbers ---------------------------------------------------------------------------------------


def number(text: str) -> Fraction | None:
    """The number that the text is, as in `-1,250`, `$7.50`, `.5` or `1e-05`; None if it is not one.

    Digits are ASCII, commas separate thousands, and an exponent is written as programs print it. A full
    stop may follow, as at the end of a sentence.
    """
    plain = text.strip().replace("−", "-").removesuffix(".")
    if len(plain) > LONGEST_NUMBER or not _NUMBER.fullmatch(plain):
        return None
    return Fraction(plain.replace("$", "").replace(",", ""))


def numeric_match(text: str, answer: str) -> float:
    """1 if the text is the same number as the answer, but for the last digits of a float, else 0.

    Raises ValueError if the answer is no number.
    """
    right, given = number(answer), number(text)
    if right is None:
        raise ValueError(f"the answer {answer!r} is no number")
    return float(
        given is not None and abs(given - right) <= TOLERANCE * max(Fraction(1), abs(right))
    )


# --- texts -----------------------------------------------------------------------------------------

Token = tuple[str, int, int]
"""A word or a number in the form that is compared, and where it stands: start and end in characters."""


def names(text: str, answers: Sequence[str], question: str = "") -> float:
    """1 if the text names one of the answers and says nothing else, else 0.

    It is the answer, or a sentence around it. All other words of the sentence are among `SAID`, `KINDS`
    or the question's. An answer that shares words with the question, or consists of `SAID`, has to be
    the whole text: otherwise `Paris, Berlin` would be paid where the question names both.
    """
    if len(text) > MOST_OTHER_CHARACTERS + max(map(len, answers), default=0):
        return 0.0
    tokens = list(_tokens(text))
    given = _words(text)
    asked = {word for word, _, _ in _tokens(question)} - SAID - DENYING
    return float(
        any(
            given == right
            or (
                asked.isdisjoint(right)
                and not SAID.issuperset(right)
                and _sentence_around(right, text, tokens, SAID | asked)
            )
            for right in map(_words, answers)
            if right
        )
    )


def find(text: str, answers: Sequence[str]) -> tuple[int, int] | None:
    """Where an answer first stands in the text as whole words: (start, end) in characters.

    A number stands there as a whole number, with its sign and unit. An answer of articles or punctuation only (`A`, `The The`,
    `!!!`) has to be the whole text: its words stand in most sentences.
    """
    tokens = list(_tokens(text))
    words = [word for word, _, _ in tokens]
    wanted: dict[str, list[list[str]]] = {}
    for answer in answers:
        if content := [word for word, _, _ in _tokens(answer)]:
            wanted.setdefault(content[0], []).append(content)
    for first, (word, start, _) in enumerate(tokens):
        for content in wanted.get(word, ()):
            last = first + len(content)
            if words[first:last] == content:
                return start, tokens[last - 1][2]
    if not tokens and (given := _words(text)) and given in map(_words, answers):
        start = len(text) - len(text.lstrip())
        return start, start + len(text.strip())
    return None


def contains(text: str, answers: Sequence[str]) -> float:
    """1 if an answer stands in the text as `find` finds it, else 0."""
    return float(find(text, answers) is not None)


def contains_early(text: str, answers: Sequence[str]) -> float:
    """1 if an answer stands in the first 20 words, else 0."""
    return contains(" ".join(text.split()[:FIRST_WORDS]), answers)


def _sentence_around(
    right: list[str], text: str, tokens: Sequence[Token], known: frozenset[str] | set[str]
) -> bool:
    """Whether the right words stand in the text once, next to links or delimiters, and else known words."""
    words = [word for word, _, _ in tokens]
    if len(words) > len(right) + MOST_OTHER_WORDS:
        return False
    for first in range(len(words) - len(right) + 1):
        last = first + len(right)
        before, after = words[:first], words[last:]
        if (
            words[first:last] == right
            and known.issuperset(after)
            and (known | KINDS).issuperset(before)
            and (not before or before[-1] in LINKS | KINDS or _apart(text, tokens, first))
            and (not after or after[0] in LINKS or _apart(text, tokens, last))
        ):
            return True
    return False


def _apart(text: str, tokens: Sequence[Token], second: int) -> bool:
    """Whether a comma, a bracket or such stands between a token and the one before it."""
    return bool(_DELIMITER.search(text, tokens[second - 1][2], tokens[second][1]))


def _tokens(text: str) -> Iterator[Token]:
    """The words and numbers of the text but for articles."""
    for match in _TOKEN.finditer(text):
        word = _form(match)
        if word not in _ARTICLES:
            yield word, match.start(), match.end()


def _words(text: str) -> list[str]:
    """The words and numbers of the text. Where nothing else is left, the articles or marks that it has."""
    content = [word for word, _, _ in _tokens(text)]
    return content or [_form(match) for match in _TOKEN.finditer(text)] or text.split()


def _form(token: re.Match[str]) -> str:
    """The one form of all ways to write the same word or number.

    Of words it is lower case and Unicode's NFKC. Digits that are not ASCII are not made so: no task reads
    them. A dollar stands before the number, a comparison before all.
    """
    word, number = token.group("word", "number")
    if word is None:
        compared, sign, currency, inner, unit = (
            (token.group(name) or "").strip()
            for name in ("compared", "sign", "currency", "inner", "unit")
        )
        minus = "-" if (sign + inner).strip("+") else ""
        dollar = "$" if currency or unit == "$" else ""
        figures = number if number.startswith(",") else number.replace(",", "")
        return compared + minus + dollar + figures + unit.strip("$")
    if word.isascii() or len(word) > LONGEST_WORD:
        return word.lower()
    odd = any(character.isdigit() for character in word if not character.isascii())
    return unicodedata.normalize("NFC" if odd else "NFKC", word).lower()


# --- the field's measures --------------------------------------------------------------------------


def normalize(text: str) -> str:
    """Lower case, with neither punctuation nor articles, words apart by one space.

    As in TriviaQA's evaluation (Joshi et al. 2017, https://arxiv.org/abs/1705.03551), punctuation
    becomes a space. Unlike there, what would vanish altogether stays: `The The` becomes `the the`, and
    `!!!` stays as it is.
    """
    plain = text.replace("_", " ").lower()
    spaced = _OFFICIAL_PUNCTUATION.sub(" ", plain)
    words = _OFFICIAL_ARTICLES.sub(" ", spaced).split() or spaced.split() or plain.split()
    return " ".join(words)


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 if the normalized text is a normalized answer, else 0."""
    return float(normalize(text) in {normalize(answer) for answer in answers} - {""})


def f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of the text's and an answer's normalized words, as SQuAD counts it.

    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, §6.1.
    """
    words = normalize(text).split()
    return max((_f1(words, normalize(answer).split()) for answer in answers), default=0.0)


def _f1(words: list[str], answer: list[str]) -> float:
    common = (Counter(words) & Counter(answer)).total()
    return 2 * common / (len(words) + len(answer)) if common else 0.0
