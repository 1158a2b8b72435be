"""GRPO by TRL's `GRPOTrainer`, whose rollouts this project's environment plays.

Group relative policy optimization ([Shao et al. 2024](https://arxiv.org/abs/2402.03300), §4.1) plays each
problem several times and compares an episode's reward with those of its group, instead of a value head.
The tools' tokens are masked by `env_mask`.
"""

import copy
import os
import tempfile
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.errors import PipelineError
from pipeline.models.policy import adamw
from pipeline.models.scoring import TokenBatch, score
from pipeline.training.run import Episodes, Run, learning_rate_factor


class Config(BaseModel):
    """The knobs of GRPO, by `trl.GRPOConfig`'s names where it has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    learning_rate: PositiveFloat = 2e-5
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    max_grad_norm: PositiveFloat = 1.0
    mini_batch_size: PositiveInt = 16  # episodes per update
    num_generations: int = Field(default=4, ge=2)  # episodes of each problem
    num_iterations: PositiveInt = 1
    epsilon: PositiveFloat = 0.2
    beta: NonNegativeFloat = 0.0  # weight of the KL from the reference
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"


def learn(run: Run, config: Config) -> None:
    """GRPO from the policy as it is. The value head is left alone."""
    # Imported here, as it takes seconds, and every stage reads the params, `Config` among them.
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    episodes_per_step = run.settings.episodes_per_step
    if (
        episodes_per_step % config.mini_batch_size
        or config.mini_batch_size % config.num_generations
    ):
        raise PipelineError(
            f"grpo: episodes_per_step ({episodes_per_step}) must be a multiple of mini_batch_size "
            f"({config.mini_batch_size}), and that of num_generations ({config.num_generations})"
        )
    groups = episodes_per_step // config.num_generations
    problems = {run.task.query(problem): problem for problem in run.problems}
    if len(problems) < groups:
        raise PipelineError(
            f"grpo: a step plays {groups} problems, {config.num_generations} times each; the training "
            f"set has {len(problems)}"
        )
    model = run.policy.pretrained_model
    reference = copy.deepcopy(model).requires_grad_(False)
    updates = episodes_per_step // config.mini_batch_size * config.num_iterations
    measured: dict[str, float] = {}

    def rollout(queries: list[str], trainer: Any) -> dict[str, Any]:
        played = run.play([problems[query] for query in queries])
        measured.update(_measure(run, reference, played))
        return {
            "prompt_ids": [query.tolist() for query in played.queries],
            "completion_ids": [response.tolist() for response in played.responses],
            "logprobs": None,
            "env_mask": [mask.tolist() for mask in played.masks],
            "reward": played.rewards,
        }

    class Trainer(GRPOTrainer):
        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **_: Any
        ) -> tuple[torch.Tensor, torch.Tensor, None]:
            """As TRL's, but the prompt that all rows share is computed once: four times as fast."""
            with self.accelerator.autocast():
                return *_score_completions(model, input_ids, attention_mask, logits_to_keep), None

    class Tell(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "reward" in logs:  # not the summary at the end
                named = {f"grpo/{name}": float(value) for name, value in logs.items()}
                run.learned({**measured, **named})

    optimizer = adamw(
        model.parameters(), config.learning_rate, (config.adam_beta1, config.adam_beta2)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: learning_rate_factor(update // updates, run.settings)
    )
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # which `rollout_func` is there
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=config.mini_batch_size,
            generation_batch_size=episodes_per_step,
            num_generations=config.num_generations,
            num_iterations=config.num_iterations,
            max_steps=run.settings.steps * updates,
            epsilon=config.epsilon,
            loss_type=config.loss_type,
            scale_rewards=config.scale_rewards,
            max_grad_norm=config.max_grad_norm,
            seed=run.seed,
            use_cpu=run.machine.resolve_device() == "cpu",
            bf16=run.machine.resolve_precision() == "bfloat16",
            activation_checkpointing=False,
            disable_dropout=True,
            logging_steps=updates,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            reward_funcs=_given,
            train_dataset=Dataset.from_list([{"prompt": query} for query in problems]),
            processing_class=run.tokenizer,
            optimizers=(optimizer, schedule),
            rollout_func=rollout,
            callbacks=[Tell()],
        )
        trainer.remove_callback(PrinterCallback)
        # TRL would load the reference by the name that the model's config has.
        trainer.beta, trainer.ref_model = config.beta, reference
        try:
            trainer.train()
        finally:
            model.eval()


def _given(**fields: Any) -> list[float | None]:
    """The rewards that the environment gave."""
    return fields["reward"]


def _score_completions(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies, (B, width) each, of the completions in the last `width` columns.

    Prompts are padded on the left, completions on the right. Padding gets zeros.
    """
    present = attention_mask.bool()
    queries = [row[kept] for row, kept in zip(input_ids[:, :-width], present[:, :-width])]
    responses = [row[kept] for row, kept in zip(input_ids[:, -width:], present[:, -width:])]
    batch = TokenBatch.of(queries, responses)
    written = batch.place([torch.ones(len(response)) for response in responses]).bool()
    kept = present[:, -width:]
    written = written.to(kept.device)
    scores = score(model, batch, written)
    logprobs, entropies = (
        torch.zeros(kept.shape, device=kept.device).masked_scatter(kept, x[written])
        for x in (scores.logprobs, scores.entropy)
    )
    return logprobs, entropies


@torch.no_grad()
def _measure(run: Run, reference: Any, played: Episodes) -> dict[str, float]:
    """KL and entropy, as PPO's statistics have them."""
    batch = TokenBatch.of(played.queries, played.responses)
    mask = batch.place(played.masks).bool().to(run.policy.v_head.weight.device)
    with run.machine.autocast():
        now, before = (
            score(model, batch, mask) for model in (run.policy.pretrained_model, reference)
        )
    return {
        "objective/kl": float(torch.where(mask, now.logprobs - before.logprobs, 0.0).sum(1).mean()),
        "objective/token_entropy": float(now.entropy[mask].mean()),
    }
