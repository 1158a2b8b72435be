"""Training: a policy plays a task's problems and learns from them by one of the algorithms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import set_seed

from pipeline.environment.environment import EnvironmentSettings, task_environment
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.tasks import Problem, Task
from pipeline.tools import Tool
from pipeline.training.run import Algorithm, Run, Stats, TrainSettings


def train(
    policy: CausalLMWithValueHead,
    tokenizer: Any,
    task: Task,
    prompt: str,
    tools: Mapping[str, Tool],
    problems: Sequence[Problem],
    environment: EnvironmentSettings,
    settings: TrainSettings,
    algorithm: Algorithm,
    config: Any,
    machine: Machine,
    seed: int,
    on_step: Callable[[Stats], None],
) -> None:
    """Trains `policy` in place.

    With `settings.keep: best` it is left at the end as it was when it did best; see `BestPolicy`.

    Args:
        prompt, tools: as the task's `demonstrate` and `tools` return them.
        problems: the training set; taken in an order drawn from `seed`, anew when it is used up.
        config: the algorithm's.
        seed: decides that order, the sampling and the minibatches.
        on_step: called after each step with its statistics: the algorithm's, `step`, `episodes` (so
            far), `best_step`, and `env/...` on the episodes played.

    Raises:
        Unstable: after a step that shows that the training has gone wrong; see `instability`. The
            policy is then left as it was when it did best, whatever `settings.keep` says.
    """
    set_seed(seed)
    env = task_environment(task, policy, tokenizer, prompt, tools, environment, seed=seed)
    run = Run(policy, tokenizer, task, env, problems, settings, machine, seed, on_step)
    algorithm.learn(run, config)
    if settings.keep == "best":
        run.best.restore()
