"""Which episodes get from the environment to the trainer."""

from dataclasses import replace

import pytest

from pipeline.environment import CallRecord, EndReason, EpisodeBatch, TextHistory
from pipeline.environment.batch import trained


def episode(number, *kinds):
    """An episode with a call of each of these kinds of errors; it is known by its first token."""
    history = TextHistory("Q", [number, 1])
    history.append_segment("a", [2], system=False, logprobs=[-1.0])
    history.calls = [CallRecord("T", "x", "y", kind, cut=False, details={}) for kind in kinds]
    history.complete(EndReason.SUBMITTED)
    history.reward = float(number)
    return history


def numbers(batch):
    return [sequence[0] for sequence in batch.sequences]


def test_an_episode_in_which_a_tool_failed_by_itself_does_not_train():
    episodes = [
        episode(0),
        episode(1, "", "crashed"),
        episode(2, "refused"),
        episode(3, "no answer", ""),
        episode(4, "timeout", "malformed", "unknown tool", "runtime"),
    ]
    batch = EpisodeBatch.of(episodes)
    assert numbers(batch) == [0, 2, 4]
    assert batch.rewards == [0.0, 2.0, 4.0]
    assert not batch.left


def test_groups_keep_the_others_and_go_where_one_is_left():
    down = {1, 6, 7, 9, 10, 11}
    episodes = [episode(n, "crashed" if n in down else "") for n in range(12)]
    batch = EpisodeBatch.of(episodes, 3)
    assert numbers(batch) == [0, 2, 3, 4, 5]
    assert batch.left == [2, 3]
    assert batch.group_size == 3
    assert [len(group) for group in trained(episodes, 3)] == [2, 3]
    assert not EpisodeBatch.of([episode(n) for n in range(6)], 3).left


def test_where_none_is_left_there_is_nothing_to_learn():
    batch = EpisodeBatch.of([episode(0, "crashed"), episode(1, "")], 2)
    assert batch.sequences == [[0, 1], [1, 1]]
    assert batch.masks == [[], []]
    assert batch.sampled_logprobs == ()


def test_groups_that_do_not_fit_are_named():
    good = EpisodeBatch.of([episode(n, "crashed" if n == 1 else "") for n in range(6)], 3)
    for left in ([3, 3], [1, 4], [1, 2, 2]):
        with pytest.raises(ValueError, match=r"5 episodes are no groups of .*, of 2 to 3 each"):
            replace(good, left=left)
