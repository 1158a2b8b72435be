"""Masked PPO: proximal policy optimization on the model's own tokens of a text with tools in it.

See docs/ppo.md.
"""

import torch

from pipeline.algorithms.ppo.trainer import PPOConfig, PPOTrainer, make_optimizer
from pipeline.training.run import Run, learning_rate_factor

__all__ = ["Config", "PPOConfig", "PPOTrainer", "learn"]

Config = PPOConfig


def learn(run: Run, config: Config) -> None:
    """PPO from the policy as it is, which is the reference of the KL penalty, too."""
    optimizer = make_optimizer(config, run.policy)
    trainer = PPOTrainer(
        config,
        run.policy,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, run.settings)
        ),
        seed=run.seed,
        autocast=run.machine.autocast,
    )
    for problems in run.batches():
        episodes = run.play(problems)
        run.learned(
            trainer.step(
                episodes.queries,
                episodes.responses,
                episodes.rewards,
                episodes.masks,
                [history.truncated for history in episodes.histories],
                [history.sampled_logprobs for history in episodes.histories],
            )
        )
