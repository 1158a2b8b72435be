"""Trains tiny policies as one of several processes: for `tests.training.test_processes`.

torchrun --nproc-per-node 2 -m tests.training.several FOLDER STEP_TO_DIE_AT
"""

import os
import signal
import sys
from pathlib import Path

import torch

from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.lifetime import is_main
from pipeline.models import processes
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.snapshot import NOWHERE, Snapshot
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.training import run
from pipeline.training.settings import TrainSettings
from pipeline.training.trainer import PolicyTrainer
from tests.tiny import make_model, make_tokenizer

CASES = {
    "ppo": {"epochs": 2, "mini_batch_size": 5, "adap_kl_ctrl": True, "horizon": 100.0},
    "grpo": {"num_generations": 2, "mini_batch_size": 3, "beta": 0.1},
}
"""Of eight episodes: minibatches of 5 and 3, and of 3, 3 and 2, which three processes cannot share evenly."""


class Odd(Arithmetic):
    """A model that knows nothing has something to learn here."""

    def reward(self, answer, problem):
        return float(len(answer) % 2)


def trained(name: str, break_at: int = 0, snapshot: Snapshot = NOWHERE) -> dict:
    """The curve, the weights and the batches of three steps; of two processes, one dies at a step if told so."""
    task = Odd()
    problems = task.problems(task.Data(source="builtin", train=6, test=2, seed=0))["train"]
    tools = task.tools(None, {})
    prompt, _ = task.demonstrate(problems, tools, 0)
    tokenizer, policy = make_tokenizer(), CausalLMWithValueHead(make_model())
    algorithm, curve, batches = load_algorithm(name), [], []
    genuine, make_optimizer = PolicyTrainer.step, run.make_optimizer

    def optimizer(*arguments):
        """Adam divides a gradient by its size. Where it is 0 but for rounding, rounding would be learned from."""
        made = make_optimizer(*arguments)
        for group in made.param_groups:
            group["eps"] = 1e-3
        return made

    def step(self, episodes):
        batches.append(episodes)
        if break_at == len(batches) and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(self, episodes)

    PolicyTrainer.step, run.make_optimizer = step, optimizer
    try:
        run.train(
            policy,
            TaskEnvironment(
                TorchSampler(policy.pretrained_model, tokenizer),
                tokenizer,
                task,
                prompt,
                tools,
                EnvironmentSettings(max_turns=2, max_new_tokens=5, max_tool_response=5),
            ),
            problems,
            TrainSettings(
                steps=3, episodes_per_step=8, lr_schedule="linear", warmup_steps=0, keep="last"
            ),
            algorithm(algorithm.Config(learning_rate=1e-4, **CASES[name])),
            Machine(device="cpu", precision="float32"),
            1,
            curve.append,
            snapshot,
        )
    finally:
        PolicyTrainer.step, run.make_optimizer = genuine, make_optimizer
    return {
        "curve": curve,
        "weights": policy.state_dict(),
        "episodes": [
            (b.sequences, b.masks, b.rewards, b.truncated, b.sampled_logprobs) for b in batches
        ],
    }


if __name__ == "__main__":
    processes.join(on_cpu=True)
    folder, break_at = Path(sys.argv[1]), int(sys.argv[2])
    done = {
        name: trained(name, break_at, Snapshot(folder / f"{name}.state", main=is_main()))
        for name in CASES
    }
    torch.save(done, folder / f"{os.environ['RANK']}.pt")
