"""What sharing the few-shot prompt and packing are worth, beside plain passes of `transformers`.

    python -m scripts.bench_model [task]

Needs what `dvc repro fetch_model demonstrate@<task>` makes. Compares, in turns, sampling with the model's
own `generate`, and scores and gradients with those of whole sequences, a row for each.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.utils.rnn import pad_sequence

from pipeline.chance import Place
from pipeline.environment.chat import protocol_of
from pipeline.models.policy import load_policy
from pipeline.models.sampling import TorchSampler
from pipeline.models.scoring import TokenBatch, score
from pipeline.params import load_params
from pipeline.tasks import load_task, read_demonstration
from pipeline.workspace import BASE, read_problems, read_shots

EPISODES = 32
NEW_TOKENS = 32
ROUNDS = 3
PADDING = 0


def main(task: str = "arithmetic") -> None:
    machine = load_params().machine
    policy, tokenizer = load_policy(BASE, machine.resolve_device(), "fetch_model")
    model = policy.pretrained_model
    shots = [read_demonstration(row) for row in read_shots(task)]
    protocol = protocol_of("tags", tokenizer, load_task(task), shots)
    problems = read_problems(task, "train", load_task(task).Row)[:EPISODES]
    contexts = [list(protocol.opening(p["question"]).tokens) for p in problems]
    sampler = TorchSampler(model, tokenizer)
    places = [Place(0, 0, episode) for episode in range(EPISODES)]

    def sample() -> None:
        with machine.autocast():
            sampler.generate(contexts, [NEW_TOKENS] * EPISODES, [], places)

    def generate() -> None:
        # A row for each, and the prompt in every one of them.
        tokens = padded(contexts, "left").to(model.device)
        with machine.autocast(), torch.no_grad():
            model.generate(
                tokens,
                attention_mask=(tokens != PADDING).long(),
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                do_sample=True,
                pad_token_id=PADDING,
            )

    # Responses of different lengths, as they are in training.
    written = sampler.generate(contexts, [NEW_TOKENS] * EPISODES, [], places)
    responses = [c.tokens[: 8 + i % 25] for i, c in enumerate(written)]
    batch = TokenBatch.of(
        [c + r for c, r in zip(contexts, responses)], [len(context) for context in contexts]
    )

    def ours() -> None:
        with machine.autocast():
            loss = score(model, batch).logprobs.sum()
        loss.backward()
        model.zero_grad(set_to_none=False)

    def whole() -> None:
        tokens = padded(batch.sequences, "right").to(model.device)
        with machine.autocast():
            logits = model(tokens, attention_mask=(tokens != PADDING).long()).logits[:, :-1]
        chosen = logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
        chosen.masked_fill(tokens[:, 1:] == PADDING, 0.0).sum().backward()
        model.zero_grad(set_to_none=False)

    for name, first, second in (
        (f"sampling {NEW_TOKENS} tokens", sample, generate),
        ("scores and gradients", ours, whole),
    ):
        here, there = in_turns(first, second)
        print(
            f"{task}, {EPISODES} episodes, {name}: {here:.1f} s; plain transformers {there:.1f} s, "
            f"{there / here:.1f} times as long"
        )


def padded(sequences: list[list[int]], side: str) -> torch.Tensor:
    rows = [torch.tensor(sequence) for sequence in sequences]
    return pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side=side)


def in_turns(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """The median seconds of both, which are run one after the other, after one round to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + ROUNDS):
        for call, times in zip((first, second), seconds):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
