"""GRPO and RLOO: credit by hand, and GRPO's loss and gradient beside TRL's own."""

import os
import tempfile

import pytest
import torch
from datasets import Dataset

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # `rollout_func` is experimental there
from trl import GRPOConfig as TRLConfig
from trl import GRPOTrainer

from pipeline.algorithms.grpo import GRPO, GRPOConfig
from pipeline.algorithms.rloo import RLOO, RLOOConfig
from pipeline.environment import EpisodeBatch
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.scoring import TokenBatch
from pipeline.training.algorithm import ScoredBatch
from pipeline.training.trainer import PolicyTrainer, _Lesson
from tests.tiny import make_model, make_tokenizer, random_ids


def scored(rewards, kl=0.0, left=()):
    shape = (len(rewards), 3)
    return ScoredBatch(
        rewards=torch.tensor(rewards),
        truncated=torch.zeros(len(rewards)).bool(),
        mask=torch.ones(shape).bool(),
        kl=torch.full(shape, kl),
        values=torch.zeros(shape),
        end_values=torch.zeros(len(rewards)),
        left=left,
    )


def test_grpos_credit_by_hand():
    """Group means 1/2 and 1; deviations sqrt(1/2) and 0."""
    batch = scored([1.0, 0.0, 1.0, 1.0])
    credit = GRPO(GRPOConfig(num_generations=2)).credit(batch)
    assert credit.advantages.shape == (4, 3)
    assert credit.advantages[:, 0].tolist() == pytest.approx([2**-0.5, -(2**-0.5), 0, 0], abs=2e-4)
    assert credit.statistics == {"grpo/equal_groups": 0.5}
    plain = GRPO(GRPOConfig(num_generations=2, scale_rewards="none")).credit(batch)
    assert plain.advantages[:, 1].tolist() == [0.5, -0.5, 0, 0]
    whole = GRPO(GRPOConfig(num_generations=2, scale_rewards="batch")).credit(batch)
    assert whole.advantages[:, 2].tolist() == pytest.approx([1, -1, 0, 0], abs=1e-3)


def test_groups_that_have_lost_members_compare_those_that_are_left():
    """Of three groups of three, one has two left."""
    batch = scored([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0], left=(3, 2, 3))
    rloo = RLOO(RLOOConfig(num_generations=3, kl_coef=0.0)).credit(batch)
    assert rloo.advantages[:, 0].tolist() == [1.0, -0.5, -0.5, 1.0, -1.0, 0.0, 0.0, 0.0]
    grpo = GRPO(GRPOConfig(num_generations=3, scale_rewards="none")).credit(batch)
    thirds = [2 / 3, -1 / 3, -1 / 3, 1 / 2, -1 / 2, 0, 0, 0]
    assert grpo.advantages[:, 0].tolist() == pytest.approx(thirds)
    assert grpo.statistics == {"grpo/equal_groups": pytest.approx(1 / 3)}


def test_rloos_credit_by_hand():
    """Three of a problem: less the mean of the other two."""
    credit = RLOO(RLOOConfig(num_generations=3, kl_coef=0.0)).credit(
        scored([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    )
    assert credit.advantages[:, 0].tolist() == [1.0, -0.5, -0.5, 0.5, 0.5, -1.0]
    # What all pay alike, three tokens of .5 nats at .1 each, compares nothing, but is counted.
    taxed = RLOO(RLOOConfig(num_generations=3, kl_coef=0.1)).credit(scored([1.0, 0.0, 0.0], kl=0.5))
    assert taxed.advantages[:, 2].tolist() == pytest.approx([1.0, -0.5, -0.5])
    assert taxed.statistics["rloo/mean_penalty"] == pytest.approx(0.15)


def episodes() -> EpisodeBatch:
    """Four problems, two episodes each; calls of 3 tokens, tools' outputs, answers of 2 or 3."""
    prompt = random_ids(6, 0).tolist()
    sequences, masks = [], []
    for i, tool in enumerate((3, 0, 5, 1, 2, 2, 0, 4)):
        question = random_ids(2 + i // 4, 10 + i // 2).tolist()
        answer = 2 + i % 2
        sequences.append(prompt + question + random_ids(3 + tool + answer, 30 + i).tolist())
        masks.append([True] * 3 + [False] * tool + [True] * answer)
    return EpisodeBatch(
        sequences=sequences,
        prompt_lengths=[len(s) - len(m) for s, m in zip(sequences, masks)],
        masks=masks,
        rewards=[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.25, 0.0],
        truncated=[False] * 8,
        group_size=2,
    )


@torch.no_grad()
def plain_logprobs(model, inputs):
    """Of the completions in TRL's padded inputs, row by row."""
    logprobs = torch.zeros(inputs["completion_ids"].shape)
    for row, target in enumerate(logprobs):
        prompt, completion = (
            inputs[f"{part}_ids"][row][inputs[f"{part}_mask"][row].bool()]
            for part in ("prompt", "completion")
        )
        logits = model(torch.cat([prompt, completion])[None]).logits[0, :-1].log_softmax(-1)
        chosen = logits[-len(completion) :].gather(1, completion[:, None])[:, 0]
        target[inputs["completion_mask"][row].bool()] = chosen
    return logprobs


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(("scale", "beta"), [("group", 0.0), ("batch", 0.4), ("none", 0.4)])
def test_loss_and_gradient_are_trls(loss_type, scale, beta):
    """Minibatch by minibatch, over two epochs: from the second update on ratios differ from 1."""
    batch = episodes()
    model, reference = make_model(), make_model()
    torch.manual_seed(0)
    for parameter in reference.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    config = GRPOConfig(
        num_generations=2,
        mini_batch_size=4,
        epochs=2,
        loss_type=loss_type,
        scale_rewards=scale,
        beta=beta,
        learning_rate=3e-3,
    )
    ours = PolicyTrainer(GRPO(config), CausalLMWithValueHead(model), reference)
    tokens = TokenBatch.of(batch.sequences, batch.prompt_lengths)
    mask = tokens.place(batch.masks).bool()
    with torch.no_grad():
        old, referred = ours._score_in_parts(tokens, mask)
    credit = ours.algorithm.credit(scored(batch.rewards))
    advantages = credit.advantages[:, :1].expand(mask.shape)
    credit = type(credit)(advantages)
    compared = []

    def rollout(prompts, trainer):
        return {
            "prompt_ids": [list(s[:n]) for s, n in zip(batch.sequences, batch.prompt_lengths)],
            "completion_ids": [list(s[n:]) for s, n in zip(batch.sequences, batch.prompt_lengths)],
            "logprobs": None,
            "env_mask": [[int(m) for m in mask] for mask in batch.masks],
            "reward": list(batch.rewards),
        }

    class Beside(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            # TRL would load the reference by the name that the model's config has.
            self.beta = beta
            inputs["ref_per_token_logps"] = plain_logprobs(reference, inputs)
            theirs = super()._compute_loss(model, inputs)
            parameters = list(model.parameters())
            gradient = torch.autograd.grad(theirs, parameters, retain_graph=True)
            completions = [
                ids[kept.bool()].tolist()
                for ids, kept in zip(inputs["completion_ids"], inputs["completion_mask"])
            ]
            rows = [
                next(
                    i
                    for i, (s, n) in enumerate(zip(batch.sequences, batch.prompt_lengths))
                    if list(s[n:]) == completion
                )
                for completion in completions
            ]
            assert advantages[rows, 0].tolist() == pytest.approx(
                inputs["advantages"].tolist(), abs=1e-5
            )
            lesson = _Lesson(tokens, mask, old, referred, credit, float(mask.sum()) / 2)
            stats, mine = ours._loss(lesson, rows, rows)
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
            for one, other in zip(torch.autograd.grad(mine, parameters), gradient):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            compared.append(stats)
            return theirs

    with tempfile.TemporaryDirectory() as folder:
        trainer = Beside(
            model=model,
            args=TRLConfig(
                output_dir=folder,
                per_device_train_batch_size=4,
                generation_batch_size=8,
                num_generations=2,
                num_iterations=2,
                max_steps=4,
                epsilon=config.cliprange,
                loss_type=loss_type,
                scale_rewards=scale,
                learning_rate=3e-3,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            reward_funcs=lambda reward, **_: reward,
            train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(8)]),
            processing_class=make_tokenizer(),
            rollout_func=rollout,
        )
        trainer.train()
    assert len(compared) == 4
    assert compared[0]["grpo/policy/approxkl"] == pytest.approx(0, abs=1e-8)
    assert compared[-1]["grpo/policy/approxkl"] > 1e-4
    assert max(stats["grpo/policy/clipfrac"] for stats in compared) > 0
