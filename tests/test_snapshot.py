"""A run that was killed goes on, and ends with the very digits of one that was not."""

import errno
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import peft  # noqa: F401 (once, in the server)
import pytest
import torch

from pipeline import snapshot
from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.environment.protocol import Tags
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings, evaluate
from pipeline.models.lora import LoraSettings, attach
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.snapshot import NOWHERE, Snapshot, clear_finished
from pipeline.tasks import Demonstration, Layout
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.training.run import train
from pipeline.training.settings import TrainSettings, WarmStartSettings
from pipeline.training.warm_start import warm_start
from tests.tiny import make_model, make_tokenizer

MACHINE = Machine(device="cpu", precision="float32")
SERVER = multiprocessing.get_context("forkserver")  # imports torch once, for all that are killed
SERVER.set_forkserver_preload(["tests.test_snapshot"])


class Uneven(Arithmetic):
    """A random model solves no problem: its rewards are others, so that it learns."""

    def reward(self, answer_text, problem):
        return float(len(answer_text) % 2)


def environment(policy):
    limits = EnvironmentSettings(max_turns=2, max_new_tokens=12, max_tool_response=5)
    tokenizer = make_tokenizer()
    sampler = TorchSampler(policy.pretrained_model, tokenizer)
    return TaskEnvironment(sampler, tokenizer, Uneven(), [], {}, limits)


PROBLEMS = Uneven().problems(Uneven.Data(source="builtin", train=7, test=1, seed=0))["train"]


def with_adapter():
    policy = CausalLMWithValueHead(make_model())
    attach(policy.pretrained_model, LoraSettings(r=2, alpha=4), seed=5)
    return policy


def training(policy, kept, on_step, name="ppo", config=None):
    algorithm = load_algorithm(name)
    settings = {"steps": 6, "episodes_per_step": 8, "lr_schedule": "linear", "warmup_steps": 2}
    train(
        policy,
        environment(policy),
        PROBLEMS,
        TrainSettings(**settings, keep="best"),
        algorithm(algorithm.Config(learning_rate=1e-3, mini_batch_size=4, **(config or {}))),
        MACHINE,
        seed=1,
        on_step=on_step,
        snapshot=kept,
    )


def warming(policy, kept, on_step):
    demonstrations = [Demonstration(f"Q{i}", [], str(i)) for i in range(5)]
    settings = WarmStartSettings(steps=12, batch_size=2, learning_rate=1e-3)
    protocol = Tags(make_tokenizer(), "P", Layout())
    warm_start(policy, protocol, demonstrations, settings, MACHINE, on_step, kept)


def evaluating(policy, kept, on_step):
    environments = {"sampled": environment(policy)}
    settings = EvaluationSettings(batch_size=1, seed=3)
    evaluate(environments, PROBLEMS, settings, MACHINE, on_step, kept)


RUNS = {
    "ppo": (training, {"config": {"adap_kl_ctrl": True, "target_kl_episode": 0.1, "horizon": 50, "epochs": 2}}),
    "grpo": (training, {"name": "grpo", "config": {"num_generations": 2, "beta": 0.1}}),
    "rloo": (training, {"name": "rloo", "config": {"num_generations": 4}}),
    "warm start": (warming, {}),
    "evaluation": (evaluating, {}),
}  # fmt: skip


def run(kind, folder, kill_at=None):
    """One run of a kind, which saves its last state in the folder, its steps, and how many calls it took.

    It kills itself at a call of a function: in a rollout, an update, or in the midst of saving.
    """
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    kind, _, adapter = kind.partition(", ")
    function, options = RUNS[kind]
    # Made first: it takes a hundred thousand calls, and nothing has been done yet.
    policy = with_adapter() if adapter else CausalLMWithValueHead(make_model())
    torch.set_num_threads(1)
    snapshot.SHARE = math.inf  # saved at every step
    steps = []
    sys.setprofile(count)
    function(policy, Snapshot(folder / "state.pt", {"kind": kind}), steps.append, **options)
    sys.setprofile(None)
    torch.save(steps, folder / "steps.pt")
    (folder / "calls").write_text(str(calls))


def alike(one, other):
    """Whether two states are the same to the last digit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def read(file):
    return torch.load(file, weights_only=True)


def run_beside(*arguments):
    """Calls `run` in a process of its own; returns the exit code."""
    process = SERVER.Process(target=run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kind", [*RUNS, "ppo, LoRA", "warm start, LoRA"])
def test_a_killed_run_ends_with_the_digits_of_one_that_was_not(kind, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert run_beside(kind, whole) == 0
    calls = int((whole / "calls").read_text())
    draw = random.Random(kind)
    for _ in range(10):
        # Each time it goes on, there is less left to do: a later moment may not come.
        assert run_beside(kind, killed, draw.randrange(calls * 2 // 3)) in (-signal.SIGKILL, 0)
    assert (killed / "state.pt").exists()
    assert run_beside(kind, killed) == 0
    for name in ("state.pt", "steps.pt"):
        assert alike(read(whole / name), read(killed / name))
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))  # and no litter


def test_alike_tells_digits_apart():
    one = {"a": [torch.tensor([1.0]), 2.0]}
    assert alike(one, {"a": [torch.tensor([1.0]), 2.0]})
    for other in (
        {"a": [torch.tensor([1.0 + 2**-23]), 2.0]},
        {"a": [torch.tensor([1.0])]},
        {"b": []},
    ):
        assert not alike(one, other)


class Interrupting(Snapshot):
    """Sends this process a signal in the midst of the update of a step, or after it."""

    def __init__(self, file, number, at, midst, seconds):
        super().__init__(file, {}, seconds)
        self.number, self.at, self.midst, self.steps = number, at, midst, 0

    def offer(self, state):
        self.steps += 1
        if self.midst and self.steps == self.at:
            signal.raise_signal(self.number)
            signal.raise_signal(signal.SIGTERM)  # as from the parent that has got it, too
        super().offer(state)
        if not self.midst and self.steps == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("kind", ["ppo", "warm start", "evaluation"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("midst", "seconds", "kept"),
    [
        (True, 1e9, 3),  # not saved for long: the update ends first
        (True, 0, 2),  # the state before the update is saved: it is not waited for
        (False, 1e9, 3),
    ],
)
def test_an_interruption_costs_a_step_at_most(
    kind, number, midst, seconds, kept, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.snapshot.SHARE", 1e9)  # saved as often as `seconds` says
    function, options = RUNS[kind]
    kept_state = Interrupting(tmp_path / "state.pt", number, 3, midst, seconds)
    before = signal.signal(signal.SIGTERM, lambda *_: exit(143))
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            function(CausalLMWithValueHead(make_model()), kept_state, lambda step: None, **options)
    finally:
        signal.signal(signal.SIGTERM, before)
    saved = read(tmp_path / "state.pt")["state"]
    assert len(next(saved[k] for k in ("curve", "losses", "batches") if k in saved)) == kept


def test_a_state_of_another_key_is_not_taken_up_and_that_is_said(tmp_path, capsys):
    key = {"ppo": {"lam": 0.9, "gamma": 1.0}, "seed": 1}
    Snapshot(tmp_path / "s.pt", key, 0).save({"step": 3})
    assert Snapshot(tmp_path / "s.pt", key, 0).load() == {"step": 3}
    assert f"going on from {tmp_path / 's.pt'}" in capsys.readouterr().out
    other = Snapshot(tmp_path / "s.pt", {**key, "ppo": {"lam": 1.0, "gamma": 1.0}}, 0)
    assert other.load() is None
    assert "is of a run with another ppo.lam: beginning anew" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no snapshot", b"PK\x03\x04"])
def test_what_is_no_snapshot_is_named(content, tmp_path):
    (tmp_path / "s.pt").write_bytes(content)
    with pytest.raises(PipelineError, match=r"s\.pt: not a snapshot .*; remove it"):
        Snapshot(tmp_path / "s.pt", {}, 0).load()


def test_it_is_saved_when_it_is_time_to(tmp_path):
    seldom = Snapshot(tmp_path / "s.pt", {}, 1e9)
    seldom.offer(lambda: {"step": 1})
    assert seldom.load() is None
    Snapshot(tmp_path / "s.pt", {}, 0).offer(lambda: {"step": 1})
    assert seldom.load() == {"step": 1}


def test_saving_takes_no_more_than_its_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow():
        now[0] += 2.0
        return {}

    slow_one = Snapshot(tmp_path / "s.pt", {}, 5)
    monkeypatch.setattr(torch, "save", lambda state, file: (slow(), file.write_bytes(b"")))
    saved = []
    for _ in range(100):
        now[0] += 1.0
        before = now[0]
        slow_one.offer(dict)
        if now[0] > before:
            saved.append(before)
    assert saved == [105.0, 147.0, 189.0]  # 2 s of 42, a twentieth of the time between


def test_a_disk_that_is_full_costs_the_new_state_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.snapshot.SHARE", math.inf)
    kept = Snapshot(tmp_path / "s.pt", {}, 0)
    kept.save({"step": 1})

    def full(state, file):
        file.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        kept.offer(lambda: {"step": 2})
    assert "warning: the run's state was not saved: " in capsys.readouterr().out
    assert kept.behind
    assert kept.load() == {"step": 1}
    assert os.listdir(tmp_path) == ["s.pt"]


def test_a_finished_run_is_kept_until_it_is_on_record(tmp_path):
    """DVC writes its lock after the stage has ended: a kill between costs nothing."""
    file = tmp_path / "s.pt"
    Snapshot(file, {}, 0).save({"step": 9})
    Snapshot(file, {}, 0).finish()
    assert not file.exists()
    assert Snapshot(file, {}, 0).load() == {"step": 9}
    (finished,) = tmp_path.iterdir()
    clear_finished(tmp_path, finished.stat().st_mtime - 1)
    assert finished.exists()
    Snapshot(file, {}, 0).save({"step": 1})
    clear_finished(tmp_path, time.time() + 1)
    assert list(tmp_path.iterdir()) == [file]


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with NOWHERE.kept(dict):
        NOWHERE.offer(dict)
    NOWHERE.finish()
    assert NOWHERE.load() is None
    assert list(Path().iterdir()) == []


def test_an_error_keeps_what_was_done(tmp_path):
    """As of a tool that is down: it is mended, and the run goes on."""
    snapshot = Snapshot(tmp_path / "s.pt", {}, 1e9)

    def run():
        with snapshot.kept(lambda: {"step": 1}):
            snapshot.offer(dict)
            raise PipelineError("the tool is down")

    with pytest.raises(PipelineError):
        run()
    assert snapshot.load() == {"step": 1}


@pytest.mark.parametrize("main", [True, False])
def test_each_process_ends_an_update_before_it_stops(main, tmp_path):
    """The main one needs the others for that, or the update's work is lost."""
    kept = Snapshot(tmp_path / "s.pt", {}, 1e9, main)
    kept.offer(lambda: {"step": 1})
    ended = []

    def update():
        with kept.kept(lambda: {"step": 2}), kept.update():
            signal.raise_signal(signal.SIGTERM)
            ended.append(True)

    before = signal.signal(signal.SIGTERM, lambda *_: exit(143))
    try:
        with pytest.raises(SystemExit):
            update()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [True]
    assert (tmp_path / "s.pt").exists() == main


def test_a_run_that_breaks_between_updates_is_saved(tmp_path):
    """As where another process is gone: what is there is whole."""
    kept = Snapshot(tmp_path / "s.pt", {}, 1e9)
    kept.offer(lambda: {"step": 1})
    with pytest.raises(RuntimeError), kept.kept(lambda: {"step": 1}):
        raise RuntimeError("connection closed by peer")
    assert read(tmp_path / "s.pt")["state"] == {"step": 1}
    (tmp_path / "s.pt").unlink()
    with pytest.raises(RuntimeError), kept.kept(lambda: {"step": 2}), kept.update():
        raise RuntimeError("connection closed by peer")
    assert not (tmp_path / "s.pt").exists()
