import functools
import gzip
import hashlib
import http.server
import json
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from pipeline.answers import contains
from pipeline.errors import PipelineError
from pipeline.tools.wiki import process as search_process
from pipeline.tools.wiki.corpus import write_documents
from pipeline.tools.wiki.index import build_index, fetch_index, open_index
from tests.tools.wiki.conftest import TEXTS

SHARED = Path(__file__).parents[4] / "shared/datasets"


def test_the_record_says_what_the_index_is_of(small_index):
    assert small_index["documents"] == len(TEXTS)
    corpus = Path(small_index["folder"]).parent / "documents.jsonl.gz"
    assert small_index["sha256"] == hashlib.sha256(corpus.read_bytes()).hexdigest()


def test_progress_adds_up(tmp_path):
    rows = ({"id": str(i), "contents": f"Number {i}\nword{i}"} for i in range(12_000))
    write_documents(rows, tmp_path / "documents.jsonl.gz")
    seen = []
    record = build_index(tmp_path / "documents.jsonl.gz", tmp_path / "index", seen.append)
    assert len(seen) > 1
    assert sum(seen) == record["documents"] == 12_000


def test_the_same_documents_give_the_same_hits(tmp_path):
    # All are equally good: which comes first is the index's choice.
    rows = [{"id": str(i), "contents": "Same\nvery same words"} for i in range(300)]
    found = []
    for name in ("one", "two"):
        write_documents(rows, tmp_path / "documents.jsonl.gz")
        record = build_index(tmp_path / "documents.jsonl.gz", tmp_path / name, lambda done: None)
        with open_index({"folder": str(tmp_path / name), **record}) as searcher:
            found.append(searcher.search(["words"], k=20))
    assert found[0] == found[1]


def test_a_half_written_index_is_refused(small_index, tmp_path):
    broken = tmp_path / "index"
    shutil.copytree(small_index["folder"], broken)
    largest = max(broken.iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:50])
    with pytest.raises(PipelineError, match="cannot be opened as a Lucene index"):
        open_index({**small_index, "folder": str(broken)})


def test_an_index_of_other_documents_is_refused(small_index):
    with pytest.raises(PipelineError, match="holds 4 documents, its record says 5"):
        open_index({**small_index, "documents": 5})


def test_no_index_yet(small_index, tmp_path):
    with pytest.raises(PipelineError, match="run `dvc repro build_index` first"):
        open_index({**small_index, "folder": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (['{"id": "a", "contents": "A"}', '{"id": "b"}'], r"gz:2: no good 'contents'"),
        (['{"id": "a", "contents": "A"}', "nonsense"], r"gz:2: not JSON"),
        ([], r"there are no documents in it"),
    ],
)
def test_documents_that_lucene_would_leave_out_are_told(tmp_path, lines, complaint):
    path = tmp_path / "documents.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    with pytest.raises(PipelineError, match=rf"{complaint}.*run `dvc repro build_corpus`"):
        build_index(path, tmp_path / "index", lambda done: None)


def test_indexing_that_fails_says_why(tmp_path):
    (tmp_path / "documents.jsonl.gz").write_text("not gzip")
    with pytest.raises(PipelineError, match=r"[Nn]ot a gzipped file"):
        build_index(tmp_path / "documents.jsonl.gz", tmp_path / "index", lambda done: None)


# --- a prebuilt index, served from this machine ----------------------------------------------------

WORKER_WITH_OTHER_REGISTRY = """
import json, runpy, sys
from pipeline.tools.wiki import java
java.start_java()
java.start_java = lambda: None
from pyserini import prebuilt_index_info
prebuilt_index_info.TF_INDEX_INFO["wikipedia-kilt-doc"] = json.loads({entry!r})
sys.argv = ["worker", sys.argv[1]]
runpy.run_module("pipeline.tools.wiki.worker", run_name="__main__")
"""


@pytest.fixture
def prebuilt(small_index, tmp_path, monkeypatch):
    """Serves the small index on loopback, in place of pyserini's `wikipedia-kilt-doc`.

    Returns the registry's entry, to be changed before the search process starts.
    """
    served = tmp_path / "served"
    served.mkdir()
    name = "lucene-index.wikipedia-kilt-doc.test"
    with tarfile.open(served / f"{name}.tar.gz", "w:gz") as tar:
        tar.add(small_index["folder"], arcname=name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archive = served / f"{name}.tar.gz"
    words = [word for text in TEXTS.values() for word in text.lower().split()]
    entry = {
        "description": "a small one",
        "filename": archive.name,
        "urls": [f"http://127.0.0.1:{server.server_port}/{archive.name}"],
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "size compressed (bytes)": archive.stat().st_size,
        "total_terms": len(words),
        "documents": len(TEXTS),
        "unique_terms": len(set(words)),
        "downloaded": False,
    }
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    genuine = search_process.subprocess.Popen

    def popen(command, **options):
        if command[1:3] == ["-m", "pipeline.tools.wiki.worker"]:
            code = WORKER_WITH_OTHER_REGISTRY.format(entry=json.dumps(entry))
            command = [sys.executable, "-c", code, *command[3:]]
        return genuine(command, **options)

    monkeypatch.setattr(search_process.subprocess, "Popen", popen)
    yield entry
    server.shutdown()


def test_a_prebuilt_index_is_downloaded_verified_and_searched(prebuilt):
    record = fetch_index("wikipedia-kilt-doc")
    assert record["documents"] == len(TEXTS)
    assert record["prebuilt"] == "wikipedia-kilt-doc"
    with open_index(record) as searcher:
        assert [hit.id for hit in searcher.search(["cod"])[0]] == ["fish"]
    # A second time it is there already.
    prebuilt["urls"] = ["http://127.0.0.1:9/gone"]
    assert fetch_index("wikipedia-kilt-doc") == record


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("md5", "0" * 32, "checksum"),
        ("size compressed (bytes)", 3, "expected file size"),
        ("documents", 5, '"documents" does not match'),
        ("urls", ["http://127.0.0.1:9/gone"], "(?:[Uu]nable to download|no address)"),
    ],
)
def test_a_wrong_download_is_refused(prebuilt, key, value, complaint):
    prebuilt[key] = value
    with pytest.raises(
        PipelineError, match=rf"corpus\.prebuilt: 'wikipedia-kilt-doc' .*{complaint}"
    ):
        fetch_index("wikipedia-kilt-doc")


def test_an_unknown_prebuilt_index_is_named():
    with pytest.raises(PipelineError, match=r"corpus\.prebuilt: 'wikipedia-kilt' .*no index"):
        fetch_index("wikipedia-kilt")


# --- against real data -----------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
def test_the_answers_to_real_questions_are_found_as_often_as_the_reference_did(tmp_path):
    """Measured elsewhere: 36% of TriviaQA's questions have an alias among their top five hits."""
    corpus = SHARED / "wikipedia/documents.jsonl.gz"
    record = build_index(corpus, tmp_path / "index", lambda done: None)
    assert record["documents"] == 157_817
    lines = (SHARED / "triviaqa/test.jsonl").read_text().splitlines()[:1500]
    questions = [json.loads(line) for line in lines]
    with open_index({"folder": str(tmp_path / "index"), **record}, k1=0.9, b=0.4) as searcher:
        found = searcher.search([question["question"] for question in questions], k=5)
    answered = [
        any(contains(hit.contents, question["answers"]) for hit in hits)
        for question, hits in zip(questions, found)
    ]
    assert 0.33 <= sum(answered) / len(answered) <= 0.39
