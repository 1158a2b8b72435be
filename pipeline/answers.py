"""Whether a text holds an answer: measures of open-domain question answering, and of numbers."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

FIRST_WORDS = 20
"""Toolformer's criterion looks at this many words (Schick et al. 2023, https://arxiv.org/abs/2302.04761)."""

TOLERANCE = Fraction(1, 10**9)
"""How far numbers may differ, relative to the right one where that is beyond 1: programs compute with
floats."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}‘’´`“”]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(rf"[^\s{re.escape(string.punctuation)}‘’´`“”]+")
_NUMBER = re.compile(r"(?:[+-]?\$?|\$[+-])(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d{1,2})?")


def normalize(text: str) -> str:
    """Lower case, with neither punctuation nor articles, words apart by one space.

    As in TriviaQA's evaluation (Joshi et al. 2017, https://arxiv.org/abs/1705.03551), punctuation
    becomes a space. Unlike there, what would vanish altogether stays: `The The` becomes `the the`, and
    `!!!` stays as it is.
    """
    plain = text.replace("_", " ").lower()
    words = _content(text) or _PUNCTUATION.sub(" ", plain).split() or plain.split()
    return " ".join(words)


def find(text: str, answers: Sequence[str]) -> tuple[int, int] | None:
    """Where a normalized answer first stands in the text as whole words: (start, end) in characters.

    An answer of articles or punctuation only (`A`, `The The`, `!!!`) has to be the whole text: its words
    stand in most sentences.
    """
    words = [
        (word, match.start(), match.end())
        for match in _WORD.finditer(text)
        for word in _content(match.group())  # none where it is an article
    ]
    plain = [word for word, _, _ in words]
    wanted = [content for content in map(_content, answers) if content]
    for first in range(len(words)):
        for answer in wanted:
            last = first + len(answer)
            if plain[first:last] == answer:
                return words[first][1], words[last - 1][2]
    if not words and exact_match(text, answers):
        start = len(text) - len(text.lstrip())
        return start, start + len(text.strip())
    return None


def _content(text: str) -> list[str]:
    """The words of the normalized text but for articles, even if nothing else is left."""
    return _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.replace("_", " ").lower())).split()


def contains(text: str, answers: Sequence[str]) -> float:
    """1 if a normalized answer stands in the normalized text as whole words, else 0."""
    return float(find(text, answers) is not None)


def contains_early(text: str, answers: Sequence[str]) -> float:
    """1 if an answer stands in the first 20 words, else 0."""
    return contains(" ".join(text.split()[:FIRST_WORDS]), answers)


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 if the normalized text is a normalized answer, else 0."""
    return float(normalize(text) in {normalize(answer) for answer in answers} - {""})


def f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of the text's and an answer's normalized words, as SQuAD counts it.

    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, §6.1.
    """
    return max((_f1(normalize(text).split(), normalize(a).split()) for a in answers), default=0.0)


def _f1(words: list[str], answer: list[str]) -> float:
    common = (Counter(words) & Counter(answer)).total()
    return 2 * common / (len(words) + len(answer)) if common else 0.0


def number(text: str) -> Fraction | None:
    """The number that the text is, as in `-1,250`, `$7.50`, `.5` or `1e-05`; None if it is not one.

    A full stop may follow, as at the end of a sentence.
    """
    plain = text.strip().replace("−", "-").removesuffix(".")
    if not _NUMBER.fullmatch(plain) or not re.search(r"\d", plain.partition("e")[0]):
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
