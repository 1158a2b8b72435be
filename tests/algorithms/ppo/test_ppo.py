"""The trainer with PPO as its algorithm, on a tiny model."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from pipeline.algorithms.ppo import PPO, KLController, PPOConfig
from pipeline.environment import EpisodeBatch
from pipeline.models.scoring import TokenBatch
from pipeline.training import trainer as trainer_module
from pipeline.training.trainer import PolicyTrainer
from pipeline.trl import batch_of
from tests.tiny import make_model, random_ids

PROMPT = random_ids(10, 0)


def batch(tool_lengths=(3, 0, 6, 2)):
    """Episodes of a call of 4 tokens, a tool's answer, and an answer of 3; the first and third win."""
    queries, responses, masks = [], [], []
    for i, length in enumerate(tool_lengths):
        queries.append(torch.cat([PROMPT, random_ids(2, 10 + i)]))
        responses.append(random_ids(7 + length, 20 + i))
        masks.append(torch.tensor([1] * 4 + [0] * length + [1] * 3))
    return queries, responses, [float(i % 2 == 0) for i in range(len(tool_lengths))], masks


def trainer_of(config, policy, *arguments, **options):
    return PolicyTrainer(PPO(config), policy, *arguments, **options)


def step(policy, *arguments, config=None, **options):
    """The statistics of one step and how far each parameter moved."""
    before = copy.deepcopy(policy.state_dict())
    config = config or PPOConfig(learning_rate=1e-3, mini_batch_size=4)
    episodes = replace(batch_of(*arguments), **options)
    stats = trainer_of(config, policy).step(episodes)
    return stats, {name: x - before[name] for name, x in policy.state_dict().items()}


def test_statistics_have_trls_names(policy):
    stats, _ = step(policy, *batch())
    assert {
        "objective/kl",
        "objective/kl_coef",
        "objective/entropy",
        "ppo/mean_scores",
        "ppo/mean_non_score_reward",
        "ppo/loss/policy",
        "ppo/loss/value",
        "ppo/loss/total",
        "ppo/policy/clipfrac",
        "ppo/policy/approxkl",
        "ppo/policy/entropy",
        "ppo/returns/mean",
        "ppo/val/var_explained",
        "tokens/queries_len_mean",
    } <= stats.keys()
    assert stats["ppo/mean_scores"] == 0.5
    assert stats["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert stats["tokens/responses_len_mean"] == (10 + 7 + 13 + 9) / 4
    assert stats["tokens/model_len_mean"] == 7


def test_wins_become_likelier_and_losses_less(policy):
    *_, masks = batch()
    episodes = batch_of(*batch())
    trainer = trainer_of(PPOConfig(learning_rate=1e-3, init_kl_coef=0.0), policy)

    @torch.no_grad()
    def logprob_of_model_tokens():
        tokens = TokenBatch.of(episodes.sequences, episodes.prompt_lengths)
        scored, _ = trainer._score_in_parts(tokens, tokens.place(masks).bool())
        return scored.logprobs.sum(1)

    before = logprob_of_model_tokens()
    for _ in range(5):
        trainer.step(episodes)
    change = logprob_of_model_tokens() - before
    assert (change[[0, 2]].mean() > change[[1, 3]].mean()).item()


def shift_scores_on_tool_tokens(monkeypatch, shift):
    """Lets every score of a tool's token be off by `shift`, in scoring and in the update."""
    queries, _, _, masks = batch()
    genuine = trainer_module.score

    def score(model, part, *arguments, **options):
        scored = genuine(model, part, *arguments, **options)
        rows = [
            next(i for i, q in enumerate(queries) if sequence[: len(q)] == q.tolist())
            for sequence in part.sequences
        ]
        tool = part.place([1 - masks[row] for row in rows]).bool()
        values = scored.values.clone()
        values[:, :-1] += torch.where(tool, shift, 0.0)
        logprobs = scored.logprobs + torch.where(tool, shift, 0.0)
        return replace(scored, logprobs=logprobs, values=values)

    monkeypatch.setattr(trainer_module, "score", score)


@pytest.mark.parametrize("shift", [5.0, float("nan")])
def test_what_is_said_of_tool_tokens_changes_nothing(policy, monkeypatch, shift):
    expected_stats, expected_moves = step(copy.deepcopy(policy), *batch())
    shift_scores_on_tool_tokens(monkeypatch, shift)
    stats, moves = step(policy, *batch())
    assert stats == expected_stats
    for name in moves:
        assert torch.equal(moves[name], expected_moves[name])


def test_without_the_mask_tool_tokens_count(policy, monkeypatch):
    config = PPOConfig(learning_rate=1e-3, mini_batch_size=4, mask=False)
    expected, _ = step(copy.deepcopy(policy), *batch(), config=config)
    shift_scores_on_tool_tokens(monkeypatch, 0.5)
    stats, _ = step(policy, *batch(), config=config)
    assert stats["objective/logprobs"] != pytest.approx(expected["objective/logprobs"])


def test_an_episode_without_model_tokens_contributes_nothing(policy):
    queries, responses, scores, masks = batch()
    _, expected = step(copy.deepcopy(policy), queries, responses, scores, masks)
    queries.append(torch.cat([PROMPT, random_ids(2, 50)]))
    responses.append(random_ids(5, 51))
    masks.append(torch.zeros(5, dtype=torch.long))
    config = PPOConfig(learning_rate=1e-3, mini_batch_size=5)
    _, moves = step(policy, queries, responses, [*scores, 1.0], masks, config=config)
    for name in moves:
        torch.testing.assert_close(moves[name], expected[name], atol=2e-4, rtol=0.05)


@pytest.mark.parametrize("length", [0, 3])
def test_a_batch_without_model_tokens_moves_nothing(policy, length):
    trainer = trainer_of(PPOConfig(learning_rate=1e-3, value_head_learning_rate=1e-3), policy)
    trainer.step(batch_of(*batch()))  # gives the optimizer some momentum
    before = copy.deepcopy(policy.state_dict())
    episodes = batch_of(
        [PROMPT, PROMPT], [random_ids(length, 1)] * 2, [1.0, 0.0], [torch.zeros(length)] * 2
    )
    stats = trainer.step(replace(episodes, sampled_logprobs=[[], []]))
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    assert stats["ppo/skipped_minibatches"] == 1


def test_truncation_bootstraps_with_the_value_past_the_end(policy):
    queries, responses, _, masks = batch((3, 3))
    config = PPOConfig(init_kl_coef=0.0, lam=1.0, mini_batch_size=2, bootstrap_truncated=True)
    policy.v_head.weight.data.zero_()
    policy.v_head.bias.data.fill_(0.25)
    arguments = (queries, responses, [0.0, 0.0], masks)
    ended, _ = step(copy.deepcopy(policy), *arguments, config=config)
    cut, _ = step(copy.deepcopy(policy), *arguments, truncated=[True, True], config=config)
    config = config.model_copy(update={"bootstrap_truncated": False})
    plain, _ = step(policy, *arguments, truncated=[True, True], config=config)
    assert ended["ppo/returns/mean"] == pytest.approx(0.0, abs=1e-6)
    assert cut["ppo/returns/mean"] == pytest.approx(0.25)
    assert plain["ppo/returns/mean"] == pytest.approx(0.0, abs=1e-6)


def test_minibatches_with_a_wild_ratio_are_skipped(policy):
    config = PPOConfig(learning_rate=1e-3, mini_batch_size=2, ratio_threshold=0.5)
    stats, moves = step(policy, *batch(), config=config)
    assert stats["ppo/skipped_minibatches"] == 2
    assert all((move == 0).all() for move in moves.values())


@pytest.mark.parametrize("broken", [1, 2])
def test_a_minibatch_without_a_finite_gradient_is_skipped(policy, broken):
    """If that is all of them, the statistics say so, and the training is stopped."""
    trainer = trainer_of(PPOConfig(learning_rate=1e-3, mini_batch_size=2), policy)
    left = iter([float("nan")] * broken + [1.0] * 2)
    policy.v_head.bias.register_hook(lambda gradient: gradient * next(left))
    stats = trainer.step(batch_of(*batch()))
    assert stats["ppo/skipped_minibatches"] == broken
    assert math.isfinite(stats["ppo/grad_norm"]) == (broken == 1)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


def test_epochs_end_early_beyond_the_target_kl(policy):
    def count(target):
        config = PPOConfig(learning_rate=3e-2, mini_batch_size=4, epochs=6, target_kl_update=target)
        trainer = trainer_of(config, copy.deepcopy(policy))
        updates = []
        trainer.optimizer.register_step_post_hook(lambda *_: updates.append(1))
        trainer.step(batch_of(*batch()))
        return len(updates)

    assert count(1e6) == 6
    assert count(1e-6) < 6


def test_lengths_that_do_not_fit_are_named():
    good = batch_of(*batch())
    with pytest.raises(ValueError, match="4 sequences, 4 prompt_lengths, 4 masks, 3 rewards"):
        replace(good, rewards=[1.0] * 3)
    with pytest.raises(ValueError, match="episode 0: the mask has 2 entries for 10 tokens"):
        replace(good, masks=[[True] * 2, *good.masks[1:]])
    with pytest.raises(ValueError, match="1 truncated"):
        replace(good, truncated=[True])
    with pytest.raises(ValueError, match="episode 1: 1 sampled log-probabilities for 7 tokens"):
        replace(good, sampled_logprobs=[[0.0] * n for n in (7, 1, 7, 7)])
    with pytest.raises(ValueError, match="episode 2: a prompt has at least one token"):
        replace(good, prompt_lengths=[12, 12, 0, 12])
    with pytest.raises(ValueError, match="4 episodes are no whole groups of 3"):
        replace(good, group_size=3)
    with pytest.raises(ValueError, match="at least one episode"):
        EpisodeBatch([], [], [], [], [])
    queries, responses, scores, masks = batch()
    with pytest.raises(ValueError, match="4, 4, 3, 4"):
        batch_of(queries, responses, scores[:-1], masks)


def test_the_reference_stays_what_the_policy_was(policy):
    trainer = trainer_of(PPOConfig(learning_rate=1e-2), policy)
    first = trainer.step(batch_of(*batch()))
    second = trainer.step(batch_of(*batch()))
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(second["objective/kl"]) > 1e-3
    assert first["objective/ref_logprobs"] == pytest.approx(second["objective/ref_logprobs"])


def test_adaptive_kl_by_hand():
    config = PPOConfig(init_kl_coef=0.1, adap_kl_ctrl=True, target_kl_episode=6.0, horizon=100.0)
    controller = KLController(config)
    controller.update(6.6, episodes=10)  # 10% above the target: error .1
    assert controller.value == pytest.approx(0.1 * (1 + 0.1 * 10 / 100))
    controller.update(60.0, episodes=10)  # clipped at .2
    assert controller.value == pytest.approx(0.101 * (1 + 0.2 * 10 / 100))
    fixed = KLController(PPOConfig(init_kl_coef=0.1))
    fixed.update(60.0, episodes=10)
    assert fixed.value == 0.1


def test_without_a_baseline_only_rewarded_episodes_teach(policy):
    """And the value head, which predicts nothing then, learns nothing."""
    config = PPOConfig(
        learning_rate=1e-3, mini_batch_size=4, baseline="none", init_kl_coef=0.0, lam=1.0
    )
    queries, responses, scores, masks = batch()
    stats, moves = step(copy.deepcopy(policy), queries, responses, scores, masks, config=config)
    assert stats["ppo/policy/advantages_mean"] == pytest.approx(0.5)  # rewards 1, 0, 1, 0
    assert stats["ppo/val/mean"] == 0
    assert moves["v_head.weight"].abs().max() == moves["v_head.bias"].abs().max() == 0
    # Episodes without reward only fill the mean: other tokens in them change nothing.
    for i, score in enumerate(scores):
        if not score:
            responses[i] = random_ids(len(responses[i]), 99 + i)
    _, other_moves = step(copy.deepcopy(policy), queries, responses, scores, masks, config=config)
    for name, move in moves.items():
        torch.testing.assert_close(move, other_moves[name], rtol=1e-3, atol=1e-6)
    _, with_baseline = step(
        policy,
        queries,
        responses,
        scores,
        masks,
        config=config.model_copy(update={"baseline": "value"}),
    )
    assert with_baseline["v_head.bias"].abs().item() > 0


def test_entropy_bonus_raises_entropy(policy):
    def entropy_after(coefficient):
        config = PPOConfig(
            learning_rate=1e-3, entropy_coef=coefficient, mini_batch_size=4, init_kl_coef=0.0
        )
        trainer = trainer_of(config, copy.deepcopy(policy))
        for _ in range(3):
            stats = trainer.step(batch_of(*batch()))
        return stats["ppo/policy/entropy"]

    assert entropy_after(1.0) > entropy_after(0.0) + 0.01


def by_hand(policy, reference, config, temperature, cut):
    """Rewards, advantages and returns of `batch()`, whole sequences and plain loops."""
    queries, responses, scores, masks = batch()
    advantages, returns, kls = [], [], []
    for query, response, win, mask, is_cut in zip(queries, responses, scores, masks, cut):
        sequence = torch.cat([query, response])[None]
        chosen = {}
        for name, model in (("policy", policy.pretrained_model), ("reference", reference)):
            output = model(sequence, output_hidden_states=True)
            logprobs = (output.logits[0, :-1] / temperature).log_softmax(-1)
            chosen[name] = logprobs.gather(1, sequence[0, 1:, None])[:, 0]
            if name == "policy":
                values = policy.v_head(output.hidden_states[-1])[0, :, 0]
        first = len(query)
        own = [first + t for t, m in enumerate(mask) if m]  # where the model's tokens stand
        kl = [float(chosen["policy"][t - 1] - chosen["reference"][t - 1]) for t in own]
        rewards = [-config.init_kl_coef * k for k in kl]
        rewards[-1] += win
        v = [float(values[t - 1]) for t in own]
        following = [*v[1:], float(values[-1]) if is_cut else 0.0]
        advantage, mine = 0.0, []
        for i in reversed(range(len(own))):
            delta = rewards[i] + config.gamma * following[i] - v[i]
            advantage = delta + config.gamma * config.lam * advantage
            mine.insert(0, advantage)
        advantages += mine
        returns += [a + b for a, b in zip(mine, v)]
        kls.append(sum(kl))
    return advantages, returns, kls


@pytest.mark.parametrize("bootstrap", [True, False])
def test_rewards_advantages_and_returns_by_hand(policy, bootstrap):
    reference = make_model(seed=5)
    config = PPOConfig(
        gamma=0.9, lam=0.7, init_kl_coef=0.3, mini_batch_size=3, bootstrap_truncated=bootstrap
    )
    cut = [True, False, False, True]
    with torch.no_grad():
        advantages, returns, kls = by_hand(
            policy, reference, config, 0.8, cut if bootstrap else [False] * 4
        )
    trainer = trainer_of(config, policy, reference, temperature=0.8)
    stats = trainer.step(replace(batch_of(*batch()), truncated=cut))
    mean = sum(returns) / len(returns)
    assert stats["objective/kl"] == pytest.approx(sum(kls) / 4, rel=1e-4)
    assert stats["ppo/policy/advantages_mean"] == pytest.approx(
        sum(advantages) / len(advantages), rel=1e-3, abs=1e-4
    )
    assert stats["ppo/returns/mean"] == pytest.approx(mean, rel=1e-3, abs=1e-4)
    assert stats["ppo/returns/var"] == pytest.approx(
        sum((r - mean) ** 2 for r in returns) / (len(returns) - 1), rel=1e-3
    )
    assert stats["ppo/mean_non_score_reward"] == pytest.approx(-0.3 * sum(kls) / 28, rel=1e-3)


def test_walking_is_another_estimator(policy):
    config = PPOConfig(mini_batch_size=4)
    skip, _ = step(copy.deepcopy(policy), *batch(), config=config)
    walk, _ = step(policy, *batch(), config=config.model_copy(update={"gae": "walk"}))
    assert walk["ppo/returns/mean"] != pytest.approx(skip["ppo/returns/mean"], rel=1e-2)


def test_schedule_and_kl_controller_move_once_a_step(policy):
    config = PPOConfig(adap_kl_ctrl=True, init_kl_coef=0.05, horizon=100.0)
    trainer = trainer_of(config, policy)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda i: 0.5**i)
    stats = [trainer.step(batch_of(*batch())) for _ in range(2)]
    assert [s["ppo/learning_rate"] for s in stats] == [2e-5, 1e-5]
    # KL is about 0, far below the target: the error is clipped at -.2.
    assert stats[1]["objective/kl_coef"] == pytest.approx(0.05 * (1 - 0.2 * 4 / 100))


def test_gradients_are_clipped(policy):
    config = PPOConfig(max_grad_norm=1e-3, mini_batch_size=4)
    trainer = trainer_of(config, policy)
    norms = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: norms.append(sum(float((p.grad**2).sum()) for p in policy.parameters()) ** 0.5)
    )
    stats = trainer.step(batch_of(*batch()))
    assert stats["ppo/grad_norm"] > 1e-3
    assert norms == [pytest.approx(1e-3, rel=1e-2)]


def test_a_step_depends_on_its_number_not_on_the_steps_before(policy):
    """A trainer that goes on from the second step does what one does that did the first."""
    config = PPOConfig(learning_rate=1e-3, mini_batch_size=1, epochs=2)
    reference = copy.deepcopy(policy.pretrained_model)
    first = trainer_of(config, policy, reference, seed=5)
    first.step(batch_of(*batch()))
    later = trainer_of(config, copy.deepcopy(policy), reference, seed=5)
    later.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    later.steps = 1
    other = trainer_of(config, copy.deepcopy(policy), reference, seed=5)
    other.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    stats = first.step(batch_of(*batch()))
    assert later.step(batch_of(*batch())) == stats
    assert other.step(batch_of(*batch())) != stats  # the minibatches of step 0
    for name, x in first.policy.state_dict().items():
        assert torch.equal(x, later.policy.state_dict()[name])
