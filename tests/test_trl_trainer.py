"""TRL 0.11's PPO trainer: its parameters, statistics and methods."""

import copy
import types
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import HfArgumentParser

from pipeline.errors import PipelineError
from pipeline.models.scoring import TokenBatch, score
from pipeline.trl import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    models,
)
from pipeline.trl.algorithm import RunningMoments, ScoreScaling, kl_penalty
from tests.tiny import make_model, random_ids

pytestmark = pytest.mark.filterwarnings("ignore:No dataset is provided")

STATISTICS = [
    "objective/kl",
    "objective/kl_dist",
    "objective/kl_coef",
    "objective/entropy",
    "objective/logprobs",
    "objective/ref_logprobs",
    "ppo/mean_non_score_reward",
    "ppo/mean_scores",
    "ppo/std_scores",
    "ppo/learning_rate",
    "ppo/loss/policy",
    "ppo/loss/value",
    "ppo/loss/total",
    "ppo/policy/entropy",
    "ppo/policy/approxkl",
    "ppo/policy/policykl",
    "ppo/policy/clipfrac",
    "ppo/policy/advantages",
    "ppo/policy/advantages_mean",
    "ppo/policy/ratio",
    "ppo/returns/mean",
    "ppo/returns/var",
    "ppo/val/vpred",
    "ppo/val/error",
    "ppo/val/clipfrac",
    "ppo/val/mean",
    "ppo/val/var",
    "ppo/val/var_explained",
    "tokens/queries_len_mean",
    "tokens/queries_len_std",
    "tokens/queries_dist",
    "tokens/responses_len_mean",
    "tokens/responses_len_std",
    "tokens/responses_dist",
    "time/ppo/forward_pass",
    "time/ppo/compute_rewards",
    "time/ppo/compute_advantages",
    "time/ppo/optimize_step",
    "time/ppo/calc_stats",
    "time/ppo/total",
]


def make_policy(seed=0, kind="llama"):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(make_model(kind, seed))
    torch.nn.init.normal_(policy.v_head.weight, generator=torch.Generator().manual_seed(1))
    return policy


def config(**options):
    return PPOConfig(**{"batch_size": 4, "mini_batch_size": 2, "ppo_epochs": 1, **options})


def make_trainer(policy=None, reference=None, **options):
    return PPOTrainer(config(**options), policy or make_policy(), reference)


def episodes(count=4):
    queries = [random_ids(3 + i, seed=i) for i in range(count)]
    responses = [random_ids(6 - i, seed=10 + i) for i in range(count)]
    return queries, responses, [torch.tensor(float(i % 2)) for i in range(count)]


# --- a step -----------------------------------------------------------------------------------------


def test_a_step_has_trls_statistics():
    trainer = make_trainer(reference=make_policy(1))
    stats = trainer.step(*episodes())
    assert set(STATISTICS) - stats.keys() == set()
    assert stats["objective/kl_dist"].shape == (4,)
    assert stats["objective/kl_dist"].mean() == pytest.approx(stats["objective/kl"])
    assert stats["ppo/policy/advantages"].shape == (6 + 5 + 4 + 3,)
    assert stats["tokens/responses_dist"].tolist() == [6, 5, 4, 3]
    arrays = {name for name, x in stats.items() if isinstance(x, np.ndarray)}
    assert all(name.endswith("_dist") or name == "ppo/policy/advantages" for name in arrays)
    parts = [x for name, x in stats.items() if name.startswith("time/") and "total" not in name]
    assert sum(parts) == pytest.approx(stats["time/ppo/total"], rel=0.05)


def test_masked_tokens_count_nowhere():
    queries, responses, scores = episodes()
    masks = [torch.ones_like(response) for response in responses]
    masks[0][:4] = 0
    stats = make_trainer(reference=make_policy(1)).step(queries, responses, scores, masks)
    assert stats["ppo/policy/advantages"].shape == (2 + 5 + 4 + 3,)


def test_each_weight_gets_a_gradient_and_the_reference_none():
    trainer = make_trainer()
    trainer.optimizer.zero_grad = partial(trainer.optimizer.zero_grad, set_to_none=False)
    before = copy.deepcopy(trainer.ref_model.state_dict())
    trainer.step(*episodes())
    assert all(p.grad is not None for p in trainer.model.parameters())
    assert all(p.grad is None for p in trainer.ref_model.parameters())
    after = trainer.ref_model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@pytest.mark.parametrize(
    ("scores", "wrong"),
    [
        ([torch.ones(1, 1)] * 4, "a score is a number for each episode"),
        ([torch.ones(2)] * 4, "a score is a number for each episode"),
        ([1.0] * 3, "step takes config.batch_size episodes, 4; got 3 scores"),
        (1.0, "scores must be a list"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, wrong):
    queries, responses, _ = episodes()
    with pytest.raises(ValueError, match=wrong):
        make_trainer().step(queries, responses, scores)


def test_scores_may_be_of_one_element():
    queries, responses, scores = episodes()
    ones = [score.reshape(1) for score in scores]
    stats = make_trainer().step(queries, responses, ones)
    assert stats["ppo/mean_scores"] == 0.5
    checked = make_trainer()._step_safety_checker(4, queries, responses, ones)
    assert [len(x) for x in checked[:3]] == [4, 4, 4]
    assert checked[2][1].shape == ()


def test_the_configuration_is_read_in_each_step():
    trainer = make_trainer()
    trainer.step(*episodes())
    trainer.config.batch_size = 2
    trainer.config.vf_coef = 0.0
    stats = trainer.step(*(x[:2] for x in episodes()))
    assert stats["ppo/loss/total"] == pytest.approx(stats["ppo/loss/policy"])
    assert trainer.current_step == 2


# --- what an update learns from ---------------------------------------------------------------------


def test_accumulated_minibatches_are_one_update():
    """Also where the parts have different numbers of tokens."""
    weights = []
    for options in (
        {"mini_batch_size": 4},
        {"mini_batch_size": 1, "gradient_accumulation_steps": 4},
    ):
        trainer = make_trainer(**options, learning_rate=0.01)
        trainer.step(*episodes())
        weights.append(trainer.model.state_dict())
    for name, x in weights[0].items():
        assert torch.allclose(x, weights[1][name], atol=1e-6), name
    small = make_trainer(mini_batch_size=1, learning_rate=0.01)
    small.step(*episodes())
    head = "v_head.summary.weight"
    assert not torch.allclose(small.model.state_dict()[head], weights[0][head], atol=1e-4)


def test_memory_is_what_a_minibatch_needs(monkeypatch):
    policy, parts, checkpointed = make_policy(), [], []
    trainer = make_trainer(policy, mini_batch_size=1, gradient_accumulation_steps=4)
    score_part = trainer._trainer._score

    def watched(model, batch, rows, mask):
        if torch.is_grad_enabled():
            parts.append(len(rows))
            checkpointed.append(trainer._trainer.gradient_checkpointing)
        return score_part(model, batch, rows, mask)

    monkeypatch.setattr(trainer._trainer, "_score", watched)
    trainer.step(*episodes())
    policy.gradient_checkpointing_enable()
    trainer.step(*episodes())
    policy.gradient_checkpointing_disable()
    trainer.step(*episodes())
    assert max(parts) < 4
    assert (set(checkpointed[:2]), checkpointed[-1]) == ({False}, False)
    assert True in checkpointed


def test_a_batch_is_whole_updates():
    with pytest.raises(ValueError, match=r"batch_size 4: it must be a multiple of .* which is 8"):
        config(mini_batch_size=2, gradient_accumulation_steps=4)
    assert config(forward_batch_size=1).mini_batch_size == 1


def test_a_given_optimizer_and_schedule_are_used():
    policy = make_policy()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
    trainer = PPOTrainer(config(), policy, optimizer=optimizer, lr_scheduler=schedule)
    rates = [trainer.step(*episodes())["ppo/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([0.5, 0.05, 0.005])
    assert trainer.optimizer.optimizer is optimizer
    assert trainer.lr_scheduler.scheduler is schedule


def test_gradients_are_clipped():
    clipped = make_trainer(max_grad_norm=1e-5)
    clipped.optimizer.zero_grad = partial(clipped.optimizer.zero_grad, set_to_none=False)
    clipped.step(*episodes())
    assert all(p.grad.abs().max() <= 1e-5 for p in clipped.model.parameters())


def test_shared_layers_are_not_trained():
    trainer = PPOTrainer(config(), make_policy(kind="gpt2"), num_shared_layers=1)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.step(*episodes())
    moved = {n for n, x in trainer.model.state_dict().items() if not torch.equal(x, before[n])}
    assert moved
    assert not any(".wte." in name or ".h.0." in name for name in moved)
    assert any(".h.1." in name for name in moved)
    with pytest.raises(ValueError, match="num_shared_layers 9: the model has no such layer"):
        create_reference_model(make_policy(), 9)


# --- rewards ----------------------------------------------------------------------------------------


def test_kinds_of_kl_penalties():
    own, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    assert kl_penalty("kl", own, reference).tolist() == [[0.5, -1.0]]
    assert kl_penalty("abs", own, reference).tolist() == [[0.5, 1.0]]
    assert kl_penalty("mse", own, reference).tolist() == [[0.125, 0.5]]
    p, q = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    expected = float((p * (p / q).log()).sum())
    assert kl_penalty("full", p.log(), q.log()).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="kl_penalty 'k3'"):
        config(kl_penalty="k3")


@pytest.mark.parametrize("kind", ["kl", "abs", "mse", "full"])
def test_the_penalty_is_what_the_policy_pays(kind):
    policy, reference = make_policy(), make_policy(1)
    queries, responses, scores = episodes()
    with torch.no_grad():
        expected = []
        for query, response in zip(queries, responses):
            tokens = torch.cat([query, response])
            own, other = (
                torch.log_softmax(m(tokens[None])[0][0, len(query) - 1 : -1], -1)
                for m in (policy, reference)
            )
            if kind != "full":
                own, other = (x.gather(1, response[:, None])[:, 0] for x in (own, other))
            expected.append(float(kl_penalty(kind, own, other).sum()))
    trainer = make_trainer(policy, reference, kl_penalty=kind, init_kl_coef=0.5)
    stats = trainer.step(queries, responses, scores)
    assert stats["objective/kl_dist"] == pytest.approx(expected, rel=1e-3)
    assert stats["ppo/mean_non_score_reward"] == pytest.approx(-0.5 * sum(expected) / 18, rel=1e-3)
    error = min(0.2, max(-0.2, np.mean(expected) / 6 - 1))
    assert trainer.kl_ctl.value == pytest.approx(0.5 * (1 + error * 4 / 10000))


def test_scores_are_scaled_by_all_so_far_and_clipped():
    numbers = [3.0, -1.0, 4.0, 1.0, 5.0]
    moments = RunningMoments()
    moments.update(numbers[:2])
    moments.update(numbers[2:])
    assert moments.mean == pytest.approx(np.mean(numbers))
    assert moments.std == pytest.approx(np.std(numbers, ddof=1))
    scaling, settings = ScoreScaling(), config(use_score_scaling=True)
    assert scaling.rewards([1.0, 3.0], settings) == pytest.approx([1 / 2**0.5, 3 / 2**0.5])
    settings = config(use_score_scaling=True, use_score_norm=True, score_clip=0.5)
    assert scaling.rewards([2.0, 9.0], settings)[1] == 0.5
    assert ScoreScaling().rewards([7.0, -7.0], config(score_clip=2)) == [2, -2]
    assert ScoreScaling().rewards([7.0], config()) == [7.0]


def test_clipped_scores_are_what_the_policy_learns_from():
    queries, responses, _ = episodes()
    stats = make_trainer(score_clip=1.0).step(queries, responses, [9.0, -9.0, 9.0, 9.0])
    assert stats["ppo/mean_scores"] == 0.5


def test_whitened_rewards_have_variance_one():
    plain, whitened = (
        make_trainer(reference=make_policy(1), whiten_rewards=on).step(*episodes())
        for on in (False, True)
    )
    assert whitened["ppo/returns/var"] != pytest.approx(plain["ppo/returns/var"], rel=0.01)
    trainer = make_trainer(whiten_rewards=True, gamma=0.0)
    torch.nn.init.zeros_(trainer.model.v_head.weight)  # then returns are the rewards
    stats = trainer.step(*episodes())
    assert stats["ppo/returns/var"] == pytest.approx(1, rel=1e-3)
    assert stats["ppo/returns/mean"] == pytest.approx(2 / 18, rel=1e-3)


# --- adapters ---------------------------------------------------------------------------------------

LORA = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("how", ["peft_config", "get_peft_model"])
def test_only_an_adapter_and_the_value_head_are_trained(how):
    lora = LoraConfig(**LORA, lora_dropout=0.3)
    if how == "peft_config":
        policy = AutoModelForCausalLMWithValueHead.from_pretrained(make_model(), peft_config=lora)
    else:
        wrapped = get_peft_model(make_model(), lora)
        policy = AutoModelForCausalLMWithValueHead.from_pretrained(wrapped)
    trainer = PPOTrainer(config(learning_rate=0.01), policy)
    assert trainer.ref_model is None
    before = copy.deepcopy(policy.state_dict())
    assert trainer.step(*episodes())["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(trainer.step(*episodes())["objective/kl"]) > 1e-3
    moved = {n for n, x in policy.state_dict().items() if not torch.equal(x, before[n])}
    assert any("lora_A" in name for name in moved)
    assert "v_head.summary.weight" in moved
    assert all("lora_" in name or "v_head" in name for name in moved)


def test_full_kl_of_an_adapter_is_from_the_model_without_it():
    lora = LoraConfig(
        **LORA, init_lora_weights=False
    )  # random: the policy is another than the base
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(make_model(), peft_config=lora)
    base = AutoModelForCausalLMWithValueHead.from_pretrained(make_model())
    expected = make_trainer(copy.deepcopy(policy), base, kl_penalty="full").step(*episodes())
    stats = make_trainer(policy, kl_penalty="full").step(*episodes())
    assert stats["objective/kl"] > 1e-3
    assert stats["objective/kl_dist"] == pytest.approx(expected["objective/kl_dist"], rel=1e-3)


# --- what else the trainer does ---------------------------------------------------------------------


def test_generate_does_not_depend_on_the_batch(tokenizer):
    trainer = PPOTrainer(config(), make_policy(), make_policy(1), tokenizer)
    options = {"do_sample": False, "max_new_tokens": 4, "top_k": 0.0, "min_length": -1}
    queries = [random_ids(length, seed=length) for length in (3, 7, 5)]
    together, others = trainer.generate(
        queries, batch_size=2, generate_ref_response=True, **options
    )
    for query, own, other in zip(queries, together, others):
        alone, reference = trainer.generate(query, generate_ref_response=True, **options)
        assert alone.shape == (1, len(query) + 4)
        assert alone[0].tolist() == own.tolist()
        assert reference[0].tolist() == other.tolist()
        without = trainer.generate(query, return_prompt=False, **options)
        assert without[0].tolist() == own[len(query) :].tolist()
    assert [x.tolist() for x in together] != [x.tolist() for x in others]
    drawn = trainer.generate(queries, length_sampler=lambda: 2, do_sample=False)
    assert [len(x) for x in drawn] == [5, 9, 7]
    with pytest.raises(ValueError, match=r"has the shape \(1, 3\)"):
        trainer.generate(queries[0][None], **options)


def test_generate_ends_a_response_at_the_end_of_text(tokenizer, monkeypatch):
    trainer = PPOTrainer(config(), make_policy(), None, tokenizer)
    end = tokenizer.eos_token_id
    query = torch.tensor([end, 5])  # the query's own does not count
    written = torch.tensor([[end, 5, 8, end, 9]])
    monkeypatch.setattr(trainer.model.pretrained_model, "generate", lambda **_: written)
    assert trainer.generate([query])[0].tolist() == [end, 5, 8, end]
    assert trainer.generate([query], eos_token_id=-1)[0].tolist() == [end, 5, 8, end, 9]


def test_a_pass_says_the_same_of_any_batch():
    policy = make_policy()
    trainer = make_trainer(policy)
    queries, responses, _ = episodes(2)
    inputs = trainer.prepare_model_inputs(queries, responses)
    assert inputs["attention_mask"].sum(1).tolist() == [9, 9]
    logprobs, logits, values, mask = trainer.batched_forward_pass(
        policy, queries, responses, inputs
    )
    assert logits is None
    assert mask.sum(1).tolist() == [6, 5]
    tokens = torch.cat([queries[0], responses[0]])
    with torch.no_grad():
        plain, _, plain_values = policy(tokens[None])
    expected = torch.log_softmax(plain[0, :-1], -1).gather(1, tokens[1:, None])[:, 0]
    assert torch.allclose(logprobs[0, :8], expected, atol=1e-4)
    assert torch.allclose(values[0, :8], plain_values[0, :-1], atol=1e-4)
    assert torch.allclose(
        score(policy, TokenBatch([tokens.tolist()], 0)).logprobs[0], expected, atol=1e-4
    )


def test_a_saved_state_goes_on(tmp_path):
    trainer = make_trainer(learning_rate=0.01)
    trainer.step(*episodes())
    trainer.accelerator.save_state(str(tmp_path))
    saved = copy.deepcopy(trainer.model.state_dict())
    moments = copy.deepcopy(trainer.optimizer.state_dict())
    trainer.step(*episodes())
    assert not torch.equal(trainer.model.v_head.weight, saved["v_head.summary.weight"])
    trainer.accelerator.load_state(str(tmp_path))
    assert all(torch.equal(x, saved[name]) for name, x in trainer.model.state_dict().items())
    assert torch.equal(
        trainer.optimizer.state_dict()["state"][0]["exp_avg"], moments["state"][0]["exp_avg"]
    )


class Tracker(types.SimpleNamespace):
    def log_table(self, name, columns, data, step):
        self.table = (name, columns, data, step)


def test_texts_go_to_wandb(monkeypatch):
    trainer, logged, wandb = make_trainer(), [], Tracker(name="wandb")
    monkeypatch.setattr(trainer.accelerator, "log", lambda values, step: logged.append(values))
    trainer.accelerator.trackers = [wandb]
    texts = {"query": ["q", "p"], "response": ["r", "s"]}
    trainer.log_stats({"a": 1.0}, texts, [torch.tensor(1.0), 0.0], ["query", "response", "answer"])
    assert wandb.table == (
        "game_log",
        ["query", "response", "reward"],
        [["q", "r", 1.0], ["p", "s", 0.0]],
        0,
    )
    assert logged[0]["env/reward_dist"].tolist() == [1, 0]


def test_the_best_policy_goes_to_the_hub(monkeypatch, tmp_path, tokenizer):
    sent = []

    class Hub:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo, private, exist_ok):
            sent.append((repo, private, self.token))

        def upload_folder(self, repo_id, folder_path, commit_message):
            again = AutoModelForCausalLMWithValueHead.from_pretrained(folder_path)
            sent.append(again.v_head.weight.shape)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    options = config(push_to_hub_if_best_kwargs={"repo_id": "me/best", "private": True})
    trainer = PPOTrainer(options, make_policy(), tokenizer=tokenizer)
    queries, responses, _ = episodes()
    for scores in ([1.0] * 4, [0.5] * 4, [2.0] * 4):
        trainer.step(queries, responses, scores)
    assert [x for x in sent if len(x) == 3] == [("me/best", True, None)] * 2
    with pytest.raises(ValueError, match="a repo_id is missing"):
        make_trainer(push_to_hub_if_best_kwargs={"private": True})


# --- what is told, or refused -----------------------------------------------------------------------


def test_it_says_what_is_not_as_one_may_think():
    with pytest.warns(UserWarning, match="No dataset is provided"):
        make_trainer()
    with pytest.warns(UserWarning, match="num_shared_layers changes nothing"):
        PPOTrainer(config(), make_policy(), make_policy(1), num_shared_layers=1)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(PipelineError, match="2 processes would each train a policy of their own"):
        make_trainer()


def test_what_is_no_policy_is_refused():
    encoder_decoder = AutoModelForSeq2SeqLMWithValueHead(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="PPOTrainer: an encoder-decoder: model must be"):
        PPOTrainer(config(), encoder_decoder)
    with pytest.raises(ValueError, match=r"model must be an AutoModel.* not LlamaForCausalLM"):
        PPOTrainer(config(), make_model())
    with pytest.raises(ValueError, match="ref_model must be"):
        PPOTrainer(config(), make_policy(), "gpt2")
    with pytest.raises(ValueError, match="config must be a PPOConfig, not dict"):
        PPOTrainer({}, make_policy())
    with pytest.raises(ValueError, match="training_data_collator"):
        PPOTrainer(config(), make_policy(), training_data_collator=list)


def test_a_subclass_that_would_not_be_asked_is_refused():
    with pytest.raises(TypeError, match="compute_rewards would not be asked"):

        class Mine(PPOTrainer):
            def compute_rewards(self):
                return None


def test_columns_that_the_model_does_not_take_are_left_out():
    class Table(torch.utils.data.Dataset):
        column_names = ("query", "answer", "input_ids")

        def remove_columns(self, names):
            self.removed = names
            return self

        def __len__(self):
            return 4

        def __getitem__(self, row):
            return row

    for kept, removed in ((True, ["answer"]), (False, None)):
        table = Table()
        PPOTrainer(config(remove_unused_columns=kept), make_policy(), dataset=table)
        assert getattr(table, "removed", None) == removed


def test_a_configuration_is_read_from_the_command_line():
    (read,) = HfArgumentParser(PPOConfig).parse_args_into_dataclasses(
        ["--learning_rate", "0.5", "--kl_penalty", "abs", "--batch_size", "256"]
    )
    assert (read.learning_rate, read.kl_penalty, read.batch_size) == (0.5, "abs", 256)
    assert read.total_ppo_epochs == 79
    flat = config(tracker_kwargs={"wandb": 1}).to_dict()
    assert flat["tracker_kwargs/wandb"] == 1
    assert flat["project_kwargs"] == {}


def test_the_hub_takes_no_other_options():
    with pytest.raises(TypeError, match="push_to_hub: api_endpoint is not supported"):
        models.push_folder(None, "me/x", api_endpoint="y")
