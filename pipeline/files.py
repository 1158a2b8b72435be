"""Writing outputs whole or not at all: write beside, then rename."""

import ctypes
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import PipelineError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a path beside `path` to write a file or a folder at; on success it takes `path`'s place.

    When the block raises, what stood at `path` before is untouched and the half-written output is
    removed. What a killed process left half-written is removed here, too. Raises `PipelineError` if the
    place cannot be written.
    """
    with replacing_all(Path(path)) as (beside,):
        yield beside


@contextmanager
def replacing_all(*paths: Path) -> Iterator[list[Path]]:
    """`replacing` for several outputs: they are all written before the first takes its place."""
    with ExitStack() as workshops:
        folders = [workshops.enter_context(_workshop(path)) for path in paths]
        yield [folder / "new" for folder in folders]
        for path, folder in zip(paths, folders, strict=True):
            try:
                _put(folder / "new", path, folder / "old")
            except OSError as error:
                raise PipelineError(f"writing {path} failed: {error}") from error


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """A folder beside `path`, held by this process as long as it lives, and gone afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        folder, held = _held_folder(path)
    except OSError as error:
        raise PipelineError(
            f"cannot write {path}: {error.strerror}; the folder {path.parent} must be writable"
        ) from error
    try:
        yield folder
    finally:
        if (folder / "old").exists() and not path.exists():
            (folder / "old").rename(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _held_folder(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, and a descriptor whose lock shows that its process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:  # a file system that locks no folders, so that none is ever cleared
            return folder, held
        if folder.exists():
            return folder, held
        os.close(held)  # cleared by another process before it was locked


def _clear(path: Path) -> None:
    """Removes what processes that are dead left beside `path`."""
    for folder in path.parent.glob(f".{path.name}.*.partial"):
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its process has just ended
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process lives
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)


def _put(new: Path, path: Path, old: Path) -> None:
    """Puts `new` in the place of `path`, which never is missing where the system can swap two names."""
    if _swap(new, path):
        return
    if path.is_dir():  # a folder cannot be renamed over another: move the old one away first
        path.rename(old)
    new.rename(path)


def _swap(one: Path, other: Path) -> bool:
    """Swaps two names in one step. Returns False where one is missing, or the system cannot."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (here, os.fsencode(one), here, os.fsencode(other))
    return renameat2 is not None and renameat2(*names, exchange) == 0


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
