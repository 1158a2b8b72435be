"""The Lucene index over a corpus: building it, or fetching a prebuilt one, and its record.

The record is what later stages depend on. Lucene writes random numbers into its files, so two indexes
of the same documents never are the same bytes; their records are, and so are the hits.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import require, sha256
from pipeline.tools.wiki.process import Searcher, SearchProcess

Record = dict[str, Any]
"""Where the index lies (`folder`), how many `documents` it has, and how it was built."""


def build_index(documents_file: Path, folder: Path, on_progress: Callable[[int], None]) -> Record:
    """Indexes a gzipped JSONL file of `{id, contents}` in the new folder `folder`.

    Raises PipelineError if Lucene fails, the file holds no documents, or the index holds another number.
    """
    folder.mkdir(parents=True)
    process = SearchProcess()
    done = 0

    def progress(documents: int) -> None:
        nonlocal done
        on_progress(documents - done)
        done = documents

    try:
        documents = process.do("index", progress, documents=str(documents_file), folder=str(folder))
        if documents == 0:
            raise PipelineError("there are no documents in it")
    except (PipelineError, ConnectionError) as error:
        raise PipelineError(
            f"indexing {documents_file} failed: {error}; if the file is broken, remove it and "
            "run `dvc repro build_corpus`"
        ) from error
    finally:
        process.close()
    if documents != done:
        raise PipelineError(f"the index holds {documents} documents, {documents_file} has {done}")
    return {
        "documents": done,
        "sha256": sha256(documents_file),
        "analyzer": "Anserini's default for English: stop words removed, Porter's stemmer",
        "pyserini": importlib.metadata.version("pyserini"),
    }


def fetch_index(name: str) -> Record:
    """Downloads and verifies one of pyserini's prebuilt indexes, where that has not been done yet.

    It stays in pyserini's own cache (~/.cache/pyserini, or $PYSERINI_CACHE).
    """
    process = SearchProcess(quiet=False)
    try:
        found = process.do("download", name=name)
    except (PipelineError, ConnectionError) as error:
        raise PipelineError(f"corpus.prebuilt: {name!r} cannot be had: {error}") from error
    finally:
        process.close()
    return {"prebuilt": name, **found, "pyserini": importlib.metadata.version("pyserini")}


def open_index(record: Record, **options: Any) -> Searcher:
    """A searcher on the index that a record tells of; `options` go to `Searcher`.

    Raises PipelineError if the index is not there, is broken, or is not the recorded one.
    """
    folder = Path(record["folder"])
    if "prebuilt" in record and not folder.exists():
        raise PipelineError(
            f"{folder} is gone from pyserini's cache: run `dvc repro --force build_index`"
        )
    searcher = Searcher(require(folder, "build_index"), **options)
    if searcher.documents != record["documents"]:
        searcher.close()
        raise PipelineError(
            f"{record['folder']} holds {searcher.documents} documents, its record says "
            f"{record['documents']}: run `dvc repro --force build_index`"
        )
    return searcher
