"""Bundles: what is packed in parts is unpacked whole, or said to be broken."""

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from scripts import bundle, unpack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def content(tmp_path):
    folder = tmp_path / "content"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels/a.whl").write_bytes(bytes(range(256)) * 300)
    (folder / "empty").touch()
    (folder / "manifest.json").write_text("{}")
    return folder


def packed(content, size):
    parts = content.parent / "parts"
    parts.mkdir()
    bundle.write_parts(content, parts, size)
    return parts


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("size", [10_000, 10_240, 33_333, 10**9])
def test_what_is_unpacked_is_what_was_packed(content, size, tmp_path):
    parts = packed(content, size)
    names = sorted(path.name for path in parts.iterdir() if path.name != unpack.SUMS)
    sizes = [(parts / name).stat().st_size for name in names]
    assert all(length == size for length in sizes[:-1])
    assert 0 < sizes[-1] <= size
    found = unpack.checked(parts)
    assert [path.name for path in found] == names
    unpack.unpack(found, tmp_path / "out")
    assert files(tmp_path / "out") == files(content)


def test_sums_are_what_sha256sum_checks(content):
    parts = packed(content, 20_000)
    for line in (parts / unpack.SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((parts / name).read_bytes()).hexdigest() == digest


def test_a_part_that_was_changed_or_lost_is_named(content):
    parts = packed(content, 20_000)
    second = parts / "part-0001"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SystemExit, match=r"part-0001 is not as it was written"):
        unpack.checked(parts)
    second.unlink()
    with pytest.raises(SystemExit, match=r"part-0001 is missing"):
        unpack.checked(parts)


@pytest.mark.parametrize(
    ("python", "machine"), [("2.7", platform.machine()), (bundle.HERE, "abacus")]
)
def test_another_python_or_machine_is_refused(tmp_path, python, machine):
    manifest = {"revision": "0", "python": python, "machine": machine, "index": None}
    (tmp_path / unpack.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match=f"for Python {python} on {machine}, this is"):
        unpack.set_up(tmp_path, tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_it_needs_nothing_but_python(content, tmp_path):
    parts = packed(content, 20_000)
    (parts / "unpack.py").write_text((ROOT / "scripts/unpack.py").read_text())
    (parts / "part-0000").unlink()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(parts / "unpack.py"), "project"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {parts / 'part-0000'} is missing; copy it here\n"


def test_parts_that_are_too_small_and_a_folder_that_is_there_are_refused(tmp_path):
    with pytest.raises(PipelineError, match="PART=1e-09"):
        bundle.main(tmp_path / "new", 1e-9, "")
    with pytest.raises(PipelineError, match="is there already"):
        bundle.main(tmp_path, 1, "")


def test_changed_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    (tmp_path / "params.yaml").write_text("a: 1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *arguments], check=True)
    (tmp_path / "params.yaml").write_text("a: 2")
    with pytest.raises(PipelineError, match=r"params\.yaml: changed since the last commit"):
        bundle.main(tmp_path / "new", 1, "")
    assert [path.name for path in tmp_path.iterdir() if path.name != ".git"] == ["params.yaml"]
