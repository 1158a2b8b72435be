"""Masked PPO: proximal policy optimization on the model's own tokens of a text with tools in it."""

from pipeline.ppo.trainer import PPOConfig, PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
