"""Writing outputs whole or not at all: write beside, then rename."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a path beside `path` to write a file or a folder at; on success it takes `path`'s place.

    When the block raises, what stood at `path` before is untouched and the half-written output is
    removed. Raises `PipelineError` if the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    except OSError as error:
        raise PipelineError(
            f"cannot write {path}: {error.strerror}; the folder {path.parent} must be writable"
        ) from error
    try:
        yield workshop / "new"
        if path.is_dir():  # a folder cannot be renamed over another: move the old one away first
            path.rename(workshop / "old")
        (workshop / "new").rename(path)
    except OSError as error:
        raise PipelineError(f"writing {path} failed: {error}") from error
    finally:
        if (workshop / "old").exists() and not path.exists():
            (workshop / "old").rename(path)
        shutil.rmtree(workshop, ignore_errors=True)


def require(path: Path | str, made_by: str) -> Path:
    """`path`, if it exists; else a `PipelineError` that names the stage that makes it."""
    path = Path(path)
    if not path.exists():
        raise PipelineError(f"{path} does not exist yet: run `dvc repro {made_by}` first")
    return path


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(*paths: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its path."""
    return {str(path): sha256(path) for path in paths}
