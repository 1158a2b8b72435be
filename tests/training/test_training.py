import pytest
import torch
from trl import GRPOTrainer

from pipeline import training
from pipeline.algorithms import load_algorithm
from pipeline.algorithms.ppo import PPOTrainer
from pipeline.environment.environment import EnvironmentSettings
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.tasks import load_task
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.training.run import TrainSettings, learning_rate_factor
from pipeline.training.stability import Unstable
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
    prompt, _ = task.demonstrate(problems, tools, 0)
    training.train(
        policy,
        tokenizer,
        task,
        prompt,
        tools,
        problems,
        EnvironmentSettings(max_turns=2, max_new_tokens=5, max_tool_response=5),
        settings(**options),
        algorithm,
        config or algorithm.Config(),
        Machine(device="cpu", precision="float32"),
        seed=1,
        on_step=curve.append,
    )
    return curve


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
    stats = train(policy, tokenizer, problems)
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
    with pytest.raises(Unstable, match=f"step {broken_step}: ppo/loss/total not a finite") as stop:
        train(policy, tokenizer, problems, keep="last")
    assert len(played) == broken_step
    assert stop.value.best_step == kept
    if kept:
        assert all(
            torch.equal(x, played[kept - 1][name]) for name, x in policy.state_dict().items()
        )


def test_an_algorithm_that_is_not_there_is_named():
    with pytest.raises(PipelineError, match="no algorithm 'dpo'; there is grpo, ppo"):
        load_algorithm("dpo")


def test_grpo_trains_on_the_environments_episodes(policy, tokenizer, problems, monkeypatch):
    """TRL's trainer gets our tokens, masks and rewards, and the policy learns from them."""
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    losses = []
    genuine = GRPOTrainer._compute_loss

    def compute_loss(self, model, inputs):
        losses.append(inputs)
        # What it works with, prompts shared, is what TRL computes row by row.
        tokens, mask = (
            torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], dim=1)
            for kind in ("ids", "mask")
        )
        width = inputs["completion_ids"].shape[1]
        score = "_get_per_token_logps_and_entropies"
        arguments = (model, tokens, mask, width)
        ours = getattr(self, score)(*arguments, compute_entropy=True)
        theirs = getattr(GRPOTrainer, score)(self, *arguments, compute_entropy=True)
        written = inputs["completion_mask"].bool()
        for mine, other in zip(ours[:2], theirs[:2]):
            torch.testing.assert_close(mine[written], other[written], rtol=1e-4, atol=1e-5)
        return genuine(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", compute_loss)
    monkeypatch.setattr(Arithmetic, "reward", lambda self, text, problem: float(len(text) % 2))
    config = load_algorithm("grpo").Config(mini_batch_size=4, num_generations=2, learning_rate=1e-3)
    curve = train(policy, tokenizer, problems, "grpo", config, steps=3, episodes_per_step=8)
    assert [stats["episodes"] for stats in curve] == [8, 16, 24]
    assert curve[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert abs(curve[-1]["objective/kl"]) > 1e-3
    assert [stats["grpo/reward"] for stats in curve] == [
        stats["env/reward_mean"] for stats in curve
    ]
    assert [len(inputs["completion_ids"]) for inputs in losses] == [4] * 6
    for step in (losses[0:2], losses[2:4], losses[4:6]):
        groups = {}
        for inputs in step:
            # All of these episodes' tokens are the model's, and only those count.
            assert torch.equal(inputs["tool_mask"] * inputs["completion_mask"], inputs["tool_mask"])
            for prompt, advantage in zip(inputs["prompt_ids"].tolist(), inputs["advantages"]):
                groups.setdefault(tuple(prompt), []).append(advantage.item())
        # Two episodes of each problem, compared with each other.
        assert [len(group) for group in groups.values()] == [2] * 4
        assert all(abs(sum(group)) < 1e-4 for group in groups.values())
    moved = {name for name, x in policy.state_dict().items() if not torch.equal(x, before[name])}
    assert any(".mlp." in name for name in moved)
    assert not any("v_head" in name for name in moved)


def test_grpo_trains_without_dropout(tokenizer, problems):
    """With it the KL from the policy itself would be -1 where the training begins."""
    policy = CausalLMWithValueHead(make_model("gpt2"))
    config = load_algorithm("grpo").Config(mini_batch_size=4, num_generations=2)
    curve = train(policy, tokenizer, problems, "grpo", config, steps=3, episodes_per_step=8)
    assert curve[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


def test_grpo_needs_whole_groups(policy, tokenizer, problems):
    config = load_algorithm("grpo").Config(mini_batch_size=4, num_generations=3)
    with pytest.raises(PipelineError, match="must be a multiple of mini_batch_size"):
        train(policy, tokenizer, problems, "grpo", config, episodes_per_step=8)


def test_grpo_needs_as_many_problems_as_a_step_plays(policy, tokenizer, problems):
    config = load_algorithm("grpo").Config(mini_batch_size=4, num_generations=2)
    with pytest.raises(PipelineError, match=r"a step plays 4 problems, 2 times each; .* has 3"):
        train(policy, tokenizer, problems[:3], "grpo", config, episodes_per_step=8)


def test_grpos_reference_is_the_policy_at_the_start(policy, tokenizer, problems, monkeypatch):
    config = load_algorithm("grpo").Config(
        mini_batch_size=8, num_generations=2, learning_rate=1e-3, beta=1.0
    )
    monkeypatch.setattr(Arithmetic, "reward", lambda self, text, problem: float(len(text) % 2))
    curve = train(policy, tokenizer, problems, "grpo", config, episodes_per_step=8)
    assert curve[0]["grpo/kl"] == pytest.approx(0, abs=1e-6)
    assert curve[-1]["grpo/kl"] > 1e-4
