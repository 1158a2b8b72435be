"""For scripts written for TRL 0.11: its names and arguments, over this project's environment and trainer.

Such a script runs after `from trl import ...` became `from pipeline.trl import ...`. What an argument
asked for is done, or refused with a reason; nothing is left out in silence but what only changes how
fast TRL runs or what it logs. `docs/trl.md` says what differs.
"""

from pipeline.trl.config import PPOConfig
from pipeline.trl.core import set_seed
from pipeline.trl.environment import TextEnvironment, TextHistory
from pipeline.trl.models import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    create_reference_model,
)
from pipeline.trl.tools import load_tool
from pipeline.trl.trainer import PPOTrainer, batch_of

__all__ = [
    "AutoModelForCausalLMWithValueHead",
    "AutoModelForSeq2SeqLMWithValueHead",
    "PPOConfig",
    "PPOTrainer",
    "TextEnvironment",
    "TextHistory",
    "batch_of",
    "create_reference_model",
    "load_tool",
    "set_seed",
]
