from pathlib import Path

import pytest

from pipeline.tools.wiki.corpus import write_documents
from pipeline.tools.wiki.diagnosis import DIAGNOSES, Search, diagnose, last_search, question_finds
from pipeline.tools.wiki.index import build_index
from pipeline.tools.wiki.process import Searcher

DOCUMENTS = {
    "poivey": "Patrick Poivey\nA French actor, the voice of Bruce Willis, Bruce Willis, Bruce Willis.",
    "willis": "Bruce Willis\nWalter Bruce Willis is an American actor with a long career in many films.",
    "brown": "Brown Act\nAn act on meetings.\nIt was passed in 1953.",
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    rows = [{"id": name, "contents": text} for name, text in DOCUMENTS.items()]
    write_documents(rows, folder / "documents.jsonl.gz")
    build_index(folder / "documents.jsonl.gz", folder / "index", lambda done: None)
    with Searcher(Path(folder / "index")) as searcher:
        yield searcher


def test_where_the_answers_of_bad_searches_were(searcher):
    searches = [
        Search("Bruce Willis voice", "Which American actor had a long career?", ["Walter"]),
        Search("Brown Act", "When was the Brown Act passed?", ["1953"]),
        Search("meetings", "Who is the voice?", ["Gérard", "Depardieu"]),
        Search("meetings", "What does the Brown Act act on?", ["on"]),  # a stop word
    ]
    assert diagnose(searcher, searches) == {
        "question_finds": [True, False, False, True],
        "in_article": [False, True, False, True],
        "rank": [2, None, None, 1],
        "in_corpus": [True, True, False, True],
    }


def test_hits_that_are_shown_besides_the_best_count(searcher):
    search = Search("Bruce Willis voice", "Whose voice is Bruce Willis?", ["Walter"])
    for shown, finds in ((1, [False]), (2, [True])):
        assert diagnose(searcher, [search], shown)["question_finds"] == finds
        assert question_finds(searcher, [search.question], [["Walter"]], shown) == finds


def test_no_searches(searcher):
    assert diagnose(searcher, []) == {name: [] for name in DIAGNOSES}


def test_the_last_search_is_that_of_the_last_call_that_did_not_fail():
    calls = [
        {"argument": "first", "error_kind": ""},
        {"argument": "second", "error_kind": ""},
        {"argument": "", "error_kind": "refused"},
    ]
    assert last_search(calls) == "second"
