"""Rows from outside: JSONL files, and data sets on the Hugging Face hub."""

import gzip
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import PipelineError
from pipeline.files import copied_hint


class HubSplits(BaseModel):
    """A data set on the hub, at a pinned revision, and the names there of its two splits."""

    model_config = ConfigDict(extra="forbid")
    name: str
    config: str
    revision: str
    train: str
    test: str


class FileSplits(BaseModel):
    """JSONL files, gzipped or not."""

    model_config = ConfigDict(extra="forbid")
    train: Path
    test: Path


class DataSet(BaseModel):
    """Where a data set comes from, and how many rows of each split to take, drawn with a seed.

    `validation` rows are cut from those for training, to make choices on. Evaluation is on the rows that
    `evaluate` names.
    """

    model_config = ConfigDict(extra="forbid")
    source: Literal["hub", "path"]
    hub: HubSplits
    path: FileSplits
    train: int = Field(ge=1)
    validation: int = Field(ge=0)
    test: int = Field(ge=1)
    evaluate: Literal["test", "validation"]
    seed: int

    @model_validator(mode="after")
    def _there_is_what_to_evaluate(self) -> Self:
        if self.evaluate == "validation" and not self.validation:
            raise ValueError("evaluate is validation, so validation must be at least 1; it is 0")
        return self


VALIDATION = "validation"
"""The `subset` of the rows that were cut from those for training: so no table takes them for the test's."""


def draw(
    data: DataSet,
    key: str,
    from_file: Callable[[Path], list[dict[str, Any]]],
    from_hub: Callable[[HubSplits, str], list[dict[str, Any]]],
) -> dict[str, list[dict[str, Any]]]:
    """A data set's rows by split, "train" and "test": for training as many as wanted, or all that are left.

    Where validation rows are to be evaluated, "test" has them, in a `subset` of that name, and no row of
    the test is read. The same rows are cut from the training's where the test is evaluated.

    Args:
        key: where in params.yaml `data` stands.
        from_file: reads a file's rows.
        from_hub: reads the rows of the split with that name on the hub.

    Raises:
        PipelineError: where there are fewer rows than the numbers need.
    """

    def read(split: str) -> tuple[str, list[dict[str, Any]]]:
        if data.source == "path":
            path = getattr(data.path, split)
            return str(path), from_file(path)
        name = getattr(data.hub, split)
        return f"{data.hub.name}, split {name}", from_hub(data.hub, name)

    def drawn(rows: list[dict[str, Any]], count: int, split: str) -> list[dict[str, Any]]:
        return random.Random(f"{data.seed} {split}").sample(rows, count)

    place, rows = read("train")
    if data.validation >= len(rows):
        raise PipelineError(
            f"{key}.validation: {data.validation} of the {len(rows)} problems of {place} leave none "
            f"to train on; set it to at most {len(rows) - 1}"
        )
    validation = drawn(rows, data.validation, "validation")
    cut = {id(row) for row in validation}
    left = [row for row in rows if id(row) not in cut]
    train = drawn(left, min(len(left), data.train), "train")
    if data.evaluate == VALIDATION:
        return {"train": train, "test": [{**row, "subset": VALIDATION} for row in validation]}
    place, rows = read("test")
    if data.test > len(rows):
        raise PipelineError(
            f"{key}.test: {data.test} problems are wanted, {place} has {len(rows)}; set it to at "
            f"most {len(rows)}"
        )
    return {"train": train, "test": drawn(rows, data.test, "test")}


def read_rows(
    path: Path, fields: Mapping[str, type], key: str, unique: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSONL file's rows, gzipped if its name ends in `.gz`, each after its place, `file:line`.

    Args:
        fields: what every row must have; further fields are let through.
        key: where in params.yaml the file is named.
        unique: a field that no two rows may share.

    Raises:
        PipelineError: naming file and line, if a line is not JSON, or one of `fields` is missing,
            empty, not of its type or not unique; or if the file cannot be read or holds no rows.
    """
    number = 0
    seen = set()
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                row = parse_row(line, where, fields)
                if unique is not None:
                    if row[unique] in seen:
                        raise PipelineError(f"{where}: the {unique} {row[unique]!r} occurs twice")
                    seen.add(row[unique])
                yield where, row
    except FileNotFoundError as error:
        raise PipelineError(
            f"{key}: there is no file {path}{copied_hint(path, Path.cwd())}"
        ) from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise PipelineError(f"{path}:{number + 1}: cannot be read: {error}") from error
    if not number:
        raise PipelineError(f"{path} is empty; expected rows of {_shape(fields)}")


def _open(path: Path) -> io.TextIOWrapper:
    """A UTF-8 text file for reading, through gzip if its name says so.

    Some programs begin such a file with a byte-order mark, which is no part of the text.
    """
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def parse_row(line: str, where: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """A line's row. Raises PipelineError if it is not JSON, or one of the fields is missing or empty."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}: not JSON: {error.msg}") from None
    try:
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise PipelineError(f"{where}: half of a surrogate pair is no character") from None
    for field, kind in fields.items():
        value = row.get(field) if isinstance(row, dict) else None
        if not isinstance(value, kind) or not (value.strip() if isinstance(value, str) else value):
            raise no_good(where, field, fields)
    return row


def no_good(where: str, field: str, fields: Mapping[str, type]) -> PipelineError:
    """The error of a row whose `field` is not as it should be."""
    return PipelineError(f"{where}: no good {field!r}; expected {_shape(fields)}")


def _shape(fields: Mapping[str, type]) -> str:
    return "{" + ", ".join(f"{field}: {kind.__name__}" for field, kind in fields.items()) + "}"


def hub_rows(source: HubSplits, split: str, key: str) -> Any:
    """The rows of a split on the hub. Raises PipelineError if they cannot be had."""
    import datasets  # takes two seconds

    try:
        return datasets.load_dataset(
            source.name, source.config, split=split, revision=source.revision
        )
    except Exception as error:  # the hub's client raises of all kinds
        reason = " ".join(str(error).split())
        raise PipelineError(f"{key}: cannot load {source.name}: {reason}") from error
