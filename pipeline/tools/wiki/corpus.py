"""The documents to search: where they come from, and reading them with every line checked.

A corpus is a gzipped JSONL file of `{id, contents}`, the contents a title line and then paragraphs, as
in pyserini's `wikipedia-kilt-doc`.
"""

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.sources import read_rows
from pipeline.tools.wiki import encyclopaedia

Document = dict[str, str]
"""`id` and `contents`."""


class CorpusSettings(BaseModel):
    """Which of three places the encyclopaedia comes from."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["builtin", "path", "prebuilt"]
    path: Path  # of a JSONL file, gzipped or not
    prebuilt: str  # the name of one of pyserini's indexes, which brings its documents


def documents(settings: CorpusSettings) -> Iterator[Document]:
    """The corpus's documents; none for a prebuilt index, which has its own.

    Raises PipelineError, naming file and line, for what is no `{id, contents}`, for an id that occurs
    twice, and for a file without documents.
    """
    if settings.source == "builtin":
        yield from encyclopaedia.articles()
    elif settings.source == "path":
        yield from read_documents(settings.path)


def read_documents(path: Path) -> Iterator[Document]:
    """Reads JSONL, gzipped if its name ends in `.gz`; raises as `documents` does."""
    for _, row in read_rows(path, {"id": str, "contents": str}, "corpus.path", unique="id"):
        yield {"id": row["id"], "contents": row["contents"]}


def write_documents(rows: Iterable[Document], path: Path) -> int:
    """Writes gzipped JSONL, the same bytes for the same documents; returns how many there were."""
    count = 0
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped,
        io.TextIOWrapper(zipped, encoding="utf-8") as lines,
    ):
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
