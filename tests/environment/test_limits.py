from dataclasses import dataclass

import pytest

from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.environment.limits import check_limits
from pipeline.errors import PipelineError
from pipeline.tasks import load_task

TASK = load_task("arithmetic")


@dataclass
class Sampler:
    max_positions: int | None = None


@pytest.fixture
def check(tokenizer):
    shots, _ = TASK.demonstrate([], {}, 0)

    def check(positions=None, **limits):
        settings = {
            "protocol": "tags",
            "max_turns": 2,
            "max_new_tokens": 50,
            "max_tool_response": 20,
        }
        env = TaskEnvironment(
            Sampler(positions), tokenizer, TASK, shots, {}, EnvironmentSettings(**settings | limits)
        )
        check_limits(env, shots)
        return env, shots

    return check


def test_the_shortest_turn_has_to_fit(check):
    env, shots = check()
    turns = [
        max(len(s.tokens) for s in env.protocol.shown(shot) if s.author == "model")
        for shot in shots
    ]
    assert len(set(turns)) > 1
    check(max_new_tokens=min(turns))
    with pytest.raises(
        PipelineError,
        match=rf"arithmetic\.environment\.max_new_tokens: {min(turns) - 1} .*set it to {min(turns)} or",
    ):
        check(max_new_tokens=min(turns) - 1)


def test_the_longest_output_has_to_fit(check):
    env, shots = check()
    longest = max(len(env.codec.data(shot.calls[0].output)) for shot in shots)
    check(max_tool_response=longest)
    with pytest.raises(
        PipelineError,
        match=rf"arithmetic\.environment\.max_tool_response: {longest - 1} .*output of {longest}, wh",
    ):
        check(max_tool_response=longest - 1)


def test_an_episode_has_to_fit(check):
    env, shots = check()
    whole = min(sum(len(s.tokens) for s in env.protocol.shown(shot)) for shot in shots)
    check(max_length=whole, positions=whole)
    with pytest.raises(
        PipelineError, match=rf"arithmetic\.environment\.max_length: {whole - 1} .* has {whole}:"
    ):
        check(max_length=whole - 1)
    with pytest.raises(PipelineError, match=rf"the model's positions: {whole - 1} tokens"):
        check(positions=whole - 1)
