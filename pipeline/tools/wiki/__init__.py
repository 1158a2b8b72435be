"""A search in an encyclopaedia: the first paragraphs of the articles that fit the query best."""

from collections.abc import Sequence

from pipeline.tools import BatchTool, ToolError, ToolResponse
from pipeline.tools.wiki.process import Hit, Searcher

MAX_CHARACTERS = 500
"""Longer queries are refused: Lucene takes at most 1,024 different words."""

NOTHING = "No article was found."


class Wiki(BatchTool):
    """Answers with the first paragraphs of the best hits, a line each. Records the hits' ids and scores.

    Args:
        searcher: of documents whose contents are a title line and then paragraphs.
        hits: how many of the best to record.
        shown: how many of them to answer with, at most `hits`.
    """

    def __init__(self, searcher: Searcher, hits: int = 1, shown: int = 1) -> None:
        self.searcher = searcher
        self.hits = hits
        self.shown = shown

    def batch(self, arguments: Sequence[str]) -> list[ToolResponse | ToolError]:
        wrong = {query: _objection(query) for query in arguments}
        queries = [query for query, objection in wrong.items() if objection is None]
        found = dict(zip(queries, self.searcher.search(queries, self.hits), strict=True))
        return [wrong[query] or _response(found[query], self.shown) for query in arguments]


def _objection(query: str) -> ToolError | None:
    if not query.strip():
        return ToolError("the search is empty")
    if len(query) > MAX_CHARACTERS:
        return ToolError(f"the search is longer than {MAX_CHARACTERS} characters")
    return None


def _response(hits: list[Hit], shown: int) -> ToolResponse:
    paragraphs = [first_paragraph(hit.contents) for hit in hits[:shown]]
    return ToolResponse(
        "\n".join(paragraphs) if hits else NOTHING,
        {"hits": [{"id": hit.id, "score": round(hit.score, 4)} for hit in hits]},
        paragraphs if len(paragraphs) > 1 else (),
    )


def first_paragraph(contents: str) -> str:
    """What follows the title line, up to the end of the line; the title where nothing follows."""
    lines = [line.strip() for line in contents.splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)] if lines else ""
