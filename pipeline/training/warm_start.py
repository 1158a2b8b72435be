"""The warm start: a few supervised steps on demonstrations, just enough that the model calls its tool.

PPO can only reinforce what happens by itself now and then. Where the few-shot prompt alone does not make
the model call the tool, it is shown some episodes first.
"""

from collections.abc import Callable, Sequence

import torch

from pipeline.chance import DEMONSTRATIONS, epochs
from pipeline.environment.history import Segment
from pipeline.environment.protocol import Protocol
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead, adamw
from pipeline.models.scoring import TokenBatch, score
from pipeline.snapshot import NOWHERE, Snapshot, State
from pipeline.tasks import Demonstration
from pipeline.training.loss import masked_mean
from pipeline.training.settings import WarmStartSettings


def warm_start(
    policy: CausalLMWithValueHead,
    protocol: Protocol,
    demonstrations: Sequence[Demonstration],
    settings: WarmStartSettings,
    machine: Machine,
    on_step: Callable[[float], None],
    snapshot: Snapshot = NOWHERE,
) -> None:
    """Fine-tunes `policy` in place on demonstrations.

    The loss is the mean cross-entropy of the model's own tokens; the prompt, the question and the
    tool's answers are context only. AdamW with a learning rate that stays, or falls linearly to 0.

    Args:
        protocol: how the episodes are written.
        on_step: called with each step's loss, in nats per token; where the run goes on, with those of
            the steps before first.
        snapshot: where the state is kept, for a run that is stopped to go on from.

    Raises:
        PipelineError: if there are no demonstrations for its steps.
    """
    if settings.steps and not demonstrations:
        raise PipelineError(
            "there are no demonstrations to learn from: set warm_start.steps to 0, or give more "
            "training problems"
        )
    model = policy.pretrained_model
    episodes = [_tokenized(protocol.shown(demonstration)) for demonstration in demonstrations]
    optimizer = adamw(model.parameters(), settings.learning_rate)
    losses: list[float] = []

    def state() -> State:
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "losses": losses,
        }

    if saved := snapshot.load():
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for loss in saved["losses"]:
            losses.append(loss)
            on_step(loss)
    with snapshot.kept(state):
        for step in range(len(losses), settings.steps):
            positions = range(step * settings.batch_size, (step + 1) * settings.batch_size)
            chosen = epochs(len(episodes), positions, DEMONSTRATIONS, settings.seed)
            sequences, prompt_lengths, masks = zip(*(episodes[index] for index in chosen))
            batch = TokenBatch.of(sequences, prompt_lengths)
            mask = batch.place(masks).bool().to(policy.v_head.weight.device)
            with machine.autocast():
                logprobs = score(model, batch, mask).logprobs
            mean = -masked_mean(logprobs, mask)
            if settings.lr_schedule == "linear":
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * (1 - step / settings.steps)
            optimizer.zero_grad()
            mean.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            with snapshot.update():
                optimizer.step()
                losses.append(float(mean.detach()))
                snapshot.offer(state)
            on_step(losses[-1])


def _tokenized(segments: Sequence[Segment]) -> tuple[list[int], int, list[bool]]:
    """Token ids, how many are the prompt's, and the mask of the rest."""
    tokens = [token for segment in segments for token in segment.tokens]
    start = len(segments[0].tokens)
    mask = [not segment.system for segment in segments for _ in segment.tokens]
    return tokens, start, mask[start:]
