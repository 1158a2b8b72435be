"""A training under DVC that is stopped in every way: nothing is lost but the time, and nothing is left behind."""

import subprocess
import time

import psutil
import pytest

from scripts.preset import set_params
from tests.kills import (
    OUTPUTS,
    begin,
    family,
    forget,
    litter,
    make_project,
    outcome,
    reproduce,
    stage_of,
)

pytestmark = pytest.mark.timeout(1200)

STATE = "data/snapshots/train-arithmetic-1.pt"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "project"
    make_project(folder, steps=30)
    return folder


def start(project, command):
    """Starts a training, and halts its stage as soon as it has saved a state. Returns all processes."""
    before = modified(project)
    process = begin(project, command)
    while modified(project) == before:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    processes = family(process.pid)
    stage = stage_of(processes)
    stage.suspend()
    return process, processes, stage


def modified(project):
    state = project / STATE
    return state.stat().st_mtime_ns if state.exists() else None


def gone(processes):
    """Whether they all end soon; the clock is for a busy machine, `make torture` measures."""
    return not psutil.wait_procs(processes, timeout=60)[1]


def test_whatever_stops_a_training_it_ends_with_the_same_bytes(project):
    assert reproduce(project).returncode == 0
    expected = outcome(project)
    forget(project)

    # The stage is killed.
    _, processes, stage = start(project, "dvc")
    stage.kill()
    assert gone(processes)

    # `make repro` alone is stopped, after a second one was refused.
    _, processes, stage = start(project, "make repro")
    second = reproduce(project, "make repro")
    assert second.returncode == 1
    assert f"is running already (process {processes[0].pid}, since 20" in second.stdout
    processes[0].terminate()
    stage.resume()
    assert gone(processes)

    # A parameter is edited meanwhile: the outputs would be on record as made by it.
    training, _, stage = start(project, "dvc")
    set_params(project / "params.yaml", {"arithmetic.train.episodes_per_step": 16})
    stage.resume()
    told = training.communicate()[0]
    assert training.returncode
    assert "error: arithmetic.train.episodes_per_step changed while the stage ran" in told
    assert not any((project / output).exists() for output in OUTPUTS)
    set_params(project / "params.yaml", {"arithmetic.train.episodes_per_step": 8})

    # DVC is killed when the stage has ended, before it is on record.
    training = begin(project, "dvc", output=subprocess.DEVNULL)
    while not (project / OUTPUTS[0]).exists():
        assert training.poll() is None
        time.sleep(0.001)
    processes = family(training.pid)
    training.kill()
    training.wait()
    assert gone(processes)
    assert not (project / "dvc.lock").exists()

    last = reproduce(project)
    assert last.returncode == 0, last.stdout
    assert "going on from data/snapshots/train-arithmetic-1" in last.stdout
    assert outcome(project) == expected
    assert litter(project) == []


def test_dvc_killed_alone_takes_the_stage_with_it_and_another_key_is_not_resumed(project):
    forget(project)
    _, processes, stage = start(project, "dvc")
    processes[0].kill()
    stage.resume()
    assert gone(processes)
    set_params(project / "params.yaml", {"ppo.lam": 0.9})
    other = reproduce(project)
    assert other.returncode == 0
    assert f"{STATE} is of a run with another ppo.lam: beginning anew" in other.stdout
