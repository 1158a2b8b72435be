"""The warm start: a few supervised steps on demonstrations, just enough that the model calls its tool.

PPO can only reinforce what happens by itself now and then. Where the few-shot prompt alone does not make
the model call the tool, it is shown some episodes first.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.algorithms.ppo.loss import masked_mean
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead, adamw
from pipeline.models.scoring import TokenBatch, score
from pipeline.tasks import Demonstration


class WarmStartSettings(BaseModel):
    """How many demonstrations, and how long and fast to learn from them. 0 steps is no warm start."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(ge=0)
    demonstrations: int = Field(default=96, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    lr_schedule: Literal["constant", "linear"] = "linear"
    seed: int = Field(default=0, ge=0, lt=2**32)


def warm_start(
    policy: CausalLMWithValueHead,
    tokenizer: Any,
    prompt: str,
    demonstrations: Sequence[Demonstration],
    settings: WarmStartSettings,
    machine: Machine,
) -> Iterator[float]:
    """Fine-tunes `policy` in place on demonstrations, and yields each step's loss, in nats per token.

    The loss is the mean cross-entropy of the model's own tokens; the prompt, the question and the
    tool's answers are context only. AdamW with a learning rate that stays, or falls linearly to 0.
    Raises PipelineError if there are no demonstrations for its steps.
    """
    if settings.steps and not demonstrations:
        raise PipelineError(
            "there are no demonstrations to learn from: set warm_start.steps to 0, or give more "
            "training problems"
        )
    model = policy.pretrained_model
    episodes = [_tokenized(tokenizer, prompt, d) for d in demonstrations]
    optimizer = adamw(model.parameters(), settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for step in range(settings.steps):
        while len(order) < settings.batch_size:
            order += torch.randperm(len(episodes), generator=generator).tolist()
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        queries, responses, masks = zip(*(episodes[index] for index in chosen))
        batch = TokenBatch.of(queries, responses)
        mask = batch.place(masks).bool().to(policy.v_head.weight.device)
        with machine.autocast():
            logprobs = score(model, batch, mask).logprobs
        loss = -masked_mean(logprobs, mask)
        if settings.lr_schedule == "linear":
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())


def _tokenized(
    tokenizer: Any, prompt: str, demonstration: Demonstration
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, response, and the response's mask, segment by segment as in `TextEnvironment`."""

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    query = [*tokenizer(prompt).input_ids, *tokenize(demonstration.query)]
    response: list[int] = []
    mask: list[int] = []
    for author, text in demonstration.segments:
        tokens = tokenize(text)
        response += tokens
        mask += [int(author == "model")] * len(tokens)
    return torch.tensor(query), torch.tensor(response), torch.tensor(mask)
