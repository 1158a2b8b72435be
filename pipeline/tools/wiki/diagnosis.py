"""What a bad search could have found: asked of the index, after the episode."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.answers import contains
from pipeline.tools.wiki import MAX_CHARACTERS, first_paragraph
from pipeline.tools.wiki.process import Hit, Searcher

DEPTH = 10
"""How far down the hits of the model's query an answer is looked for."""

CORPUS_DEPTH = 100
"""How many of the best hits of an answer itself are read to see whether it is in the corpus at all."""


@dataclass(frozen=True)
class SearchDiagnosis:
    """Where the answer was that a search did not show."""

    question_finds: bool  # whether the question itself, as query, would have shown it
    in_article: bool  # whether it stands further down in the article that was found
    rank: (
        int | None
    )  # of the first of the query's best hits that would show it, from 1; None for none
    in_corpus: bool  # whether one of these, or of the best hits for an answer itself, has it


@dataclass(frozen=True)
class Search:
    """A search to ask about."""

    query: str  # as the model wrote it
    question: str
    answers: Sequence[str]  # all that count as right


def diagnose(searcher: Searcher, searches: Sequence[Search]) -> list[SearchDiagnosis]:
    """The diagnosis of each search. A few queries for each, all asked of the index at once."""
    queries = [search.query for search in searches]
    questions = [search.question[:MAX_CHARACTERS] for search in searches]
    answers = sorted({a[:MAX_CHARACTERS] for search in searches for a in search.answers})
    by_query = dict(zip(queries, searcher.search(queries, DEPTH), strict=True))
    by_question = dict(zip(questions, searcher.search(questions, 1), strict=True))
    by_answer = dict(zip(answers, searcher.search(answers, CORPUS_DEPTH), strict=True))
    found = []
    for search in searches:
        hits = by_query[search.query]
        ranks = [i for i, hit in enumerate(hits, 1) if _shows(hit, search.answers)]
        best = by_question[search.question[:MAX_CHARACTERS]]
        # An answer of stop words ("Be", "No") has no hits, though documents have it.
        for_answers = (by_answer[answer[:MAX_CHARACTERS]] for answer in search.answers)
        read = itertools.chain(best, hits, *for_answers)
        found.append(
            SearchDiagnosis(
                question_finds=bool(best) and _shows(best[0], search.answers),
                in_article=bool(hits) and bool(contains(hits[0].contents, search.answers)),
                rank=ranks[0] if ranks else None,
                in_corpus=any(contains(hit.contents, search.answers) for hit in read),
            )
        )
    return found


def _shows(hit: Hit, answers: Sequence[str]) -> bool:
    """Whether the wiki tool's answer would have had one of the answers in it."""
    return bool(contains(first_paragraph(hit.contents), answers))
