"""A run that was killed goes on, and ends with the very digits of one that was not."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings, evaluate
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.snapshot import Snapshot, interruptions_wait
from pipeline.tasks import Demonstration
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
    return TaskEnvironment(sampler, tokenizer, Uneven(), "P", {}, limits)


PROBLEMS = Uneven().problems(Uneven.Data(source="builtin", train=7, test=1, seed=0))["train"]


def training(snapshot, on_step, name="ppo", config=None, **options):
    algorithm = load_algorithm(name)
    settings = {"steps": 6, "episodes_per_step": 8, "lr_schedule": "linear", "warmup_steps": 2}
    policy = CausalLMWithValueHead(make_model())
    train(
        policy,
        environment(policy),
        PROBLEMS,
        TrainSettings(**settings, keep="best"),
        algorithm(algorithm.Config(learning_rate=1e-3, mini_batch_size=4, **(config or {}))),
        MACHINE,
        seed=1,
        on_step=on_step,
        snapshot=snapshot,
    )


def warming(snapshot, on_step):
    demonstrations = [Demonstration(f"Q{i}\n", (("model", f"{i}<submit>"),)) for i in range(5)]
    settings = WarmStartSettings(steps=12, batch_size=2, learning_rate=1e-3)
    policy = CausalLMWithValueHead(make_model())
    warm_start(policy, make_tokenizer(), "P", demonstrations, settings, MACHINE, on_step, snapshot)


def evaluating(snapshot, on_step):
    environments = {"sampled": environment(CausalLMWithValueHead(make_model()))}
    settings = EvaluationSettings(batch_size=1, seed=3)
    evaluate(environments, PROBLEMS, settings, MACHINE, on_step, snapshot)


RUNS = {
    "ppo": (training, {"config": {"adap_kl_ctrl": True, "target_kl_episode": 0.1, "horizon": 50, "epochs": 2}}),
    "grpo": (training, {"name": "grpo", "config": {"num_generations": 2, "beta": 0.1}}),
    "rloo": (training, {"name": "rloo", "config": {"num_generations": 4}}),
    "warm start": (warming, {}),
    "evaluation": (evaluating, {}),
}  # fmt: skip


def run(kind, folder, seconds=0.0):
    """One run of a kind, whose last state stays in the folder; it tells its steps there, too."""
    function, options = RUNS[kind]
    torch.set_num_threads(1)
    steps = []
    function(Snapshot(folder / "state.pt", {"kind": kind}, seconds), steps.append, **options)
    torch.save(steps, folder / "steps.pt")


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


def start(kind, folder, seconds=0.0):
    process = SERVER.Process(target=run, args=(kind, folder, seconds))
    process.start()
    return process


@pytest.mark.parametrize("kind", RUNS)
def test_a_killed_run_ends_with_the_digits_of_one_that_was_not(kind, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    SERVER.Process(target=time.sleep, args=(0,)).start()  # the server's imports
    begun = time.monotonic()
    process = start(kind, whole)
    process.join()
    assert process.exitcode == 0
    takes = time.monotonic() - begun
    draw, kills = random.Random(kind), 0
    while True:
        process = start(kind, killed)
        process.join(draw.uniform(0.1, 0.6) * takes if kills < 6 else None)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0
    assert kills > 0
    for name in ("state.pt", "steps.pt"):
        assert alike(read(whole / name), read(killed / name))


def test_alike_tells_digits_apart():
    one = {"a": [torch.tensor([1.0]), 2.0]}
    assert alike(one, {"a": [torch.tensor([1.0]), 2.0]})
    for other in (
        {"a": [torch.tensor([1.0 + 2**-23]), 2.0]},
        {"a": [torch.tensor([1.0])]},
        {"b": []},
    ):
        assert not alike(one, other)


def interrupt(at, number):
    """A function that sends this process a signal at the given step."""

    def on_step(_, steps=[]):  # noqa: B006
        steps.append(_)
        if len(steps) == at:
            os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize("kind", ["ppo", "warm start", "evaluation"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_loses_no_step(kind, number, tmp_path):
    """However long it is until the next time to save."""
    function, options = RUNS[kind]
    snapshot = Snapshot(tmp_path / "state.pt", {}, 1e9)
    before = signal.signal(signal.SIGTERM, lambda *_: exit(143))
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            function(snapshot, interrupt(3, number), **options)
    finally:
        signal.signal(signal.SIGTERM, before)
    saved = read(tmp_path / "state.pt")["state"]
    assert len(next(saved[k] for k in ("curve", "losses", "batches") if k in saved)) == 3


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
    seldom.remove()
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nowhere = Snapshot(None)
    with nowhere.saved_on_exit(dict):
        nowhere.offer(dict)
    assert nowhere.load() is None
    assert list(Path().iterdir()) == []


def test_a_signal_waits_until_the_block_has_ended():
    done = []

    def block():
        with interruptions_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("the block")
        done.append("what follows")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the block"]
