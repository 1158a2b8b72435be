import pytest
import torch

from pipeline import training
from pipeline.models import Machine
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.stability import Unstable
from pipeline.tasks import EnvironmentSettings, load_task
from pipeline.training import TrainSettings, learning_rate_factor


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


def train(policy, tokenizer, problems, **options):
    """Statistics of a training on arithmetic, step by step."""
    task = load_task("arithmetic")
    tools = task.tools(None, {})
    prompt, _ = task.demonstrate(problems, tools, 0)
    return training.train(
        policy,
        tokenizer,
        task,
        prompt,
        tools,
        problems,
        EnvironmentSettings(max_turns=2, max_new_tokens=5, max_tool_response=5),
        settings(**options),
        PPOConfig(),
        Machine(device="cpu", precision="float32"),
        seed=1,
    )


@pytest.fixture
def problems():
    task = load_task("arithmetic")
    return task.problems(task.Data(source="builtin", train=7, test=1, seed=0))["train"]


def test_the_trainer_gets_the_episodes_that_were_played(policy, tokenizer, problems, monkeypatch):
    calls = []
    genuine = PPOTrainer.step

    def step(self, *arguments):
        calls.append(arguments)
        return genuine(self, *arguments)

    monkeypatch.setattr(PPOTrainer, "step", step)
    task = load_task("arithmetic")
    stats = list(train(policy, tokenizer, problems))
    assert [s["episodes"] for s in stats] == [3, 6, 9, 12, 15, 18]
    assert [s["best_step"] for s in stats] == [0, 0, 3, 4, 5, 6]  # no reward is better than another
    # float32 on both sides: what is left is the order of additions.
    assert all(0 < s["objective/sampler_gap_max"] < 1e-4 for s in stats)
    prompt, _ = task.demonstrate(problems, task.tools(None, {}), 0)
    asked = [tokenizer.decode(query)[len(prompt) :] for call in calls for query in call[0]]
    # Every problem once before one comes again.
    assert set(asked[:7]) == {task.query(p) for p in problems}
    for _, responses, scores, masks, truncated, sampled_logprobs in calls:
        assert all(torch.equal(m, torch.ones_like(r)) for m, r in zip(masks, responses))
        assert scores == [0.0] * 3
        assert truncated == [len(response) == 5 for response in responses]
        assert [len(each) for each in sampled_logprobs] == [len(each) for each in responses]


@pytest.mark.parametrize(("broken_step", "kept"), [(5, 5), (2, 0)])
def test_a_training_that_breaks_stops_and_leaves_the_best_policy(
    policy, tokenizer, problems, monkeypatch, broken_step, kept
):
    """`keep: last` keeps the best, too, once the training has broken."""
    played = []
    genuine = PPOTrainer.step

    def step(self, *arguments):
        played.append({name: x.clone() for name, x in self.model.state_dict().items()})
        stats = genuine(self, *arguments)
        return stats | ({"ppo/loss/total": float("nan")} if len(played) == broken_step else {})

    monkeypatch.setattr(PPOTrainer, "step", step)
    steps = train(policy, tokenizer, problems, keep="last")
    with pytest.raises(Unstable, match=f"step {broken_step}: ppo/loss/total not a finite") as stop:
        list(steps)
    assert len(played) == broken_step
    assert stop.value.best_step == kept
    if kept:
        assert all(
            torch.equal(x, played[kept - 1][name]) for name, x in policy.state_dict().items()
        )
