"""What runs in the search process: Lucene, by pyserini, at the other end of a connection.

Started by `pipeline.tools.wiki.process` as `python -m pipeline.tools.wiki.worker <file descriptor>`. Each
message is a JSON object; `do` names one of the functions below, the rest are its arguments. Answers are
`{"progress": ...}` any number of times, then `{"result": ...}` or `{"error": "why"}`.
"""

import gzip
import json
import os
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from pipeline.lifetime import parents, stop_after
from pipeline.sources import parse_row

BATCH = 5000
"""How many documents are handed to Lucene at a time."""


class Worker:
    """The functions that messages name. Answers the connection itself for progress only."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.searcher: Any = None

    def index(self, documents: str, folder: str) -> int:
        """Builds a Lucene index of a gzipped JSONL file of `{id, contents}` in an empty folder; returns
        how many documents it has."""
        from pyserini.index.lucene import LuceneIndexer
        from pyserini.search.lucene import LuceneSearcher

        # One thread: with more, the order of documents, and so that of equally good hits, is chance.
        indexer = LuceneIndexer(args=["-index", folder, "-storeRaw"], threads=1)
        done = 0
        for batch in _batches(documents):
            indexer.add_batch_raw(batch)
            done += len(batch)
            self.connection.send_bytes(json.dumps({"progress": done}).encode())
        indexer.close()
        return LuceneSearcher(folder).num_docs

    def download(self, name: str) -> dict[str, Any]:
        """Fetches, verifies and opens one of pyserini's prebuilt indexes: its folder and size."""
        from pyserini.search.lucene import LuceneSearcher

        searcher = LuceneSearcher.from_prebuilt_index(name, verbose=True)
        if searcher is None:
            raise ValueError(f"pyserini knows no index {name!r}, or no address gave it")
        return {"folder": searcher.index_dir, "documents": searcher.num_docs}

    def open(self, folder: str, k1: float, b: float) -> int:
        """Opens an index for searching by BM25; returns how many documents it has."""
        from pyserini.search.lucene import LuceneSearcher

        self.searcher = LuceneSearcher(folder)
        self.searcher.set_bm25(k1, b)
        return self.searcher.num_docs

    def search(self, queries: list[str], k: int, threads: int) -> list[list[list]]:
        """For each query its up to k best hits, `[id, score, contents]` each."""
        names = [str(number) for number in range(len(queries))]
        found = self.searcher.batch_search(queries, names, k=k, threads=threads)
        return [
            [
                [hit.docid, hit.score, json.loads(hit.lucene_document.get("raw"))["contents"]]
                for hit in found[name]
            ]
            for name in names
        ]


def _batches(path: str) -> Iterator[list[str]]:
    batch = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            parse_row(
                line, f"{path}:{number}", {"id": str, "contents": str}
            )  # Lucene would skip it
            batch.append(line)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def main(descriptor: int) -> None:
    """Answers messages until the other end closes the connection."""
    from pipeline.tools.wiki.java import start_java

    stop_after(parents(), lambda: True)  # also in the midst of an hour's work
    connection = Connection(descriptor)
    worker = Worker(connection)
    running = False
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:  # without Java's and Python's farewells, which take seconds
            os._exit(0)
        try:
            if not running:
                start_java()
                running = True
            answer = {"result": getattr(worker, message.pop("do"))(**message)}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
