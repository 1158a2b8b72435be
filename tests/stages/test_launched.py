"""A stage that several processes run together, as `machine.launcher` has it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from pipeline.errors import PipelineError
from stages.common import launched


@pytest.fixture
def launcher(project, tmp_path, monkeypatch):
    """Sets the launcher, in a copy of the project that is the working folder."""
    copy = shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(copy)

    def set_to(command):
        params = yaml.safe_load((copy / "params.yaml").read_text())
        params["machine"]["launcher"] = command
        (copy / "params.yaml").write_text(yaml.safe_dump(params))

    return set_to


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=300
    )


def test_two_processes_write_what_one_writes(launcher):
    """Once: the main one writes, logs and saves."""
    alone = pd.read_csv("data/training/arithmetic-1/curve.csv")
    episodes = pd.read_parquet("data/episodes/arithmetic/base.parquet")
    launcher(f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2")
    done = run("stages.train", "arithmetic", "1")
    assert done.returncode == 0, done.stderr
    together = pd.read_csv("data/training/arithmetic-1/curve.csv")
    pd.testing.assert_frame_equal(together, alone, rtol=1e-3, atol=1e-4)
    record = json.loads(Path("data/training/arithmetic-1/record.json").read_text())
    assert record["machine"]["processes"] == 2
    assert done.stderr.count("| 0/1 [00:00<?, ?step/s]") == 1
    done = run("stages.evaluate", "arithmetic", "base")
    assert done.returncode == 0, done.stderr
    again = pd.read_parquet("data/episodes/arithmetic/base.parquet")
    pd.testing.assert_frame_equal(again, episodes)


def test_stopped_together_they_save_what_they_have(launcher):
    launcher(f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["arithmetic"]["train"]["steps"] = 10_000
    params["snapshot_seconds"] = 1e6  # only when it is stopped
    Path("params.yaml").write_text(yaml.safe_dump(params))
    rewards = Path("live/arithmetic-1/plots/metrics/env/reward_mean.tsv")
    shutil.rmtree("live", ignore_errors=True)
    command = [sys.executable, "-m", "stages.train", "arithmetic", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        begun = time.monotonic()
        while not rewards.exists() or len(rewards.read_text().splitlines()) <= 2:
            assert running.poll() is None
            assert time.monotonic() - begun < 300
            time.sleep(0.01)
        running.terminate()
        output, _ = running.communicate(timeout=100)
    assert running.returncode != 0
    (state,) = Path("data/snapshots").glob("train-arithmetic-1.pt")
    saved = torch.load(state, weights_only=True)["state"]
    assert len(saved["curve"]) >= 2, output.decode()
    assert saved["trainer"]["steps"] == len(saved["curve"])


def test_a_launcher_that_is_not_there_is_named(launcher):
    launcher("torchrum --nproc-per-node 2")
    done = run("stages.train", "arithmetic", "1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: params.yaml: machine.launcher: no command 'torchrum' here")


def test_more_processes_than_episodes_are_refused_before_a_model_is_loaded(launcher):
    launcher(f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 3")
    done = run("stages.evaluate", "arithmetic", "base")
    assert done.returncode != 0
    assert (
        "error: machine.launcher: 3 processes for 2 episodes at a time: start at most 2"
        in done.stderr
    )
    assert "Loading weights" not in done.stderr


def test_a_stage_for_one_process_is_not_run_by_several(launcher):
    done = run(
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "stages.warm_start",
        "arithmetic",
    )
    assert done.returncode != 0
    assert "error: stages.warm_start: this stage runs in one process" in done.stderr


def test_the_launcher_stands_in_the_place_of_python():
    words = launched("env A=1 'b c'", "stages.train", ["arithmetic", "1"])
    assert words == ["env", "A=1", "b c", "-m", "stages.train", "arithmetic", "1"]
    assert launched("", "stages.train", ["arithmetic", "1"]) == []
    with pytest.raises(PipelineError, match="no command 'nowhere'"):
        launched("nowhere", "stages.train", [])
