import pytest
import torch

from pipeline import training
from pipeline.models import Machine
from pipeline.ppo import PPOConfig, PPOTrainer
from pipeline.tasks import EnvironmentSettings, load_task
from pipeline.training import BestPolicy, TrainSettings, learning_rate_factor


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


def play(model, steps):
    """Rewards of steps one after the other, by policies whose bias is the step's number."""
    best = BestPolicy(model)
    for step, rewards in enumerate(steps, 1):
        model.bias.data.fill_(step)
        best.played(step, rewards)
    model.bias.data.fill_(99)
    return best


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([0.1, 0.2, 0.3, 0.4], 4),
        ([0.5, 0.9, 0.8, 0.6, 0.1], 4),  # means from step 3 on: .733, .767, .5
        (
            [1.0, 0.0, 0.0, 0.4, 0.4],
            3,
        ),  # a lucky step alone is not enough to last: .333, .133, .267
        ([0.5, 0.5, 0.5, 0.5], 4),  # of equals the last
        ([0.9, 0.1], 99),  # too few steps to tell: the last policy stays
    ],
)
def test_the_best_policy_is_the_one_that_played_when_three_steps_did_best(rewards, kept):
    model = torch.nn.Linear(1, 1)
    best = play(model, [[reward, reward] for reward in rewards])
    best.restore()
    assert model.bias.item() == kept
    assert best.step == (kept if kept < 99 else 0)


def test_the_trainer_gets_the_episodes_that_were_played(policy, tokenizer, monkeypatch):
    calls = []
    genuine = PPOTrainer.step

    def step(self, *arguments):
        calls.append(arguments)
        return genuine(self, *arguments)

    monkeypatch.setattr(PPOTrainer, "step", step)
    task = load_task("arithmetic")
    problems = task.problems(task.Data(source="builtin", train=7, test=1, seed=0))["train"]
    environment = EnvironmentSettings(max_turns=2, max_new_tokens=5, max_tool_response=5)
    machine = Machine(device="cpu", precision="float32")
    tools = task.tools(None, {})
    prompt, _ = task.demonstrate(problems, tools, 0)
    stats = list(
        training.train(
            policy,
            tokenizer,
            task,
            prompt,
            tools,
            problems,
            environment,
            settings(),
            PPOConfig(),
            machine,
            seed=1,
        )
    )
    assert [s["episodes"] for s in stats] == [3, 6, 9, 12, 15, 18]
    assert [s["best_step"] for s in stats] == [0, 0, 3, 4, 5, 6]  # no reward is better than another
    asked = [tokenizer.decode(query)[len(prompt) :] for call in calls for query in call[0]]
    # Every problem once before one comes again.
    assert set(asked[:7]) == {task.query(p) for p in problems}
    for _, responses, scores, masks, truncated in calls:
        assert all(torch.equal(m, torch.ones_like(r)) for m, r in zip(masks, responses))
        assert scores == [0.0] * 3
        assert truncated == [len(response) == 5 for response in responses]
