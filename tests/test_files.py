import errno
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.errors import PipelineError
from pipeline.files import (
    BESIDE_MODEL,
    copied_hint,
    model_bytes,
    read_jsonl,
    read_text,
    replacing,
    replacing_all,
    require,
    require_room,
    telling_full_disks,
)


def write_folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)


def test_replaces_files_and_folders(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "deep" / "file") as beside:
            beside.write_text(content)
        with replacing(tmp_path / "deep" / "folder") as beside:
            write_folder(beside, content)
    assert (tmp_path / "deep" / "file").read_text() == "new"
    assert (tmp_path / "deep" / "folder" / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "deep")) == ["file", "folder"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_leaves_the_old_output_and_no_litter(tmp_path, is_folder):
    path = tmp_path / "out"
    write_folder(path, "old") if is_folder else path.write_text("old")

    def fail():
        with replacing(path) as beside:
            write_folder(beside, "half") if is_folder else beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ((path / "file") if is_folder else path).read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(PipelineError, match=r"cannot write .*out"),
        replacing(tmp_path / "file/out"),
    ):
        pass


def test_require_names_the_stage(tmp_path):
    with pytest.raises(PipelineError, match="dvc repro fetch_model"):
        require(tmp_path / "model", "fetch_model")
    assert require(tmp_path, "x") == tmp_path


def killed_at(event, action):
    """Does something in a process that kills itself before the given event of the file system.

    Returns whether it ended before there was such an event.
    """
    child = os.fork()
    if child == 0:
        events = itertools.count()

        def hook(name, _):
            # The system call that swaps two names is found by dlsym.
            touches = name.startswith(("os.", "shutil.", "tempfile.")) or name in ("open", "fcntl.flock", "ctypes.dlsym")  # fmt: skip
            if touches and next(events) == event:
                signal.raise_signal(signal.SIGKILL)

        sys.addaudithook(hook)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_killed_at_any_moment_outputs_are_old_or_new_and_the_next_run_clears_up(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"

    def write(content):
        with replacing_all(folder, file) as (new_folder, new_file):
            write_folder(new_folder, content)
            new_file.write_text(content)

    found = []
    for event in itertools.count():
        write("old")
        assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
        ended = killed_at(event, lambda: write("new"))
        found.append(((folder / "file").read_text(), file.read_text()))
        if ended:
            break
    assert len(found) > 20
    # The two cannot be swapped in one step: there is one moment between.
    assert [state for state, _ in itertools.groupby(found)] == [("old", "old"), ("new", "old"), ("new", "new")]  # fmt: skip
    assert found.count(("new", "old")) <= 2


def test_what_a_living_process_writes_is_not_cleared(tmp_path):
    with replacing(tmp_path / "out") as first, replacing(tmp_path / "out") as second:
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "out").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_where_names_cannot_be_swapped_the_old_folder_is_moved_away(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files._swap", lambda one, other: False)
    test_replaces_files_and_folders(tmp_path)


# --- reading ----------------------------------------------------------------------------------------


class Row(BaseModel):
    id: str
    parts: list[tuple[int, str]] = []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"id": "a"}\n{"id": 3}\n', "2: id: input should be a valid string"),
        (b'{"id": "a"}\n\n{"id": "b"}\n', "2: not JSON: Expecting value"),
        (b'{"id": "a"}\n{"id": "b', "2: not JSON: Unterminated string"),
        (b'{"id": "a"}\n{"id": "\xff"}\n', "2: not UTF-8"),
        (b'{"id": "a", "parts": [[1, "x"], [2]]}\n', r"1: parts\.1\.1: field required"),
        (b'["a"]\n', "1: expected {key: value}"),
        (b"9" * 5000, "1: not JSON: Exceeds the limit"),
    ],
)
def test_a_broken_row_is_told_by_file_line_and_key(tmp_path, content, told):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        PipelineError, match=rf"^{path}:{told}.*: remove it and run `dvc repro prepare@a`$"
    ):
        read_jsonl(path, Row, "prepare@a")


def test_rows_are_returned_as_they_were_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"more": 1, "id": "a\\u2028"}\n{"id": "b", "parts": [[1, "x"]]}')
    rows = read_jsonl(path, Row, "prepare@a")
    assert rows == [{"more": 1, "id": "a\u2028"}, {"id": "b", "parts": [[1, "x"]]}]
    path.write_bytes(b"")
    assert read_jsonl(path, Row, "prepare@a") == []


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    with pytest.raises(PipelineError, match=r"cannot be read: Is a directory: remove it and run"):
        read_text(tmp_path, "prepare@a")


@pytest.mark.parametrize(
    ("path", "folder", "hint"),
    [
        ("train.jsonl", "/home/a/project/.dvc/tmp/exps/tmpq3v/sub", "`git add -N train.jsonl`"),
        ("/data/train.jsonl", "/home/a/project/.dvc/tmp/exps/tmpq3v", None),
        ("train.jsonl", "/home/a/project", None),
    ],
)
def test_what_an_experiment_of_the_queue_lacks_is_explained(path, folder, hint):
    told = copied_hint(Path(path), Path(folder))
    assert (hint in told and "absolute path" in told) if hint else told == ""


# --- room on the disk -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "no space is left"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (
            Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
            "no space is left",
        ),
        (RuntimeError("[enforce fail at x.cc:6] . unexpected pos 5 vs 4"), "could not be written"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "no temporary folder can be written",
        ),
    ],
)
def test_a_full_disk_is_told_in_whatever_words_it_comes(tmp_path, error, reason):
    with (
        pytest.raises(PipelineError, match=rf"{reason}.*; free are [\d.]+ [MG]B in {tmp_path}"),
        telling_full_disks(tmp_path / "not" / "yet"),
    ):
        raise error
    with pytest.raises(PipelineError, match=reason), telling_full_disks(tmp_path):
        raise ValueError("an error of a library") from error


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "no space is left"), ValueError("x"), PipelineError("x")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, telling_full_disks():
        raise error
    assert raised.value is error


def test_room_is_asked_for_where_the_output_will_be(tmp_path):
    require_room(tmp_path / "new" / "model", 1)
    with pytest.raises(
        PipelineError, match=rf"model will take 1000000\.0 GB, and only .*B are free in {tmp_path}:"
    ):
        require_room(tmp_path / "new" / "model", 10**15)


def test_a_model_takes_as_much_as_the_one_before_and_a_little(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/weights").write_bytes(b"x" * 1000)
    (tmp_path / "config").write_bytes(b"x" * 10)
    assert model_bytes(tmp_path) == 1010 + BESIDE_MODEL
