"""`EpisodeBatch`: what a trainer needs of some episodes, from the rollout to the loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.environment.history import TextHistory


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes that have ended.

    Attributes:
        sequences: each episode's token ids, prompt included.
        prompt_lengths: how many of them are the prompt's (and the question's), at least 1.
        masks: for each token after the prompt, whether the model wrote it.
        rewards: the task's.
        truncated: whether a length limit cut the episode off.
        sampled_logprobs: the sampler's log-probability of each token that the model wrote; only
            compared with the trainer's own. Empty if they are not known.
        group_size: how many episodes answer the same problem; they stand side by side.
        left: how many episodes each group still has, where some were left out; empty where none was.

    Raises:
        ValueError: if their lengths do not fit together.
    """

    sequences: Sequence[Sequence[int]]
    prompt_lengths: Sequence[int]
    masks: Sequence[Sequence[bool]]
    rewards: Sequence[float]
    truncated: Sequence[bool]
    sampled_logprobs: Sequence[Sequence[float]] = field(default=())
    group_size: int = 1
    left: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        count = len(self.sequences)
        needed = ("sequences", "prompt_lengths", "masks", "rewards", "truncated")
        lengths = {name: len(getattr(self, name)) for name in needed}
        if self.sampled_logprobs:
            lengths["sampled_logprobs"] = len(self.sampled_logprobs)
        if count == 0 or set(lengths.values()) != {count}:
            raise ValueError(
                "a batch has at least one episode, and of each an entry everywhere; got "
                + ", ".join(f"{length} {name}" for name, length in lengths.items())
            )
        if count % self.group_size and not self.left:
            raise ValueError(f"{count} episodes are no whole groups of {self.group_size}")
        sizes = range(min(self.group_size, 2), self.group_size + 1)
        if self.left and (sum(self.left) != count or not set(self.left) <= set(sizes)):
            raise ValueError(
                f"{count} episodes are no groups of {', '.join(map(str, self.left))}, of "
                f"{sizes.start} to {self.group_size} each"
            )
        for i, (sequence, prompt, mask) in enumerate(
            zip(self.sequences, self.prompt_lengths, self.masks)
        ):
            if prompt < 1:
                raise ValueError(f"episode {i}: a prompt has at least one token")
            if len(sequence) - prompt != len(mask):
                raise ValueError(
                    f"episode {i}: the mask has {len(mask)} entries for {len(sequence) - prompt} "
                    "tokens after the prompt"
                )
            if self.sampled_logprobs and len(self.sampled_logprobs[i]) != sum(mask):
                raise ValueError(
                    f"episode {i}: {len(self.sampled_logprobs[i])} sampled log-probabilities for "
                    f"{sum(mask)} tokens of the model"
                )

    def __len__(self) -> int:
        return len(self.sequences)

    @classmethod
    def of(cls, episodes: Sequence[TextHistory], group_size: int = 1) -> "EpisodeBatch":
        """From episodes as the environment leaves them, without those that must not train; see `trained`.

        Where none is left, all are there with nothing after their prompts: a batch that teaches nothing.
        """
        groups = trained(episodes, group_size)
        if not groups:
            return cls._untaught(episodes, group_size)
        sizes = [len(group) for group in groups]
        episodes = [episode for group in groups for episode in group]
        prompts = [len(episode.segments[0].tokens) for episode in episodes]
        return cls(
            sequences=[episode.token_ids for episode in episodes],
            prompt_lengths=prompts,
            masks=[episode.mask[prompt:] for episode, prompt in zip(episodes, prompts)],
            rewards=[episode.reward for episode in episodes],
            truncated=[episode.truncated for episode in episodes],
            sampled_logprobs=[episode.sampled_logprobs for episode in episodes],
            group_size=group_size,
            left=sizes if set(sizes) != {group_size} else (),
        )

    @classmethod
    def _untaught(cls, episodes: Sequence[TextHistory], group_size: int) -> "EpisodeBatch":
        prompts = [list(episode.segments[0].tokens) for episode in episodes]
        return cls(
            sequences=prompts,
            prompt_lengths=[len(prompt) for prompt in prompts],
            masks=[[] for _ in prompts],
            rewards=[0.0] * len(prompts),
            truncated=[False] * len(prompts),
            group_size=group_size,
        )


def trained(episodes: Sequence[TextHistory], group_size: int = 1) -> list[list[TextHistory]]:
    """The episodes that may train, group by group: those in which no tool failed by itself.

    A group is compared with itself, so one of which a single episode is left is left out, too.
    """
    groups = [
        [episode for episode in episodes[start : start + group_size] if not episode.outage]
        for start in range(0, len(episodes), group_size)
    ]
    return [group for group in groups if len(group) >= min(group_size, 2)]
