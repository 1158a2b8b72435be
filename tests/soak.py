"""A long training and a hundred thousand calls of tools, and what they take of the machine: `make soak`.

python -m tests.soak [STEPS] [CALLS]

Memory, threads, open files and temporary files are looked at in the last fifth of the time, beside the
second fifth, by when all is warm. More than 5% is a leak.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.algorithms import load_algorithm
from pipeline.environment import TextEnvironment
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.sampling import TorchSampler
from pipeline.snapshot import Snapshot
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tools.calculator import calculate
from pipeline.tools.python import PythonInterpreter
from pipeline.training.run import train
from pipeline.training.settings import TrainSettings
from tests.tiny import make_model, make_tokenizer

BATCH = 100
"""Calls of a rollout."""


class Scripted:
    """Stands in for the sampler: calls tools one after the other, good inputs and bad ones."""

    TURNS = (
        "<request><Calculator>{n}*3<call>",
        "<request><Calculator>{n}*<call>",
        "<request><Python>print({n} + 1)<call>",
        "<request><Python>[][{n}]<call>",
        "<request><Async>{n}<call>",
        "<request><Broken>{n}<call>",
    )

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.written = tokenizer, 0

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        continuations = []
        for _ in contexts:
            text = self.TURNS[self.written % len(self.TURNS)].format(n=self.written)
            self.written += 1
            tokens = self.tokenizer(text).input_ids
            continuations.append(
                Continuation(tokens, [-1.0] * len(tokens), text, StopReason.STOP_STRING)
            )
        return continuations


async def answer(text: str) -> str:
    await asyncio.sleep(0)
    return text


def breaks(text: str) -> str:
    raise ValueError(text if int(text) % 50 else text * 100_000)


def calls(count: int) -> Iterator[int]:
    """Calls tools that often; yields how many calls there were."""
    tokenizer = make_tokenizer()
    tools = {
        "Calculator": calculate,
        "Python": PythonInterpreter(),
        "Async": answer,
        "Broken": breaks,
    }
    env = TextEnvironment(
        Scripted(tokenizer), tokenizer, tools, lambda answers: [0.0] * len(answers), "P",
        max_turns=1, max_new_tokens=100,
    )  # fmt: skip
    for done in range(0, count, BATCH):
        env.rollout(["?"] * BATCH, seed=0, step=done)
        yield done + BATCH


def steps(count: int, folder: Path) -> Iterator[int]:
    """Trains so many steps, saving its state all the time."""
    # A training calls back; what looks at it is an iterator: so it is run in pieces, each going on.
    piece = 20
    algorithm = load_algorithm("ppo")
    tokenizer, policy = make_tokenizer(), CausalLMWithValueHead(make_model())
    task = Arithmetic()
    problems = task.problems(task.Data(source="builtin", train=64, test=1, seed=0))["train"]
    limits = EnvironmentSettings(max_turns=2, max_new_tokens=12, max_tool_response=8)
    env = TaskEnvironment(
        TorchSampler(policy.pretrained_model, tokenizer), tokenizer, task, [],
        {"Calculator": calculate}, limits,
    )  # fmt: skip
    for done in range(piece, count + piece, piece):
        train(
            policy, env, problems,
            TrainSettings(steps=done, episodes_per_step=8, lr_schedule="constant", warmup_steps=0, keep="last"),
            algorithm(algorithm.Config(learning_rate=1e-5, mini_batch_size=4)),
            Machine(device="cpu", precision="float32"), 0, lambda stats: None,
            Snapshot(folder / "state.pt", {}),
        )  # fmt: skip
        yield done


def taken() -> dict[str, float]:
    """What this process and those below it take of the machine."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        "MiB": sum(p.memory_info().rss for p in family) / 2**20,
        "threads": sum(p.num_threads() for p in family),
        "files": sum(p.num_fds() for p in family),
        "temporary": sum(1 for _ in Path(tempfile.gettempdir()).iterdir()),
    }


def watch(name: str, count: int, work: Iterator[int]) -> bool:
    """Does the work and tells what it took. Returns whether it took no more and more."""
    seen: list[tuple[int, dict[str, float]]] = []
    begun = time.monotonic()
    for done in work:
        seen.append((done, taken()))
    right = True
    print(f"{done} {name} in {time.monotonic() - begun:.0f} s")
    for what in seen[0][1]:
        early = [t[what] for done, t in seen if 0.2 * count < done <= 0.4 * count]
        late = [t[what] for done, t in seen if 0.8 * count < done]
        before, after = sum(early) / len(early), sum(late) / len(late)
        flat = after <= 1.05 * before
        right &= flat
        print(f"  {what}: {before:.1f}, then {after:.1f}{'' if flat else ': it grows'}")
    return right


def main(training_steps: int = 2000, tool_calls: int = 100_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # so that only what is made here is counted
        (Path(folder) / "state").mkdir()
        flat = [
            watch("calls of tools", tool_calls, calls(tool_calls)),
            watch(
                "steps of training", training_steps, steps(training_steps, Path(folder) / "state")
            ),
        ]
    sys.exit(not all(flat))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
