"""A language model learns to use a calculator, by the library alone: no DVC, no params.yaml.

python examples/calculator.py [MODEL]   # a folder or a name of the hub; `dvc repro fetch_model` makes the default

It prints a line for each step, and one episode at the end. A step takes some ten seconds on two cores.
"""

import random
import re
import sys

from pipeline.algorithms.ppo import PPO, PPOConfig
from pipeline.environment import EpisodeBatch, TextEnvironment, TextHistory
from pipeline.models.policy import CausalLMWithValueHead, from_pretrained
from pipeline.models.sampling import TorchSampler
from pipeline.tools.calculator import calculate
from pipeline.training.trainer import PolicyTrainer

EXAMPLES = {"13.1-3": "10.1", "4*3": "12", "12.1+1": "13.1", "12.1-20": "-7.9"}
PROMPT = "".join(
    f"What is {question}?\n<request><Calculator>{question}<call>{result}<response>\nResult={result}<submit>\n"
    for question, result in EXAMPLES.items()
)


def rewards(answers: list[str], sums: list[str]) -> list[float]:
    """1 for each answer that hands in what the calculator finds, else 0."""
    found = [re.fullmatch(r"\s*Result=(\S+)<submit>", answer) for answer in answers]
    return [float(m is not None and m[1] == calculate(s)) for m, s in zip(found, sums)]


def learn(name: str, steps: int = 8, episodes: int = 32) -> list[TextHistory]:
    """Trains the model called `name`; returns the last step's episodes."""
    model, tokenizer = from_pretrained(name)
    policy = CausalLMWithValueHead(model)
    env = TextEnvironment(
        TorchSampler(model, tokenizer), tokenizer, {"Calculator": calculate}, rewards, PROMPT
    )
    trainer = PolicyTrainer(PPO(PPOConfig()), policy)
    draw = random.Random(0)
    played: list[TextHistory] = []
    for step in range(steps):
        sums = [
            f"{draw.randint(1, 99)}{draw.choice('+-*/')}{draw.randint(1, 99)}"
            for _ in range(episodes)
        ]
        played = env.rollout([f"What is {s}?\n" for s in sums], seed=0, step=step, sums=sums)
        statistics = trainer.step(EpisodeBatch.of(played))
        print(
            f"step {step + 1}: reward {statistics['ppo/mean_scores']:.2f}, "
            f"KL {statistics['objective/kl']:.2f} nats"
        )
    return played


if __name__ == "__main__":
    model = sys.argv[1] if len(sys.argv) > 1 else "data/models/base"
    print(learn(model)[0].text.removeprefix(PROMPT))
