"""Where the answer was that a search did not show: asked of the index, after the episode."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.answers import contains
from pipeline.tools.wiki import MAX_CHARACTERS, first_paragraph
from pipeline.tools.wiki.process import Hit, Searcher

DEPTH = 10
"""How far down the hits of the model's query an answer is looked for."""

CORPUS_DEPTH = 100
"""How many of the best hits of an answer itself are read to see whether it is in the corpus at all."""


DIAGNOSES = {
    "question_finds": "the question itself, as query, would have shown the answer: better queries help",
    "in_article": "the answer is further down in the article: show more of it",
    "rank": "another of the query's ten best hits shows the answer: a better ranking, or more hits, help",
    "in_corpus": "the answer is somewhere in the corpus; where it is not, hardly any query could find it",
}
"""The columns of a diagnosis, and what it means where one of them holds.

`rank` is the place, from 1, of the first of the query's best hits that shows an answer, None for none. The
others are true or false. `in_corpus` goes by the hits for the query, the question and the answers.
"""


@dataclass(frozen=True)
class Search:
    """A search to ask about."""

    query: str  # as the model wrote it
    question: str
    aliases: Sequence[str]  # all that count as right


def last_search(calls: Sequence[Mapping[str, Any]]) -> str:
    """What the last call that did not fail searched for. Raises IndexError if all of them failed."""
    return [call["argument"] for call in calls if not call["error_kind"]][-1]


def diagnose(
    searcher: Searcher, searches: Sequence[Search], shown: int = 1
) -> dict[str, list[Any]]:
    """The columns of `DIAGNOSES`, with a value for each search.

    A few queries for each, all asked of the index at once. The tool shows so many hits of each.
    """
    queries = [search.query for search in searches]
    questions = [search.question[:MAX_CHARACTERS] for search in searches]
    aliases = sorted({a[:MAX_CHARACTERS] for search in searches for a in search.aliases})
    by_query = dict(zip(queries, searcher.search(queries, DEPTH), strict=True))
    by_question = dict(zip(questions, searcher.search(questions, shown), strict=True))
    by_alias = dict(zip(aliases, searcher.search(aliases, CORPUS_DEPTH), strict=True))
    columns: dict[str, list[Any]] = {name: [] for name in DIAGNOSES}
    for search in searches:
        hits = by_query[search.query]
        ranks = [i for i, hit in enumerate(hits, 1) if _shows(hit, search.aliases)]
        best = by_question[search.question[:MAX_CHARACTERS]]
        # An answer of stop words ("Be", "No") has no hits, though documents have it.
        for_aliases = (by_alias[alias[:MAX_CHARACTERS]] for alias in search.aliases)
        read = itertools.chain(best, hits, *for_aliases)
        columns["question_finds"].append(any(_shows(hit, search.aliases) for hit in best))
        columns["in_article"].append(
            any(contains(hit.contents, search.aliases) for hit in hits[:shown])
        )
        columns["rank"].append(ranks[0] if ranks else None)
        columns["in_corpus"].append(any(contains(hit.contents, search.aliases) for hit in read))
    return columns


def question_finds(
    searcher: Searcher, questions: Sequence[str], aliases: Sequence[Sequence[str]], shown: int
) -> list[bool]:
    """For each question whether the tool, asked the question itself, shows one of its aliases."""
    queries = [question[:MAX_CHARACTERS] for question in questions]
    found = searcher.search(queries, shown)
    return [
        any(_shows(hit, right) for hit in hits) for hits, right in zip(found, aliases, strict=True)
    ]


def _shows(hit: Hit, aliases: Sequence[str]) -> bool:
    """Whether the wiki tool's output would have had one of the aliases in it."""
    return bool(contains(first_paragraph(hit.contents), aliases))
