"""Sets the project up from the parts of `make bundle`, on a machine without a network.

python3 unpack.py FOLDER

It lies beside the parts. It checks their hashes, unpacks them, makes FOLDER a clone of the project with an
environment and with the data, and needs nothing but Python and git. Afterwards `make repro` runs there.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

SUMS = "SHA256SUMS"
"""The file of the parts' hashes, as `sha256sum` writes and checks them."""

MANIFEST, CODE, WHEELS, CACHE, INDEX = "manifest.json", "code.bundle", "wheels", "cache", "index"
"""What the parts hold: what they are for, git's bundle, packages, DVC's files, an index of pyserini's."""

BLOCK = 2**20


class Parts:
    """The parts one after the other, as one file to read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = iter(paths)
        self._part: BinaryIO | None = None

    def read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            if self._part is None:
                path = next(self._paths, None)
                if path is None:
                    break
                self._part = path.open("rb")
            if piece := self._part.read(size - len(read)):
                read += piece
            else:
                self._part.close()
                self._part = None
        return read


def checked(folder: Path) -> list[Path]:
    """The parts' paths, in their order. Ends the program if one is missing, or not as it was written."""
    parts = []
    for line in (folder / SUMS).read_text().splitlines():
        expected, name = line.split()
        path = folder / name
        if not path.is_file():
            sys.exit(f"error: {path} is missing; copy it here")
        digest = hashlib.sha256()
        with path.open("rb") as part:
            while block := part.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != expected:
            sys.exit(f"error: {path} is not as it was written (its SHA-256 differs); copy it again")
        parts.append(path)
    return parts


def unpack(parts: Iterable[Path], folder: Path) -> None:
    """Unpacks the parts into a folder."""
    stream: Any = Parts(parts)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(folder, filter="data")


def set_up(content: Path, folder: Path) -> None:
    """Makes `folder` the project, from what was unpacked."""
    manifest = json.loads((content / MANIFEST).read_text())
    here = (f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
    if here != (manifest["python"], manifest["machine"]):
        sys.exit(
            f"error: the bundle is for Python {manifest['python']} on {manifest['machine']}, this is "
            f"{here[0]} on {here[1]}; take another python3, or make a bundle with WHEELS={here[0]}"
        )
    run("git", "clone", "--quiet", str(content / CODE), str(folder))
    run("git", "-C", str(folder), "checkout", "--quiet", "-B", "main", manifest["revision"])
    run("git", "-C", str(folder), "remote", "remove", "origin")
    (folder / ".dvc/cache").mkdir()
    shutil.move(content / CACHE / "files", folder / ".dvc/cache/files")
    if manifest["index"]:
        shutil.copytree(content / INDEX, manifest["index"], dirs_exist_ok=True)
    run(sys.executable, "-m", "venv", str(folder / ".venv"))
    pip = [str(folder / ".venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
    pip += ["--quiet", "--no-index", "--no-deps"]
    run(*pip, *map(str, (content / WHEELS).glob("*.whl")))
    run(*pip, "--no-build-isolation", "--editable", str(folder))
    (folder / ".venv/installed").touch()
    run(
        str(folder / ".venv/bin/dvc"), "--cd", str(folder), "checkout", "--quiet", "--allow-missing"
    )


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        sys.exit(
            f"error: {' '.join(command[:4])} ... failed: {said[-1] if said else 'no reason given'}"
        )


def main() -> None:
    """Checks, unpacks, sets up."""
    if len(sys.argv) != 2:
        sys.exit("usage: python3 unpack.py FOLDER")
    folder = Path(sys.argv[1]).absolute()
    if folder.exists():
        sys.exit(f"error: {folder} is there already; give a new folder's name")
    print("checking the parts", flush=True)
    parts = checked(Path(__file__).absolute().parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as content:
        print("unpacking them", flush=True)
        unpack(parts, Path(content))
        print(f"setting up {folder}", flush=True)
        try:
            set_up(Path(content), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    print(f"done; now: cd {folder} && make repro")


if __name__ == "__main__":
    main()
