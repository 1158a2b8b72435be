"""No room on a disk, in every stage and for every library that writes: one line, and nothing is changed."""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.files import telling_full_disks
from pipeline.models.policy import CausalLMWithValueHead, save_model
from tests.stages.test_broken_inputs import contents
from tests.stages.tiny_project import TASK, run
from tests.tiny import make_model

LIMITS = {
    "fetch_model": 20_000,
    "build_corpus": 150,
    f"prepare {TASK}": 300,
    f"demonstrate {TASK}": 300,
    f"warm_start {TASK}": 20_000,
    f"train {TASK} 1": 20_000,
    f"evaluate {TASK} rl-1": 2_000,
    f"analyse {TASK}": 5_000,
    "report": 20_000,
    f"run_arm {TASK} default 1": 2_000,
    "report_studies": 5_000,
}
"""How many bytes a file may have, so that the stage cannot write its outputs."""


@contextmanager
def small_files(count):
    """Limits the size of the files that this process writes: what is longer fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("stage", LIMITS)
def test_a_stage_that_cannot_write_says_so_and_leaves_all_as_it_was(project, capsys, stage):
    before = contents(project)
    with small_files(LIMITS[stage]):
        ended = run(stage)
    assert isinstance(ended, str), ended
    assert ended.startswith(
        ("error: a file grew larger than", "error: a file could not be written")
    )
    assert f" in {project}" in ended
    assert "\n" not in ended
    assert contents(project) == before


WRITERS = {
    "weights": lambda folder, tokenizer: save_model(
        CausalLMWithValueHead(make_model()), tokenizer, folder / "model"
    ),
    "tensors": lambda folder, tokenizer: torch.save(torch.zeros(100_000), folder / "state.pt"),
    "table": lambda folder, tokenizer: pd.DataFrame({"a": range(200_000)}).to_parquet(folder / "t"),
    "csv": lambda folder, tokenizer: pd.DataFrame({"a": range(200_000)}).to_csv(folder / "t.csv"),
    "text": lambda folder, tokenizer: (folder / "page.html").write_text("x" * 300_000),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_with_its_place_and_what_is_free(small_disk, tokenizer, writer):
    with (
        pytest.raises(PipelineError, match=rf"free are 0\.\d MB in {small_disk}(;| and )"),
        telling_full_disks(small_disk),
    ):
        WRITERS[writer](small_disk, tokenizer)


def test_a_full_temporary_folder_is_told(project, small_disk, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = contents(project)
    ended = run(f"run_arm {TASK} default 1")  # whose policy is of 450 kB, and not kept
    assert str(small_disk) in ended
    assert "TMPDIR" in ended or "free" in ended
    assert os.listdir(small_disk) == []
    assert contents(project) == before


@pytest.mark.parametrize("stage", [f"train {TASK} 1", f"warm_start {TASK}"])
def test_too_little_room_is_told_before_the_training(project, monkeypatch, capsys, stage):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=300_000))
    monkeypatch.setattr("pipeline.models.policy.load_policy", None)  # is not come to
    before = contents(project)
    ended = run(stage)
    assert "MB, and only 0.3 MB are free in " in ended
    assert contents(project) == before
