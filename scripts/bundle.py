"""Packs what a machine needs that reaches no package index and no hub, in parts of at most a given size.

make bundle [BUNDLE=folder] [PART=gigabytes] [WHEELS=python version]

The parts hold the packages' wheels, the code as git has it, and what DVC has on record of the stages that
fetch something: model, corpus, index, problems, prompts. `scripts/unpack.py` rides beside them. It needs
Python and git, checks every part, and sets the project up: `python3 unpack.py FOLDER`.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import PipelineError
from pipeline.files import read_json, replacing, require_room
from pipeline.workspace import INDEX_RECORD
from scripts.unpack import CACHE, CODE, INDEX, MANIFEST, SUMS, WHEELS
from stages.common import run_script

STAGES = ("fetch_model", "build_corpus", "build_index", "prepare", "demonstrate")
"""Those that fetch what only a network has, and those that follow from nothing else."""

BUILD = ("setuptools", "pip")
"""What installs the rest; newer Pythons bring no setuptools."""


HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def main(folder: Path, gigabytes: float, python: str) -> None:
    """Writes the parts, their hashes, and the command that unpacks them to a new folder."""
    if gigabytes * 1e9 < PartsWriter.SMALLEST:
        raise PipelineError(
            f"PART={gigabytes:g}: a part has {PartsWriter.SMALLEST / 1e6:g} MB or more"
        )
    if folder.exists():
        raise PipelineError(
            f"BUNDLE={folder}: it is there already; remove it, or give another name"
        )
    version = python or HERE
    revision = _committed()
    _up_to_date()
    with (
        tempfile.TemporaryDirectory(dir=folder.absolute().parent) as scratch,
        replacing(folder) as new,
    ):
        content = Path(scratch)
        print("1 of 4: the code", flush=True)
        _run("git", "bundle", "create", "--quiet", str(content / CODE), "HEAD", "--branches")
        print(f"2 of 4: wheels for Python {version}", flush=True)
        download_wheels(content / WHEELS, version)
        print("3 of 4: model, index and data", flush=True)
        _push(content / CACHE)
        manifest = {
            "revision": revision,
            "python": version,
            "machine": platform.machine(),
            "index": _prebuilt_index(content / INDEX),
        }
        (content / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        print(f"4 of 4: parts of at most {gigabytes:g} GB", flush=True)
        require_room(folder, sum(f.stat().st_size for f in content.rglob("*") if f.is_file()))
        new.mkdir()
        write_parts(content, new, int(gigabytes * 1e9))
        shutil.copy(Path(__file__).with_name("unpack.py"), new)
    count = len((folder / SUMS).read_text().splitlines())
    print(f"{count} parts in {folder}/; there: python3 unpack.py <new folder>")


def write_parts(content: Path, folder: Path, size: int) -> None:
    """Packs all of `content` into `folder`, in parts of at most `size` bytes, and writes their hashes."""
    writer = PartsWriter(folder, size)
    stream: Any = writer
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(content, arcname=".")
    writer.close()


class PartsWriter:
    """A file to write to, which is cut into numbered parts; their hashes are in `SUMS` after `close`.

    Args:
        size: of a part at most, in bytes.
    """

    SMALLEST = 10_000

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._part: BinaryIO | None = None
        self._sums: list[str] = []

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            if self._part is None:
                self._name = f"part-{len(self._sums):04}"
                self._part = (self._folder / self._name).open("wb")
                self._hash, self._room = sha256(), self._size
            piece = left[: self._room]
            self._part.write(piece)
            self._hash.update(piece)
            self._room -= len(piece)
            left = left[len(piece) :]
            if not self._room:
                self._end_part()
        return len(data)

    def close(self) -> None:
        self._end_part()
        (self._folder / SUMS).write_text("".join(self._sums))

    def _end_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
            self._sums.append(f"{self._hash.hexdigest()}  {self._name}\n")


def download_wheels(folder: Path, python: str) -> None:
    """The wheels of all packages that are installed here, for this kind of machine and a version of Python."""
    freeze = _run(sys.executable, "-m", "pip", "freeze", "--exclude", "learning-tools")
    installed = [*freeze.splitlines(), *BUILD]
    torch = [requirement for requirement in installed if requirement.startswith("torch==")]
    foreign = ["--python-version", python, "--only-binary", ":all:"] if python != HERE else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pip += ["download", "--dest"] if foreign else ["wheel", "--wheel-dir"]
    pip += [str(folder), "--quiet", "--no-deps", *foreign]
    _run(*pip, *(requirement for requirement in installed if requirement not in torch))
    try:
        _run(*pip, *torch)
    except PipelineError:
        # PyTorch keeps builds like 2.13.0+cpu on an index of its own, which the Makefile knows.
        if "TORCH_CPU_INDEX" not in os.environ:
            raise
        _run(*pip, "--extra-index-url", os.environ["TORCH_CPU_INDEX"], *torch)


def _push(folder: Path) -> None:
    """Copies what DVC has on record of `STAGES` to `folder`, laid out as in its cache."""
    name = "bundle"
    folder.mkdir()
    _run("dvc", "remote", "add", "--local", "--force", name, str(folder))
    try:
        _run("dvc", "push", "--quiet", "--remote", name, *STAGES)
    finally:
        _run("dvc", "remote", "remove", "--local", name)


def _prebuilt_index(folder: Path) -> str | None:
    """Copies an index that pyserini fetched, which DVC does not keep; returns where it has to lie."""
    record = read_json(INDEX_RECORD, dict, "build_index")
    if "prebuilt" not in record:
        return None
    shutil.copytree(record["folder"], folder)
    return record["folder"]


def _committed() -> str:
    """The commit that is checked out. Raises PipelineError if files differ from it."""
    if changed := _run("git", "status", "--porcelain", "--untracked-files=no"):
        names = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise PipelineError(
            f"{names}: changed since the last commit, and a bundle holds what is committed"
        )
    return _run("git", "rev-parse", "HEAD").strip()


def _up_to_date() -> None:
    """Raises PipelineError if one of `STAGES` has to be run first."""
    if stale := json.loads(_run("dvc", "status", "--json", *STAGES)):
        raise PipelineError(
            f"{', '.join(stale)}: not up to date; run this first, and commit dvc.lock: "
            f"dvc repro {' '.join(STAGES)}"
        )


def _run(*command: str) -> str:
    """What a command prints. Raises PipelineError with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise PipelineError(f"{' '.join(command[:3])} failed: {said[-1]}")
    return done.stdout


if __name__ == "__main__":
    run_script(main, folder=Path, gigabytes=float, python=str)
