"""A training: rollouts of a task's problems, and updates of the policy by an algorithm, step after step."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pipeline.chance import PROBLEMS, epochs
from pipeline.environment.batch import EpisodeBatch, trained
from pipeline.environment.environment import TaskEnvironment
from pipeline.environment.history import TextHistory
from pipeline.environment.outage import Asked, asked_in
from pipeline.errors import PipelineError
from pipeline.models import processes
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.snapshot import NOWHERE, Snapshot, State
from pipeline.tasks import Problem
from pipeline.training.algorithm import Algorithm
from pipeline.training.outage import Outages
from pipeline.training.settings import TrainSettings, learning_rate_factor
from pipeline.training.stability import BestPolicy, Unstable, instability
from pipeline.training.trainer import PolicyTrainer, make_optimizer

Stats = dict[str, float]


def train(
    policy: CausalLMWithValueHead,
    env: TaskEnvironment,
    problems: Sequence[Problem],
    settings: TrainSettings,
    algorithm: Algorithm,
    machine: Machine,
    seed: int,
    on_step: Callable[[Stats], None],
    snapshot: Snapshot = NOWHERE,
) -> None:
    """Trains `policy` in place. Several processes do so together; each needs the same arguments.

    With `settings.keep: best` it is left at the end as it was when it did best; see `BestPolicy`.

    Args:
        env: the task's environment, whose sampler samples from this policy.
        problems: the training set. Its order is drawn for each epoch.
        seed: decides that order, what is sampled, and the minibatches.
        on_step: called after each step with its statistics: the trainer's, `step`, `episodes` (so
            far), `best_step`, and `env/...` on the step's episodes. Where a training goes on, it is
            called for the steps before first.
        snapshot: where the state is kept, for a training that is stopped to go on from.

    Raises:
        PipelineError: if a step's episodes are no whole groups of the algorithm's; after a step that
            shows that a tool is down, see `Outages`.
        Unstable: after a step that shows that the training has gone wrong; see `instability`. The
            policy is then left as it was when it did best, whatever `settings.keep` says.
    """
    size = algorithm.group_size
    if settings.episodes_per_step % size:
        raise PipelineError(
            f"{algorithm.name}: episodes_per_step ({settings.episodes_per_step}) must be a multiple "
            f"of num_generations ({size})"
        )
    optimizer = make_optimizer(algorithm, policy)
    trainer = PolicyTrainer(
        algorithm,
        policy,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings)
        ),
        seed=seed,
        autocast=machine.autocast,
        max_tokens=machine.max_tokens,
        gradient_checkpointing=machine.gradient_checkpointing,
    )
    best = BestPolicy(policy)
    outages = Outages()
    curve: list[Stats] = []

    def state() -> State:
        return {
            "trainer": trainer.state_dict(),
            "best": best.state_dict(),
            "outages": outages.state_dict(),
            "curve": curve,
        }

    if saved := snapshot.load():
        trainer.load_state_dict(saved["trainer"])
        best.load_state_dict(saved["best"])
        outages.load_state_dict(saved["outages"])
        for stats in saved["curve"]:
            curve.append(stats)
            on_step(stats)
    processes.require_same(trainer.steps, "the step to go on from")
    per_step = settings.episodes_per_step // size
    reason = instability(curve, settings.episodes_per_step) if curve else None
    with snapshot.kept(state):
        while trainer.steps < settings.steps and not reason:
            step = trainer.steps
            positions = range(step * per_step, (step + 1) * per_step)
            chosen = [problems[i] for i in epochs(len(problems), positions, PROBLEMS, seed)]
            numbers = processes.share(range(settings.episodes_per_step))
            with machine.autocast():
                mine = env.rollout_problems(
                    [chosen[i // size] for i in numbers], seed, step, numbers
                )
            episodes = processes.gathered(mine)
            with snapshot.update():
                played = [e.reward for group in trained(episodes, size) for e in group]
                best.rolled_out(step + 1, played)
                stats = trainer.step(EpisodeBatch.of(episodes, size))
                counts = {
                    "step": step + 1,
                    "episodes": (step + 1) * settings.episodes_per_step,
                    "best_step": best.step,
                }
                tools = asked_in(episodes)
                down = outages.rolled_out(step + 1, tools)
                curve.append({**counts, **_measure(episodes, size, tools), **stats})
                snapshot.offer(state)
            on_step(curve[-1])
            if down:
                raise down
            reason = instability(curve, settings.episodes_per_step)
    if reason:
        best.restore()
        raise Unstable(reason, best.step)
    if settings.keep == "best":
        best.restore()


def _measure(episodes: Sequence[TextHistory], group_size: int, tools: Mapping[str, Asked]) -> Stats:
    """Statistics of a step's episodes; the rewards are of those that may train."""
    rewards = [e.reward for group in trained(episodes, group_size) for e in group]
    calls = [call for episode in episodes for call in episode.calls]
    return {
        "env/reward_mean": float(np.mean(rewards or [0.0])),
        "env/reward_std": float(np.std(rewards or [0.0])),
        "env/tool_calls_mean": len(calls) / len(episodes),
        "env/tool_errors_mean": sum(call.error for call in calls) / len(episodes),
        "env/tool_outages_mean": sum(call.outage for call in calls) / len(episodes),
        "env/tool_outage_share": max((tool.share for tool in tools.values()), default=0.0),
        "env/dropped_share": 1 - len(rewards) / len(episodes),
        "env/truncated_share": sum(e.truncated for e in episodes) / len(episodes),
    }
