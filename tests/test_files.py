import os

import pytest

from pipeline.errors import PipelineError
from pipeline.files import replacing, require


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
