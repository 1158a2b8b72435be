"""How many searches a second the wiki tool's searcher answers, and how fast documents are indexed.

    python -m scripts.bench_search [documents.jsonl.gz questions.jsonl]

Without files, over the built-in encyclopaedia with questions on it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tools.wiki.corpus import documents, write_documents
from pipeline.tools.wiki.index import build_index
from pipeline.tools.wiki.process import Searcher

ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) == 3:
            corpus, questions = (Path(argument) for argument in sys.argv[1:])
            queries = [
                json.loads(line)["question"] for line in questions.open(encoding="utf-8-sig")
            ]
        else:
            params = load_params()
            corpus = folder / "documents.jsonl.gz"
            write_documents(
                documents(params.corpus.model_copy(update={"source": "builtin"})), corpus
            )
            data = params.task("trivia").data
            data = data.model_copy(update={"train": 100_000})
            queries = [p["question"] for p in load_task("trivia").problems(data)["train"]]
        begin = time.perf_counter()
        record = build_index(corpus, folder / "index", lambda done: None)
        seconds = time.perf_counter() - begin
        print(f"indexed {record['documents']:,} documents in {seconds:.1f} s")
        for hits in (1, 5):
            rates = []
            for _ in range(ROUNDS):
                with Searcher(folder / "index", threads=2) as searcher:
                    begin = time.perf_counter()
                    for start in range(0, len(queries), 256):
                        searcher.search(queries[start : start + 256], hits)
                    rates.append(len(queries) / (time.perf_counter() - begin))
            print(
                f"{len(queries):,} searches for {hits} hit(s), two threads, a cold process each "
                f"time: {min(rates):,.0f} to {max(rates):,.0f} a second"
            )


if __name__ == "__main__":
    main()
