import itertools
import os
import signal
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.files import replacing, replacing_all, require


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
