"""A tool that fails by itself: its episodes do not train, and if it stays so, the training stops."""

import warnings

import pytest
import torch

from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.environment.history import CallRecord, TextHistory
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampler import Continuation, StopReason
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tools import ToolError
from pipeline.training.outage import outage
from pipeline.training.run import train
from pipeline.training.settings import TrainSettings
from pipeline.training.stability import BestPolicy, instability
from tests.tiny import make_model

PROBLEMS = [{"id": str(n), "question": f"{n}?", "answer": "1"} for n in range(8)]


class Calls:
    """A sampler that calls the tool with its episode's number, and then hands in an answer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        texts = [
            f"<request><T>{place.step} {place.episode}<call>"
            if place.turn == 0
            else f"Result={place.episode % 2}<submit>"
            for place in places
        ]
        tokens = [self.tokenizer(text).input_ids for text in texts]
        return [
            Continuation(ids, [-1.0] * len(ids), text, StopReason.STOP_STRING)
            for ids, text in zip(tokens, texts)
        ]


def play(tokenizer, tool, name="ppo", steps=5, episodes=8, **config):
    """A training with a tool; its curve and its policy."""
    policy, curve = CausalLMWithValueHead(make_model()), []
    algorithm = load_algorithm(name)
    env = TaskEnvironment(
        Calls(tokenizer),
        tokenizer,
        Arithmetic(),
        [],
        {"T": tool},
        EnvironmentSettings(max_turns=2, max_new_tokens=99, max_tool_response=20),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        train(
            policy,
            env,
            PROBLEMS,
            TrainSettings(
                steps=steps,
                episodes_per_step=episodes,
                lr_schedule="constant",
                warmup_steps=0,
                keep="last",
            ),
            algorithm(algorithm.Config(mini_batch_size=4, **config)),
            Machine(device="cpu", precision="float32"),
            seed=1,
            on_step=curve.append,
        )
    return curve, policy


def down_when(condition):
    """A tool whose service is down in some steps, or for some episodes."""

    def tool(argument):
        if condition(*map(int, argument.split())):
            raise ConnectionError("connection refused")
        return "1"

    return tool


def test_a_training_whose_tool_is_down_stops_and_says_which_tool_and_why(tokenizer):
    with pytest.raises(PipelineError) as error:
        play(tokenizer, down_when(lambda step, episode: step >= 1))
    assert "step 4: tools have failed in 100% of their calls" in str(error.value)
    assert "T failed in 8 of 8 calls" in str(error.value)
    assert "connection refused" in str(error.value)


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_steps_that_are_lost_teach_nothing_and_the_training_goes_on(tokenizer, name):
    groups = {} if name == "ppo" else {"num_generations": 4}
    lost, policy = play(tokenizer, down_when(lambda step, e: step < 2), name, 2, **groups)
    fresh = CausalLMWithValueHead(make_model())
    assert all(
        torch.equal(*pair)
        for pair in zip(policy.state_dict().values(), fresh.state_dict().values())
    )
    assert [stats["env/dropped_share"] for stats in lost] == [1, 1]
    assert [stats["env/tool_outages_mean"] for stats in lost] == [1, 1]
    assert [stats["env/tool_outage_share"] for stats in lost] == [1, 1]
    curve, _ = play(tokenizer, down_when(lambda step, e: step in (1, 2, 4)), name, 6, **groups)
    assert len(curve) == 6
    assert [stats["env/reward_mean"] for stats in curve] == [0.5, 0, 0, 0.5, 0, 0.5]
    assert [stats["best_step"] for stats in curve] == [0, 0, 0, 0, 0, 6]


def test_what_the_model_does_wrong_is_no_outage(tokenizer):
    def refuses(argument):
        raise ToolError("no")

    curve, _ = play(tokenizer, refuses)
    assert [stats["env/tool_errors_mean"] for stats in curve] == [1.0] * 5
    assert [stats["env/tool_outages_mean"] for stats in curve] == [0.0] * 5
    assert [stats["env/dropped_share"] for stats in curve] == [0.0] * 5


def test_a_step_learns_as_if_the_episodes_of_an_outage_had_never_been_played(tokenizer):
    """The last two of eight fail: the policy ends where a training on the first six does."""
    one, with_outage = play(tokenizer, down_when(lambda step, episode: episode >= 6), steps=1)
    two, without = play(tokenizer, down_when(lambda *_: False), steps=1, episodes=6)
    assert one[0]["env/dropped_share"] == 0.25
    same = {key for key in two[0] if one[0][key] == two[0][key]}
    assert set(two[0]) - same == {
        "episodes",
        "env/tool_errors_mean",
        "env/tool_outages_mean",
        "env/tool_outage_share",
        "env/dropped_share",
    }
    for key, weights in without.state_dict().items():
        assert torch.equal(with_outage.state_dict()[key], weights)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_groups_learn_from_the_members_that_are_left(tokenizer, name):
    """Of the first group one is left, which is dropped; of the second three."""
    down = {0, 1, 2, 7}
    curve, _ = play(
        tokenizer, down_when(lambda step, e: e in down), name, steps=1, num_generations=4
    )
    assert curve[0]["env/dropped_share"] == 5 / 8
    assert curve[0]["env/reward_mean"] == pytest.approx(1 / 3)  # of episodes 4, 5 and 6
    assert curve[0][f"{name}/mean_scores"] == pytest.approx(1 / 3)


def step(share):
    return {"env/tool_outage_share": share}


def test_an_outage_is_half_of_the_calls_in_three_steps_in_a_row():
    history = TextHistory("Q", [1])
    history.calls = [CallRecord("T", "x", "Tool error: refused", "crashed", False, {})]
    for shares in ([1, 1], [1, 1, 0.4], [0.4, 1, 1], [1, 1, 0.4, 1, 1], [0, 0, 0]):
        assert outage([step(share) for share in shares], [history]) is None
    for shares in ([0.5, 0.5, 0.5], [0, 1, 0.6, 1]):
        found = outage([step(share) for share in shares], [history])
        assert f"step {len(shares)}: " in str(found)
        assert "T failed in 1 of 1 calls, the last time with: Tool error: refused" in str(found)


def test_steps_that_are_lost_are_no_collapse():
    good = {"env/reward_mean": 0.8, "objective/token_entropy": 0.5, "env/dropped_share": 0.0}
    lost = {"env/reward_mean": 0.0, "objective/token_entropy": 0.0, "env/dropped_share": 1.0}
    assert instability([good] * 4 + [lost, lost], 32) is None
    collapsed = instability([good] * 4 + [lost | {"env/dropped_share": 0.0}] * 3, 32)
    assert "step 7" in str(collapsed)


def test_a_lost_step_does_not_change_which_policy_was_best():
    model = torch.nn.Linear(1, 1)
    best = BestPolicy(model)
    for number, rewards in enumerate([[1.0], [1.0], [], [1.0], []], 1):
        best.rolled_out(number, rewards)
    assert best.step == 4


def test_a_lost_step_does_not_move_the_weight_of_the_kl_penalty(tokenizer):
    curve, _ = play(tokenizer, down_when(lambda step, e: step == 0), steps=2, adap_kl_ctrl=True)
    assert curve[0]["objective/kl_coef"] == curve[1]["objective/kl_coef"]
