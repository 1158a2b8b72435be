"""TRL 0.11's parameters of PPO."""

import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.algorithms import ppo

UNLIMITED = 1e9
"""More than any norm or KL."""


def _script() -> str:
    return Path(sys.argv[0]).stem


@dataclass
class PPOConfig:
    """TRL 0.11's, with its names and defaults. The trainer reads it anew in each step.

    Raises:
        ValueError: if `batch_size` is no multiple of `mini_batch_size * gradient_accumulation_steps`, or
            `kl_penalty` is unknown.
    """

    learning_rate: float = 1.41e-5
    batch_size: int = 128
    mini_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    ppo_epochs: int = 4
    adap_kl_ctrl: bool = True
    init_kl_coef: float = 0.2
    kl_penalty: Literal["kl", "abs", "mse", "full"] = "kl"
    target: float = 6.0
    horizon: float = 10000.0
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    max_grad_norm: float | None = None
    ratio_threshold: float = 10.0
    early_stopping: bool = False
    target_kl: float = 1.0
    use_score_scaling: bool = False
    use_score_norm: bool = False
    score_clip: float | None = None
    whiten_rewards: bool = False
    seed: int = 0
    log_with: str | None = None  # one of accelerate's trackers
    tracker_project_name: str = "trl"
    tracker_kwargs: dict[str, Any] = field(default_factory=dict)
    accelerator_kwargs: dict[str, Any] = field(default_factory=dict)
    project_kwargs: dict[str, Any] = field(default_factory=dict)
    push_to_hub_if_best_kwargs: dict[str, Any] = field(default_factory=dict)
    compare_steps: int = 1
    remove_unused_columns: bool = True
    forward_batch_size: int | None = None  # mini_batch_size by an older name
    # For the script's own use.
    exp_name: str = field(default_factory=_script)
    model_name: str = "gpt2"
    task_name: str | None = None
    steps: int = 20000
    query_dataset: str = "stanfordnlp/imdb"
    reward_model: str = "sentiment-analysis:lvwerra/distilbert-imdb"
    # What only made TRL faster, or smaller in memory.
    gradient_checkpointing: bool = False
    optimize_cuda_cache: bool | None = None
    optimize_device_cache: bool = False
    dataset_num_proc: int | None = None
    # What the trainer fills in.
    world_size: int | None = None
    is_encoder_decoder: bool | None = None
    is_peft_model: bool | None = None
    backward_batch_size: int | None = None
    global_backward_batch_size: int | None = None
    global_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.forward_batch_size is not None:
            self.mini_batch_size = self.forward_batch_size
        self.backward_batch_size = self.mini_batch_size * self.gradient_accumulation_steps
        if self.backward_batch_size < 1 or self.batch_size % self.backward_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size}: it must be a multiple of mini_batch_size * "
                f"gradient_accumulation_steps, which is {self.backward_batch_size}"
            )
        if self.kl_penalty not in ("kl", "abs", "mse", "full"):
            raise ValueError(f"kl_penalty {self.kl_penalty!r}: there is kl, abs, mse and full")
        self.total_ppo_epochs = math.ceil(self.steps / self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The parameters; those of mappings by names with a slash."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            inner = value if isinstance(value, dict) else {}
            flat |= {f"{name}/{key}": x for key, x in inner.items()} or {name: value}
        return flat

    def ours(self) -> ppo.PPOConfig:
        """What it means to our trainer: a minibatch of ours is what one update of TRL's learns from."""
        return ppo.PPOConfig(
            learning_rate=self.learning_rate,
            mini_batch_size=self.mini_batch_size * self.gradient_accumulation_steps,
            epochs=self.ppo_epochs,
            adap_kl_ctrl=self.adap_kl_ctrl,
            init_kl_coef=self.init_kl_coef,
            target_kl_episode=self.target,
            horizon=self.horizon,
            gamma=self.gamma,
            lam=self.lam,
            cliprange=self.cliprange,
            cliprange_value=self.cliprange_value,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm or UNLIMITED,
            ratio_threshold=self.ratio_threshold,
            target_kl_update=self.target_kl if self.early_stopping else UNLIMITED,
        )
