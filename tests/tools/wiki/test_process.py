import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tools.wiki.process import Searcher, SearchProcess
from tests.tools.wiki.conftest import TEXTS


@pytest.fixture(scope="module")
def one_searcher(small_index):
    with Searcher(Path(small_index["folder"])) as searcher:
        yield searcher


@pytest.fixture
def searcher(one_searcher):
    """One for all tests, as Java takes seconds to start. It remembers nothing of the test before."""
    one_searcher._cache.clear()
    one_searcher.timeout = 120
    return one_searcher


def bm25(query, k1, b):
    """Each document's score by the formula, but for the constant factor that Lucene leaves out."""
    words = {name: text.lower().split() for name, text in TEXTS.items()}
    mean = sum(map(len, words.values())) / len(words)
    scores = {}
    for name, document in words.items():
        score = 0.0
        for term in query.split():
            holders = sum(term in other for other in words.values())
            idf = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5))
            count = document.count(term)
            score += idf * count / (count + k1 * (1 - b + b * len(document) / mean))
        if score > 0:
            scores[name] = score
    return scores


def assert_scores_are_bm25s(searcher, k1, b):
    queries = ["north", "wind storm", "cod spark herring"]
    for query, hits in zip(queries, searcher.search(queries, k=10), strict=True):
        expected = bm25(query, k1, b)
        assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)
        assert hits == sorted(hits, key=lambda hit: -hit.score)


def test_scores_are_bm25s_by_default_with_anserinis_parameters(searcher):
    assert_scores_are_bm25s(searcher, 0.9, 0.4)


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.0), (0.2, 1.0)])
def test_scores_are_bm25s(small_index, k1, b):
    with Searcher(Path(small_index["folder"]), k1=k1, b=b) as searcher:
        assert_scores_are_bm25s(searcher, k1, b)


def test_many_queries_at_once_each_get_their_own_hits(searcher):
    found = searcher.search(["cod", "no such thing", "flint", "cod"], k=1)
    assert [[hit.id for hit in hits] for hits in found] == [["fish"], [], ["stone"], ["fish"]]
    assert found[0][0].contents == TEXTS["fish"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "cod " * 2500,
        "title:cod AND (cod* OR \"cod~2' TO ]",
        "🐟 cod",
        "cod\0",
        "\0",
        "cod \ud83d",
        "/cod[^a]+?/",
        "\\",
    ],
)
def test_odd_queries_get_ordinary_answers(searcher, query):
    (hits,) = searcher.search([query])
    assert [hit.id for hit in hits] == (["fish"] if "cod" in query else [])


def test_too_many_words_are_refused_and_the_next_search_works(searcher):
    with pytest.raises(PipelineError):
        searcher.search([" ".join(f"word{i}" for i in range(1500))])
    assert searcher.search(["cod"])[0]


def test_a_killed_process_costs_one_repeated_call(searcher):
    first = searcher.pid
    os.kill(first, signal.SIGKILL)
    assert [hit.id for hit in searcher.search(["cod"])[0]] == ["fish"]
    assert searcher.pid != first


def test_a_process_that_hangs_is_replaced(searcher):
    first = searcher.pid
    searcher.timeout = 1
    os.kill(first, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(searcher.search, ["cod"])
        while searcher.pid == first and not found.done():
            time.sleep(0.1)
        searcher.timeout = 100  # for the second try
    assert [hit.id for hit in found.result()[0]] == ["fish"]
    assert searcher.pid != first


def test_the_cache_answers_without_the_process(small_index):
    with Searcher(Path(small_index["folder"])) as searcher:
        before = searcher.search(["cod", "flint"], k=2)
        searcher.close()
        assert searcher.search(["flint", "cod"], k=2) == before[::-1]
        with pytest.raises(PipelineError, match="has been closed"):
            searcher.search(["haddock"], k=2)


def test_an_interrupted_call_leaves_no_answer_for_the_next(searcher):
    expected = searcher.search(["flint"])

    def interrupted(timeout):
        raise KeyboardInterrupt

    searcher._process._receive = interrupted
    with pytest.raises(KeyboardInterrupt):
        searcher.search(["cod"])
    searcher._cache.clear()
    assert searcher.search(["flint"]) == expected


def test_the_process_ends_with_its_parent(small_index):
    process = SearchProcess()
    process.do("open", folder=small_index["folder"], k1=0.9, b=0.4)
    process._connection.close()
    assert process._process.wait(timeout=30) == 0


def test_what_is_no_index_is_named(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index/segments_1").write_text("nonsense")
    with pytest.raises(
        PipelineError, match=r"index cannot be opened as a Lucene index \(.*build_index"
    ):
        Searcher(tmp_path / "index")
