"""The parameters of a training. Nothing here needs torch: params.yaml is checked with these types."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class TrainSettings(BaseModel):
    """How long to train a task, and how the learning rate moves meanwhile."""

    model_config = ConfigDict(extra="forbid")
    steps: Count
    episodes_per_step: Count
    lr_schedule: Literal["constant", "linear"]
    warmup_steps: int = Field(ge=0)
    keep: Literal["best", "last"]
    reward: str = "right"  # what is paid for: the task's own reward, or one of its measures

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps must be below steps, which is {self.steps}")
        return self


def learning_rate_factor(step: int, settings: TrainSettings) -> float:
    """The share of the full learning rate at a step, counted from 0.

    It rises linearly over the warm-up's steps; then it stays, or falls linearly, to reach 0 just
    after the last step.
    """
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_schedule == "constant":
        return 1.0
    return max(0.0, (settings.steps - step) / (settings.steps - settings.warmup_steps))


class WarmStartSettings(BaseModel):
    """How many demonstrations, and how long and fast to learn from them. 0 steps is no warm start."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(ge=0)
    demonstrations: Count = 96
    mix: int = Field(default=0, ge=0)  # further ones, of problems that the project makes itself
    batch_size: Count = 8
    learning_rate: Positive = 2e-5
    lr_schedule: Literal["constant", "linear"] = "linear"
    seed: int = Field(default=0, ge=0, lt=2**32)


class UpdateConfig(BaseModel):
    """What every algorithm's updates need. `docs/ppo.md` says where each default comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: Positive = 2e-5
    adam_beta1: Beta = 0.9
    adam_beta2: Beta = 0.95
    max_grad_norm: Positive = 1.0
    epochs: Count = 1
    mini_batch_size: Count = 16  # episodes
    cliprange: Positive = 0.2
    target_kl_update: Positive = (
        0.1  # nats per token: a batch's epochs end early beyond 1.5 times it
    )
    ratio_threshold: Positive = 10.0  # a minibatch whose mean ratio is beyond it is skipped
    mask: bool = True  # false trains on the tools' tokens too: for experiments


class GroupConfig(UpdateConfig):
    """For algorithms that compare episodes of the same problem."""

    num_generations: int = Field(default=4, ge=2)  # episodes of each problem
