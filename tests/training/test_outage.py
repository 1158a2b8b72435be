"""A tool that fails by itself: its episodes do not train, and if it stays so, the training stops."""

import warnings

import pytest
import torch

from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.environment.outage import Asked
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampler import Continuation, StopReason
from pipeline.snapshot import NOWHERE, Snapshot
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tools import ToolError
from pipeline.training.outage import Outages
from pipeline.training.run import train
from pipeline.training.settings import TrainSettings
from pipeline.training.stability import BestPolicy, instability
from tests.tiny import make_model

PROBLEMS = [{"id": str(n), "question": f"{n}?", "answer": "1"} for n in range(8)]


class Calls:
    """A sampler that calls a tool with step and number of its episode, and then hands in an answer."""

    def __init__(self, tokenizer, called):
        self.tokenizer, self.called = tokenizer, called

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        texts = [
            f"<request><{self.called(place.episode)}>{place.step} {place.episode}<call>"
            if place.turn == 0
            else f"Result={place.episode % 2}<submit>"
            for place in places
        ]
        tokens = [self.tokenizer(text).input_ids for text in texts]
        return [
            Continuation(ids, [-1.0] * len(ids), text, StopReason.STOP_STRING)
            for ids, text in zip(tokens, texts)
        ]


def play(
    tokenizer,
    tool,
    name="ppo",
    steps=5,
    episodes=8,
    called=lambda episode: "T",
    snapshot=NOWHERE,
    **config,
):
    """A training with the tool T, and with Other, which answers; its curve and its policy.

    `called` tells which of them an episode calls.
    """
    policy, curve = CausalLMWithValueHead(make_model()), []
    algorithm = load_algorithm(name)
    env = TaskEnvironment(
        Calls(tokenizer, called),
        tokenizer,
        Arithmetic(),
        [],
        {"T": tool, "Other": lambda argument: "1"},
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
            snapshot=snapshot,
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
    assert "step 4: T failed in 8 of 8 calls, the last time with" in str(error.value)
    assert "connection refused" in str(error.value)
    assert "in each of the last 3 steps" in str(error.value)


def test_of_two_tools_each_is_judged_by_itself(tokenizer):
    """Three of eight calls go to the tool that is down."""
    with pytest.raises(PipelineError, match="step 3: T failed in 3 of 3 calls"):
        play(
            tokenizer,
            down_when(lambda *_: True),
            called=lambda episode: "T" if episode < 3 else "Other",
        )


def test_a_training_that_goes_on_still_knows_which_tool_was_down(tokenizer, tmp_path):
    snapshot = Snapshot(tmp_path / "state.pt", {})
    down = down_when(lambda step, episode: step >= 1)
    play(tokenizer, down, steps=3, snapshot=snapshot)
    with pytest.raises(PipelineError, match="step 4: T failed"):
        play(tokenizer, down, steps=5, snapshot=snapshot)


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


def first_stop(*steps):
    """After which step a training stops, 0 for none; each step is (calls, failures) of the tool T."""
    outages = Outages()
    for number, step in enumerate(steps, 1):
        tools = {"Other": Asked(50, 0, "")} | ({"T": Asked(*step, "no route")} if step else {})
        if error := outages.rolled_out(number, tools):
            assert str(error).startswith(f"step {number}: T failed in {step[1]} of {step[0]} calls")
            assert "no route" in str(error)
            return number
    return 0


HALF, FINE, NOT_CALLED = (8, 4), (9, 4), None


@pytest.mark.parametrize(
    ("steps", "stops"),
    [
        ([HALF, HALF], 0),
        ([HALF, HALF, FINE, HALF, HALF, FINE], 0),
        ([FINE, FINE, FINE, FINE], 0),
        ([HALF, HALF, HALF], 3),
        ([FINE, HALF, HALF, HALF], 4),
        ([HALF, NOT_CALLED, HALF, NOT_CALLED, NOT_CALLED, HALF], 6),  # a tool called now and then
        ([(1, 1)] * 8, 0),  # so few may be an accident
        ([(1, 1)] * 9, 9),
        ([(2, 2)] * 9, 5),
    ],
)
def test_a_tool_is_down_that_fails_in_half_of_its_calls_in_three_of_its_steps(steps, stops):
    assert first_stop(*steps) == stops


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
