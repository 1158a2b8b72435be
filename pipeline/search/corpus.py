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

from pipeline.errors import PipelineError
from pipeline.search import encyclopaedia

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
    seen: set[str] = set()
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                document = _parse(line, f"{path}:{number}")
                if document["id"] in seen:
                    raise PipelineError(f"{path}:{number}: the id {document['id']!r} occurs twice")
                seen.add(document["id"])
                yield document
    except FileNotFoundError as error:
        raise PipelineError(f"corpus.path: there is no file {path}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}:{number + 1}: cannot be read: {error}") from error
    if not seen:
        raise PipelineError(f"{path} holds no documents; expected lines of {{id, contents}}")


def _parse(line: str, where: str) -> Document:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise PipelineError(f"{where}: expected an object {{id, contents}}")
    for field in ("id", "contents"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise PipelineError(f"{where}: no text in the field {field!r}")
    return {"id": row["id"], "contents": row["contents"]}


def open_text(path: Path) -> io.TextIOWrapper:
    """A UTF-8 text file for reading, through gzip if its name says so."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


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
