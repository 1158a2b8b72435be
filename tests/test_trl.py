"""Scripts for TRL 0.11, run with `pipeline.trl`."""

import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.models.policy import VALUE_HEAD_FILE, load_policy, save_model
from pipeline.trl import (
    AutoModelForCausalLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    TextEnvironment,
    load_tool,
)
from tests.environment.test_environment import Script

SCRIPT = Path(__file__).parent / "oracle" / "script.py"


def test_a_script_for_trl_runs_after_its_import_changed(
    model, tokenizer, tmp_path, monkeypatch, capsys
):
    save_model(model, tokenizer, tmp_path / "model")
    source = SCRIPT.read_text()
    assert source.count("from trl import") == 1
    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path / "model"), str(tmp_path / "out")])
    exec(source.replace("from trl import", "from pipeline.trl import"), {})
    shown = capsys.readouterr().out
    assert "Reward: -0." in shown
    assert "mean score -0." in shown
    before, after = (
        torch.load(tmp_path / "out" / VALUE_HEAD_FILE)["bias"],
        load_policy(tmp_path / "model")[0].v_head.bias,
    )
    assert before.abs().item() > 0 == after.item()  # something was learned, and saved


def test_trls_defaults_are_trls():
    ours = PPOConfig().ours()
    assert (ours.learning_rate, ours.epochs, ours.mini_batch_size) == (1.41e-5, 4, 128)
    assert (ours.init_kl_coef, ours.adap_kl_ctrl, ours.target_kl_episode) == (0.2, True, 6)
    # Neither clips gradients nor ends epochs early, if not told to.
    assert ours.max_grad_norm == ours.target_kl_update == 1e9
    told = PPOConfig(early_stopping=True, target_kl=0.5, max_grad_norm=2.0).ours()
    assert (told.target_kl_update, told.max_grad_norm) == (0.5, 2.0)


def test_the_reference_is_the_one_that_is_given(model, policy):
    reference = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    trainer = PPOTrainer(PPOConfig(), policy, reference)
    assert trainer.ref_model is reference
    own = PPOTrainer(PPOConfig(), policy).ref_model
    assert own.pretrained_model is not policy.pretrained_model


def test_the_data_set_comes_in_batches(policy):
    trainer = PPOTrainer(PPOConfig(batch_size=2, mini_batch_size=1), policy, dataset=list("abcde"))
    batches = list(trainer.dataloader)
    assert len(batches) == 2
    assert len({letter for batch in batches for letter in batch}) == 4


def test_statistics_go_to_the_tracker(policy, monkeypatch):
    logged = []
    trainer = PPOTrainer(PPOConfig(), policy)
    monkeypatch.setattr(trainer.accelerator, "log", lambda values, step: logged.append(values))
    trainer.log_stats({"objective/kl": 1.0}, {}, [torch.tensor(1.0), 0.0])
    assert logged[0]["objective/kl"] == 1.0
    assert logged[0]["env/reward_mean"] == 0.5


def test_what_is_not_supported_is_refused(policy, tokenizer):
    with pytest.raises(ValueError, match="unknown generation_kwargs \\['top_k'\\]"):
        TextEnvironment(
            policy,
            tokenizer,
            {},
            len,
            "",
            generation_kwargs={"do_sample": True, "top_k": 50},
        )
    with pytest.raises(ValueError, match=r"temperature 0\.7: `step` takes episodes"):
        TextEnvironment(
            policy,
            tokenizer,
            {},
            len,
            "",
            generation_kwargs={"do_sample": True, "temperature": 0.7},
        )
    with pytest.raises(ValueError, match="eos_token_id 7: a turn ends at a tag"):
        TextEnvironment(policy, tokenizer, {}, len, "", generation_kwargs={"eos_token_id": 7})
    with pytest.raises(ValueError, match="no tool 'wiki'"):
        load_tool("wiki")
    assert load_tool("ybelkada/simple-calculator")("2*3") == "6"


def test_without_generation_kwargs_it_decodes_greedily_as_generate_does(policy, tokenizer):
    assert not TextEnvironment(policy, tokenizer, {}, len, "").sampler.do_sample
    sampling = TextEnvironment(
        policy, tokenizer, {}, len, "", generation_kwargs={"do_sample": True, "top_k": 0.0}
    )
    assert sampling.sampler.do_sample


def test_run_gives_trls_tensors(policy, tokenizer):
    env = TextEnvironment(policy, tokenizer, {}, lambda answers: [0.5] * len(answers), "P")
    queries, responses, masks, rewards, histories = env.run(["a", "bc"])
    for query, response, mask, history in zip(queries, responses, masks, histories):
        assert torch.equal(history.tokens, torch.cat([query, response]))
        assert history.token_masks.tolist() == [0] * len(query) + mask.tolist()
        assert tokenizer.decode(query) in ("Pa", "Pbc")
    assert rewards == [0.5, 0.5]


def scripted(policy, tokenizer, tools, call, **options):
    """The episode of an environment whose model makes one call, and its mask."""
    env = TextEnvironment(
        policy, tokenizer, tools, lambda answers: [0.0] * len(answers), "P", **options
    )
    env.sampler = Script(tokenizer, [[call], ["<submit>"]])
    _, _, (mask,), _, (history,) = env.run(["a"])
    return history, mask


@pytest.mark.parametrize("form", [list, lambda tools: {"SimpleCalculatorTool": tools[0]}])
def test_the_hubs_calculator_goes_by_the_name_that_it_has_in_trl(policy, tokenizer, form):
    tools = form([load_tool("ybelkada/simple-calculator")])
    history, mask = scripted(policy, tokenizer, tools, "<request><SimpleCalculatorTool>4*3<call>")
    assert history.segments[2].text == "12<response>"
    assert mask.any()


def test_an_episode_whose_tool_fails_by_itself_does_not_train(policy, tokenizer):
    with pytest.warns(RuntimeWarning, match=r"T failed in 1 of 1 calls, .* within 0\.2 seconds"):
        history, mask = scripted(
            policy,
            tokenizer,
            {"T": lambda _: time.sleep(1)},
            "<request><T>x<call>",
            tool_timeout=0.2,
        )
    assert history.token_masks.any()
    assert not mask.any()


def test_the_next_run_draws_other_numbers(policy, tokenizer):
    env = TextEnvironment(
        policy, tokenizer, {}, lambda a: [0.0], "P", generation_kwargs={"do_sample": True}
    )
    assert env.run(["a"])[4][0].text != env.run(["a"])[4][0].text


def test_a_saved_policy_comes_back_with_its_value_head(policy, tokenizer, tmp_path):
    PPOTrainer(PPOConfig(), policy, tokenizer=tokenizer).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path))
    assert torch.equal(loaded.v_head.weight, policy.v_head.weight)
