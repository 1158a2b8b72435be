"""Chance as a function of place: what is drawn depends on where it is used, not on what was drawn before.

So an episode's draws are the same in a batch of any size, beside any batch mates, and in a run that was
killed and goes on. Philox, a counter-based generator, makes it cheap: the seed and the purpose are its
key, the place is its counter (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

TOKENS, PROBLEMS, MINIBATCHES, DEMONSTRATIONS = range(4)
"""What is drawn: each purpose has draws of its own, whatever the seed."""


@dataclass(frozen=True)
class Place:
    """Where an episode is rolled out: what its tokens are drawn from depends on nothing else.

    Attributes:
        seed: the training's or the evaluation's.
        step: of the training, from 0; 0 in evaluation.
        episode: its number in the step; in evaluation the `number_of` its problem.
        turn: which of the model's turns, from 0.
    """

    seed: int
    step: int
    episode: int
    turn: int = 0

    def at_turn(self, turn: int) -> "Place":
        return replace(self, turn=turn)

    def uniforms(self, count: int) -> np.ndarray:
        """The numbers for the turn's first `count` tokens, (count,), float32, in [0, 1).

        A longer turn begins with those of a shorter one.
        """
        generator = _generator(self.seed, TOKENS, self.step, self.episode, self.turn)
        return generator.random(count, dtype=np.float32)


def number_of(identity: str) -> int:
    """A number for a problem's id, the same on every machine: an episode's place in evaluation."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


def shuffled(count: int, purpose: int, seed: int, *place: int) -> list[int]:
    """The numbers below `count` in the order that belongs to the place (up to three numbers)."""
    return _generator(seed, purpose, *place).permutation(count).tolist()


def epochs(count: int, positions: Iterable[int], purpose: int, seed: int) -> list[int]:
    """Which of `count` items stand at the given positions of an endless sequence of epochs.

    Each epoch has every item once, in an order of its own.
    """
    orders: dict[int, list[int]] = {}
    chosen = []
    for position in positions:
        epoch, index = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = shuffled(count, purpose, seed, epoch)
        chosen.append(orders[epoch][index])
    return chosen


def _generator(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The counter's lowest word counts what is drawn at one place; the others are the place."""
    counter = [0, *reversed(place)]
    counter += [0] * (4 - len(counter))
    key = np.array([seed, purpose], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=key, counter=np.array(counter, dtype=np.uint64))
    )
