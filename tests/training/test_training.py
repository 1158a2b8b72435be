import pytest
import torch

from pipeline.algorithms import load_algorithm
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.tasks import load_task
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.training.run import train as train_policy
from pipeline.training.settings import TrainSettings, learning_rate_factor
from pipeline.training.stability import Unstable
from pipeline.training.trainer import PolicyTrainer
from tests.tiny import make_model


def settings(**options):
    return TrainSettings(
        **(
            {
                "steps": 6,
                "episodes_per_step": 3,
                "lr_schedule": "linear",
                "warmup_steps": 2,
                "keep": "last",
            }
            | options
        )
    )


def test_the_learning_rate_rises_then_stays_or_falls():
    linear = [learning_rate_factor(step, settings()) for step in range(7)]
    assert linear == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0])
    constant = [learning_rate_factor(s, settings(lr_schedule="constant")) for s in range(7)]
    assert constant == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1])


def test_a_warm_up_must_end():
    with pytest.raises(ValueError, match="warmup_steps must be below steps, which is 6"):
        settings(warmup_steps=6)


def train(policy, tokenizer, problems, name="ppo", config=None, **options):
    """Statistics of a training on arithmetic, step by step."""
    algorithm, curve = load_algorithm(name), []
    task = load_task("arithmetic")
    tools = task.tools(None, {})
    shots, _ = task.demonstrate(problems, tools, 0)
    env = TaskEnvironment(
        TorchSampler(policy.pretrained_model, tokenizer),
        tokenizer,
        task,
        shots,
        tools,
        EnvironmentSettings(max_turns=2, max_new_tokens=5, max_tool_response=5),
    )
    train_policy(
        policy,
        env,
        problems,
        settings(**options),
        algorithm(config or algorithm.Config()),
        Machine(device="cpu", precision="float32"),
        seed=1,
        on_step=curve.append,
    )
    return curve


@pytest.fixture
def problems():
    task = load_task("arithmetic")
    return task.problems(task.Data(source="builtin", train=7, test=1, seed=0))["train"]


def test_the_trainer_gets_the_episodes_that_were_rolled_out(
    policy, tokenizer, problems, monkeypatch
):
    batches = []
    genuine = PolicyTrainer.step

    def step(self, episodes):
        batches.append(episodes)
        return genuine(self, episodes)

    monkeypatch.setattr(PolicyTrainer, "step", step)
    task = load_task("arithmetic")
    stats = train(policy, tokenizer, problems)
    assert [s["episodes"] for s in stats] == [3, 6, 9, 12, 15, 18]
    assert [s["best_step"] for s in stats] == [0, 0, 3, 4, 5, 6]  # no reward is better than another
    # float32 on both sides: what is left is the order of additions.
    assert all(0 < s["objective/sampler_gap_max"] < 1e-4 for s in stats)
    shots, _ = task.demonstrate(problems, task.tools(None, {}), 0)
    prompt = task.layout.prompt(shots)
    asked = [
        tokenizer.decode(sequence[:length])[len(prompt) :]
        for batch in batches
        for sequence, length in zip(batch.sequences, batch.prompt_lengths)
    ]
    # Every problem once before one comes again.
    assert (
        set(asked[:7])
        == set(asked[7:14])
        == {task.layout.question.format(p["question"]) for p in problems}
    )
    for batch in batches:
        assert all(all(mask) for mask in batch.masks)
        assert batch.rewards == [0.0] * 3
        assert batch.truncated == [len(mask) == 5 for mask in batch.masks]


@pytest.mark.parametrize(("broken_step", "kept"), [(5, 5), (2, 0)])
def test_a_training_that_breaks_stops_and_leaves_the_best_policy(
    policy, tokenizer, problems, monkeypatch, broken_step, kept
):
    """`keep: last` keeps the best, too, once the training has broken."""
    played = []
    genuine = PolicyTrainer.step

    def step(self, episodes):
        played.append({name: x.clone() for name, x in self.policy.state_dict().items()})
        stats = genuine(self, episodes)
        return stats | ({"ppo/loss/total": float("nan")} if len(played) == broken_step else {})

    monkeypatch.setattr(PolicyTrainer, "step", step)
    with pytest.raises(Unstable, match=f"step {broken_step}: ppo/loss/total not a finite") as stop:
        train(policy, tokenizer, problems, keep="last")
    assert len(played) == broken_step
    assert stop.value.best_step == kept
    if kept:
        assert all(
            torch.equal(x, played[kept - 1][name]) for name, x in policy.state_dict().items()
        )


def test_an_algorithm_that_is_not_there_is_named():
    with pytest.raises(PipelineError, match="no algorithm 'dpo'; there is grpo, ppo, rloo"):
        load_algorithm("dpo")


def test_a_training_does_not_depend_on_what_was_drawn_before(tokenizer, problems):
    """Neither torch's nor numpy's nor Python's generators have a part in it."""
    curves = []
    for _ in range(2):
        curves.append(train(CausalLMWithValueHead(make_model()), tokenizer, problems, steps=3))
        torch.rand(7)
    assert curves[0] == curves[1]


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_groups_stand_side_by_side(policy, tokenizer, problems, monkeypatch, name):
    """Two problems of the same text are two, and a step's problems are in as many episodes each."""
    twins = [problems[0], {**problems[0], "id": "7*6", "answer": "42"}, *problems[1:3]]
    asked = []
    genuine = TaskEnvironment.rollout_problems

    def rollout_problems(self, chosen, seed, step, numbers):
        asked.append([problem["id"] for problem in chosen])
        return genuine(self, chosen, seed, step, numbers)

    monkeypatch.setattr(TaskEnvironment, "rollout_problems", rollout_problems)
    config = load_algorithm(name).Config(mini_batch_size=4, num_generations=2)
    train(policy, tokenizer, twins, name, config, steps=3, episodes_per_step=8)
    for ids in asked:
        assert ids[::2] == ids[1::2]
        assert sorted(ids[::2]) == sorted(problem["id"] for problem in twins)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_algorithms_without_a_value_head_learn_and_leave_it_alone(
    tokenizer, problems, monkeypatch, name, kind
):
    policy = CausalLMWithValueHead(make_model(kind))
    before = {key: x.clone() for key, x in policy.state_dict().items()}
    monkeypatch.setattr(Arithmetic, "reward", lambda self, text, problem: float(len(text) % 2))
    config = load_algorithm(name).Config(mini_batch_size=4, num_generations=2, learning_rate=1e-3)
    curve = train(policy, tokenizer, problems, name, config, steps=3, episodes_per_step=8)
    assert curve[0]["objective/kl"] == pytest.approx(0, abs=1e-4)  # no dropout
    assert abs(curve[-1]["objective/kl"]) > 1e-3
    assert [s[f"{name}/mean_scores"] for s in curve] == [s["env/reward_mean"] for s in curve]
    moved = {key for key, x in policy.state_dict().items() if not torch.equal(x, before[key])}
    assert any(".mlp." in key for key in moved)
    assert not any("v_head" in key for key in moved)


def test_groups_are_whole(policy, tokenizer, problems):
    config = load_algorithm("grpo").Config(num_generations=3)
    with pytest.raises(
        PipelineError, match=r"episodes_per_step \(8\) must be a multiple of num_gen"
    ):
        train(policy, tokenizer, problems, "grpo", config, episodes_per_step=8)
