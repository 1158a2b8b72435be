from dataclasses import dataclass

import pytest

from pipeline.tools import ToolError
from pipeline.tools.wiki import MAX_CHARACTERS, Wiki, first_paragraph
from pipeline.tools.wiki.process import Hit


@dataclass
class FakeSearcher:
    """Finds what is in `articles`, by title."""

    articles: dict
    asked: list

    def search(self, queries, k):
        self.asked.append((list(queries), k))
        return [self.articles.get(query, []) for query in queries]


@pytest.fixture
def searcher():
    hits = [Hit("t", 7.123456, "Tirana\nThe capital.\nMore."), Hit("d", 1.0, "Durrës\nA port.")]
    return FakeSearcher({"Tirana": hits}, [])


def test_it_answers_with_the_best_hits_first_paragraph_and_records_all(searcher):
    response = Wiki(searcher, hits=2)("Tirana")
    assert response.text == str(response) == "The capital."
    assert response.details == {"hits": [{"id": "t", "score": 7.1235}, {"id": "d", "score": 1.0}]}


def test_it_shows_as_many_hits_as_asked_for_a_line_each(searcher):
    response = Wiki(searcher, hits=2, shown=2)("Tirana")
    assert response.text == "The capital.\nA port."
    assert response.parts == ["The capital.", "A port."]
    assert Wiki(searcher, hits=2)("Tirana").parts == ()  # a text alone is cut at its end


def test_the_calls_of_a_turn_are_one_search(searcher):
    wiki = Wiki(searcher, hits=3)
    answers = wiki.batch(["Tirana", " ", "Atlantis", "x" * (MAX_CHARACTERS + 1), "Tirana"])
    assert searcher.asked == [(["Tirana", "Atlantis"], 3)]
    assert [str(answer) for answer in answers] == [
        "The capital.",
        "the search is empty",
        "No article was found.",
        "the search is longer than 500 characters",
        "The capital.",
    ]
    assert [isinstance(answer, ToolError) for answer in answers] == [0, 1, 0, 1, 0]
    assert answers[2].details == {"hits": []}


def test_a_bad_call_alone_raises(searcher):
    with pytest.raises(ToolError, match="empty"):
        Wiki(searcher)("")


@pytest.mark.parametrize(
    ("contents", "paragraph"),
    [
        ("Title\nFirst.\nSecond.", "First."),
        ("Title\n\n  First. \n", "First."),
        ("Only a title", "Only a title"),
        ("", ""),
    ],
)
def test_first_paragraph(contents, paragraph):
    assert first_paragraph(contents) == paragraph
