"""Whether a text holds an answer, by the measures of open-domain question answering."""

import re
import string
from collections import Counter
from collections.abc import Sequence

FIRST_WORDS = 20
"""Toolformer's criterion looks at this many words (Schick et al. 2023, https://arxiv.org/abs/2302.04761)."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}‘’´`“”]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, with neither punctuation nor articles, words apart by one space.

    As in TriviaQA's evaluation (Joshi et al. 2017, https://arxiv.org/abs/1705.03551), punctuation
    becomes a space.
    """
    words = _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.replace("_", " ").lower()))
    return " ".join(words.split())


def contains(text: str, answers: Sequence[str]) -> float:
    """1 if a normalized answer stands in the normalized text as whole words, else 0."""
    padded = f" {normalize(text)} "
    return float(any(f" {answer} " in padded for answer in map(normalize, answers) if answer))


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
