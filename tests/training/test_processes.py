"""Several processes do what one does, together."""

import subprocess
import sys
import time

import psutil
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models import processes
from tests.project_copy import ROOT
from tests.training.several import CASES, trained

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def launch(count, folder, break_at=0):
    return subprocess.Popen(
        [
            *TORCHRUN,
            f"--nproc-per-node={count}",
            "-m",
            "tests.training.several",
            str(folder),
            str(break_at),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def alone():
    return {name: trained(name) for name in CASES}


@pytest.mark.parametrize("count", [2, 3])
def test_together_they_do_what_one_does(alone, tmp_path, count):
    """The same episodes; statistics and weights but for the order of additions."""
    launched = launch(count, tmp_path)
    output, _ = launched.communicate(timeout=300)
    assert launched.returncode == 0, output
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(count)]
    for name, one in alone.items():
        first, *others = [result[name] for result in results]
        for sequences, *rest in first["episodes"]:
            assert len(sequences) == 8
            assert len(rest[0]) == 8
        for mine, theirs in zip(first["episodes"], one["episodes"], strict=True):
            assert mine[:4] == theirs[:4]
            for a, b in zip(mine[4], theirs[4], strict=True):
                assert a == pytest.approx(b, abs=1e-4)
        for mine, theirs in zip(first["curve"], one["curve"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        for key, weights in one["weights"].items():
            torch.testing.assert_close(first["weights"][key], weights, rtol=0, atol=1e-5)
        # Among themselves they agree to the last bit: else they would drift apart.
        for other in others:
            assert other["curve"] == first["curve"]
            assert other["episodes"] == first["episodes"]
            assert all(torch.equal(x, first["weights"][key]) for key, x in other["weights"].items())
    assert one["curve"][0]["grpo/grad_norm"] > 0.01


def test_one_that_dies_ends_the_others(alone, tmp_path):
    """Within seconds, though they wait for it; who started them is told which it was.

    Started anew, they go on from what the main one has saved.
    """
    launched = launch(2, tmp_path, break_at=2)
    others = []
    begun = time.monotonic()
    while launched.poll() is None and time.monotonic() - begun < 300:
        found = [p for p in psutil.Process(launched.pid).children() if p.is_running()]
        others = found if len(found) == 2 else others
        if len(found) < 2 and others:
            break
        time.sleep(0.2)
    died = time.monotonic()
    output, _ = launched.communicate(timeout=100)
    assert time.monotonic() - died < 45
    assert launched.returncode != 0
    assert "SIGKILL" in output
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in others)
    assert [file.name for file in tmp_path.iterdir()] == ["ppo.state"]
    launched = launch(2, tmp_path)
    output, _ = launched.communicate(timeout=300)
    assert launched.returncode == 0, output
    assert output.count("going on from") == 1
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert len(result["ppo"]["episodes"]) == 2
        for key, weights in alone["ppo"]["weights"].items():
            torch.testing.assert_close(result["ppo"]["weights"][key], weights, rtol=0, atol=1e-5)


def test_shares_are_neighbours_and_nearly_equal(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(processes.share(range(8)))
    assert [list(share) for share in shares] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert processes.share(["one"]) == ["one"]
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    assert processes.share(["one"]) == []


def test_alone_nothing_is_shared_or_sent():
    assert processes.count() == 1
    assert processes.share([1, 2]) == processes.gathered([1, 2]) == [1, 2]
    assert processes.add_up([{"a": 1.0}, {"a": 2.5}]) == {"a": 3.5}


def test_more_processes_than_episodes_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    processes.require_work(3, "x")
    with pytest.raises(
        PipelineError, match="3 processes for 2 episodes at a time: start at most 2"
    ):
        processes.require_work(2, "trivia.train.episodes_per_step")


def test_processes_that_see_different_states_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "gathered", lambda items: [*items, 4])
    processes.require_same(4, "the step")
    with pytest.raises(PipelineError, match=r"the step differs between processes: 3, 4"):
        processes.require_same(3, "the step")
