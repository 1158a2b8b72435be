"""Writing outputs whole or not at all: write beside, then rename. Reading them, and saying what is broken."""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import PipelineError
from pipeline.lifetime import interruptions_wait


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
        folders = [workshops.enter_context(workshop(path)) for path in paths]
        yield [folder / "new" for folder in folders]
        with interruptions_wait():
            for path, folder in zip(paths, folders, strict=True):
                try:
                    _put(folder / "new", path, folder / "old")
                except OSError as error:
                    raise PipelineError(f"writing {path} failed: {error}") from error


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """A folder beside `path` for this process, and gone afterwards.

    What processes that are dead left of theirs is removed. Raises `PipelineError` if the place cannot be
    written.
    """
    try:
        with telling_full_disks(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear(path)
            folder, held = _held_folder(path)
    except OSError as error:
        raise PipelineError(
            f"cannot write {path}: {error.strerror}; the folder {path.parent} must be writable"
        ) from error
    try:
        with telling_full_disks(path.parent):
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
        except OSError:  # its process has just ended, or is another user's
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


# --- reading ----------------------------------------------------------------------------------------


def require(path: Path | str, made_by: str) -> Path:
    """`path`, if it exists; else a `PipelineError` that names the stage that makes it."""
    path = Path(path)
    if not path.exists():
        raise PipelineError(f"{path} does not exist yet: run `dvc repro {made_by}` first")
    return path


def broken(where: Path | str, what: str, made_by: str) -> PipelineError:
    """The error of an output that a stage made and that is not as it was then."""
    reason = " ".join(what.split())
    return PipelineError(f"{where}: {reason}: remove it and run `dvc repro {made_by}`")


def read_text(path: Path, made_by: str) -> str:
    """A UTF-8 file that a stage has made. A byte-order mark, which some editors write, is left out.

    Raises PipelineError, naming the stage, if it is not there, cannot be read, is not UTF-8 or blank.
    """
    text = _text(path, made_by)
    if not text.strip():
        raise broken(path, "empty", made_by)
    return text


def read_json(path: Path, kind: Any, made_by: str) -> Any:
    """What a JSON file holds; raises as `read_text` does, and for what is not of the type `kind`."""
    return _checked(read_text(path, made_by), TypeAdapter(kind), path, 1, made_by)


def read_jsonl(path: Path, kind: Any, made_by: str) -> list[Any]:
    """The rows of a JSONL file that a stage has made; none if it is empty.

    Args:
        kind: what each row must be, any type that pydantic knows.

    Raises:
        PipelineError: naming file, line, key and the stage that makes the file, if it cannot be read, or
            one of its lines is not JSON or not of that type.
    """
    known = TypeAdapter(kind)
    lines = _text(path, made_by).split("\n")
    if not lines[-1]:  # after the last line's end
        lines.pop()
    return [_checked(line, known, path, number, made_by) for number, line in enumerate(lines, 1)]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which PyYAML takes the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


def read_yaml(path: Path) -> Any:
    """What a YAML file holds that users write. Raises PipelineError if it cannot be read."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        loader.name = path.name
        return loader.get_single_data()
    except OSError as error:
        raise PipelineError(f"{path}: {error.strerror}; run from the project's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _text(path: Path, made_by: str) -> str:
    try:
        return require(path, made_by).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise broken(f"{path}:{line}", "not UTF-8", made_by) from None
    except OSError as error:
        raise broken(path, f"cannot be read: {error.strerror}", made_by) from error


OBJECTS = ("dict_type", "model_type")
"""What pydantic calls it where something else stands in the place of an object."""


def check(value: Any, kind: TypeAdapter, where: str, made_by: str) -> None:
    """Raises PipelineError, naming the key and the stage that made it, if a value is not of a type."""
    try:
        kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        expected = "expected {key: value}" if first["type"] in OBJECTS else first["msg"].lower()
        what = f"{key}: {expected}" if key else expected
        raise broken(where, what, made_by) from None


def _checked(text: str, kind: TypeAdapter, path: Path, line: int, made_by: str) -> Any:
    """What the text says as JSON. It begins in that line of the file."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise broken(
            f"{path}:{line + error.lineno - 1}", f"not JSON: {error.msg}", made_by
        ) from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, or too deep
        raise broken(f"{path}:{line}", f"not JSON: {error}", made_by) from None
    check(value, kind, f"{path}:{line}", made_by)
    return value


def copied_hint(path: Path, folder: Path) -> str:
    """What to add to the error of a file that is not in the working folder: DVC may not have copied it.

    DVC runs an experiment of the queue, or with `--temp`, in a copy of what git tracks.
    """
    if path.is_absolute() or ".dvc/tmp/exps" not in folder.as_posix():
        return ""
    return (
        f"; this experiment runs in a copy that has only what git tracks: `git add -N {path}` in the "
        "project's folder, or give an absolute path, and queue it anew"
    )


# --- room on the disk -------------------------------------------------------------------------------

NO_ROOM = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew larger than the system allows (`ulimit -f`)",
}
"""By the number of an `OSError`."""

NO_ROOM_WORDS = {
    "no space left on device": "no space is left",
    "disk quota exceeded": "the disk quota is used up",
    "file too large": NO_ROOM[errno.EFBIG],
    "unexpected pos": "a file could not be written to its end",  # torch does not say why
    "pytorchstreamwriter failed": "a file could not be written to its end",
    "no usable temporary directory": "no temporary folder can be written",
}
"""By what stands in the text of other exceptions: libraries have types of their own."""


@contextmanager
def telling_full_disks(folder: Path = Path()) -> Iterator[None]:
    """Turns what the block raises for want of room on a disk into a `PipelineError` with the free space.

    Args:
        folder: where the block writes its outputs. It may also write temporary files.
    """
    try:
        yield
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise PipelineError(
            f"{reason}; free are {_free([folder, _temporary()])}; make room and run it again, or set TMPDIR "
            "if it is the temporary files that need more"
        ) from error


def require_room(path: Path, needed: int) -> None:
    """Raises PipelineError if the file system that `path` will be on has less than `needed` bytes free."""
    place = _existing(path)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise PipelineError(
            f"{path} will take {_size(needed)}, and only {_size(free)} are free in {place.absolute()}: make "
            "room, then run it again"
        )


def model_bytes(folder: Path) -> int:
    """What a model takes that is trained from the one in the folder: as much, and what goes with it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) + BESIDE_MODEL


BESIDE_MODEL = 2_000_000
"""Bytes; more than a value head, a curve and a record take."""


def _no_room(error: BaseException) -> str | None:
    """What the error, or one that it came from, says of a full disk; None if it is of something else."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PipelineError):
        if isinstance(seen, OSError) and seen.errno in NO_ROOM:
            return NO_ROOM[seen.errno]
        for words, reason in NO_ROOM_WORDS.items():
            if words in str(seen).lower():
                return reason
        seen = seen.__cause__
    return None


def _free(folders: Sequence[Path]) -> str:
    """How much is free in each of the folders that lie on different file systems."""
    places = {place.stat().st_dev: place for place in map(_existing, reversed(folders))}
    return " and ".join(
        f"{_size(shutil.disk_usage(place).free)} in {place.absolute()}"
        for place in reversed(places.values())
    )


def _temporary() -> Path:
    """Where temporary files go; /tmp if nowhere, as all candidates are full."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- hashes -----------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(*paths: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its path."""
    return {str(path): sha256(path) for path in paths}
