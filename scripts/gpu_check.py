"""Whether this machine's GPU computes what its CPU does, and how fast: a few steps of each task.

make gpu-check

Needs what `dvc repro fetch_model demonstrate` makes. For each task of params.yaml it rolls out and learns from a
few episodes on the GPU, in the params' precision, and tells tokens per second and memory. Then both devices learn
from the same episodes in float32: their losses have to agree.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from pipeline.environment.batch import EpisodeBatch
from pipeline.environment.environment import TaskEnvironment
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead, load_policy
from pipeline.models.sampling import TorchSampler
from pipeline.params import Params, load_params
from pipeline.tasks import load_task, read_demonstration
from pipeline.training.trainer import PolicyTrainer
from pipeline.workspace import BASE, read_problems, read_setup
from stages.common import run_script

EPISODES, STEPS = 32, 2

TOLERANCE = 1e-3
"""How far a loss may be from the CPU's, relative to it, or to `SMALL` where it is smaller."""

SMALL = 1e-2


@dataclass(frozen=True)
class Speed:
    """What some steps took on one device, at the second of them: the first compiles and allocates."""

    rollout: float  # tokens that the model wrote, per second
    update: float  # tokens of episodes that it learned from, per second
    memory: float  # bytes at most; 0 on a CPU


def main() -> None:
    """Prints the table. Ends with an error if there is no GPU, or a loss differs."""
    params = load_params()
    if not torch.cuda.is_available():
        raise PipelineError(
            "make gpu-check: torch sees no CUDA device here; nvidia-smi and docs/setup.md tell more"
        )
    chosen = Machine(device="cuda", precision=params.machine.precision)
    described = chosen.describe()
    table = Table(
        title=f"{described['device_name']}, {described['precision']}", title_justify="left"
    )
    for column in (
        "task",
        "rollout, tokens/s",
        "update, tokens/s",
        "memory, GB",
        "losses in float32",
    ):
        table.add_column(column, justify="left" if column == "task" else "right")
    wrong = []
    for task in params.tasks:
        fast = speed(params, task, chosen)
        first, second = losses(params, task, "cuda"), losses(params, task, "cpu")
        apart = differences(first, second)
        wrong += [
            f"{task}: {name} is {first[name]:.6g}, on the CPU {second[name]:.6g}" for name in apart
        ]
        numbers = (f"{fast.rollout:,.0f}", f"{fast.update:,.0f}", f"{fast.memory / 1e9:.1f}")
        table.add_row(task, *numbers, "differ" if apart else "alike")
    Console().print(table)
    if wrong:
        raise PipelineError("\n".join(wrong))


def speed(params: Params, task: str, machine: Machine) -> Speed:
    """Rolls out and learns `STEPS` times."""
    env, policy = _environment(params, task, machine)
    trainer = _trainer(params, task, policy, machine)
    cuda = machine.resolve_device() == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for step in range(STEPS):
        begin = time.perf_counter()
        batch = _rolled_out(params, task, env, machine, step)
        middle = time.perf_counter()
        trainer.step(batch)
        if cuda:
            torch.cuda.synchronize()
        end = time.perf_counter()
    written = sum(sum(mask) for mask in batch.masks)
    tokens = sum(map(len, batch.masks))
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    return Speed(written / (middle - begin), tokens / (end - middle), memory)


def losses(params: Params, task: str, device: Literal["cpu", "cuda"]) -> dict[str, float]:
    """A step's statistics in float32, of episodes that the CPU has rolled out.

    Their rewards are made up: of a model that solves nothing the loss would be 0 on every device.
    """
    on_cpu = Machine(device="cpu", precision="float32")
    env, policy = _environment(params, task, on_cpu)
    batch = _rolled_out(params, task, env, on_cpu, 0)
    batch = replace(batch, rewards=[float(i % 2) for i in range(EPISODES)])
    policy.to(device)
    return _trainer(params, task, policy, Machine(device=device, precision="float32")).step(batch)


def differences(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """The statistics that are further apart than `TOLERANCE`."""
    return [
        name
        for name, value in first.items()
        if not abs(value - second[name]) <= TOLERANCE * max(abs(second[name]), SMALL)
    ]


def _environment(
    params: Params, task: str, machine: Machine
) -> tuple[TaskEnvironment, CausalLMWithValueHead]:
    section, made = params.task(task), load_task(task)
    shots, resources = read_setup(task, made.resources)
    policy, tokenizer = load_policy(BASE, machine.resolve_device(), "fetch_model")
    env = TaskEnvironment(
        TorchSampler(policy.pretrained_model, tokenizer),
        tokenizer,
        made,
        [read_demonstration(shot) for shot in shots],
        made.tools(section.tools, resources),
        section.environment,
    )
    return env, policy


def _trainer(
    params: Params, task: str, policy: CausalLMWithValueHead, machine: Machine
) -> PolicyTrainer:
    return PolicyTrainer(
        params.algorithm_of(task),
        policy,
        autocast=machine.autocast,
        max_tokens=params.machine.max_tokens,
        gradient_checkpointing=params.machine.gradient_checkpointing,
    )


def _rolled_out(
    params: Params, task: str, env: TaskEnvironment, machine: Machine, step: int
) -> EpisodeBatch:
    size = params.algorithm_of(task).group_size
    problems = read_problems(task, "train", load_task(task).Row)
    chosen = [problems[(step * EPISODES + i) // size] for i in range(EPISODES)]
    with machine.autocast():
        episodes = env.rollout_problems(chosen, 0, step, range(EPISODES))
    return EpisodeBatch.of(episodes, size)


if __name__ == "__main__":
    run_script(main)
