"""TRL 0.11's names for policies: loading them, also from what TRL saved, and small functions around them."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from pipeline import trl
from pipeline.errors import PipelineError
from pipeline.models.policy import VALUE_HEAD_FILE
from pipeline.trl import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    create_reference_model,
    load_tool,
    tools,
)
from pipeline.trl.core import LengthSampler, respond_to_batch, set_seed
from tests.test_trl_trainer import LORA
from tests.tiny import make_model, random_ids

HEAD = {
    "v_head.summary.weight": torch.linspace(-1, 1, 32)[None],
    "v_head.summary.bias": torch.tensor([0.5]),
}


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path)
    return tmp_path


def has_the_head(policy):
    return torch.equal(policy.v_head.weight, HEAD["v_head.summary.weight"]) and torch.equal(
        policy.v_head.bias, HEAD["v_head.summary.bias"]
    )


# --- checkpoints that TRL wrote ---------------------------------------------------------------------


def test_a_checkpoint_of_trl_comes_with_its_value_head(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, **HEAD}, folder / "model.safetensors", {"format": "pt"})
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(str(folder))
    assert has_the_head(policy)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(policy.state_dict()[name], weights[name])


def test_so_does_one_in_torchs_format(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, **HEAD}, folder / "pytorch_model.bin")
    assert has_the_head(AutoModelForCausalLMWithValueHead.from_pretrained(folder))


def test_so_does_one_in_several_files(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {"model-1-of-2.safetensors": weights, "model-2-of-2.safetensors": HEAD}
    for file, part in files.items():
        save_file(part, folder / file, {"format": "pt"})
    places = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert has_the_head(AutoModelForCausalLMWithValueHead.from_pretrained(folder))


def test_so_does_one_of_an_adapter(folder, tmp_path):
    """TRL wrote the adapter by peft, and the value head alone beside it."""
    adapted = get_peft_model(
        AutoModelForCausalLMWithValueHead.from_pretrained(folder).pretrained_model,
        LoraConfig(**LORA, init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    torch.save(HEAD, tmp_path / "adapter" / "pytorch_model.bin")
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path / "adapter")
    assert has_the_head(policy)
    ids = random_ids(5, seed=0)[None]
    with torch.no_grad():
        assert torch.allclose(policy(ids)[0], adapted(ids).logits, atol=1e-4)
    assert all(
        p.requires_grad == ("lora_" in n or "v_head" in n) for n, p in policy.named_parameters()
    )


def test_a_value_head_of_another_model_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    other = {"v_head.summary.weight": torch.ones(1, 8), "v_head.summary.bias": torch.ones(1)}
    save_file({**weights, **other}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="its value head is of another model"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder)


def test_without_one_the_value_head_starts_at_zero(folder):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(folder, summary_dropout_prob=0.1)
    assert not policy.v_head.summary.weight.any()
    options = {"v_head_init_strategy": "normal", "v_head_initializer_range": 0.01}
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(folder, **options)
    assert 0.005 < policy.v_head.weight.std() < 0.02
    with pytest.raises(ValueError, match="v_head_init_strategy 'zeros'"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder, v_head_init_strategy="zeros")


# --- a policy's methods -----------------------------------------------------------------------------


def test_weights_have_trls_names(model, tmp_path):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    state = policy.state_dict()
    assert state.keys() == {*model.state_dict(), *HEAD}
    policy.load_state_dict({**state, **HEAD})
    assert has_the_head(policy)
    holder = torch.nn.ModuleList([policy])
    holder.load_state_dict(holder.state_dict())
    assert "0.v_head.summary.bias" in holder.state_dict()


def test_it_is_saved_and_comes_back(model, tmp_path):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    policy.load_state_dict({**policy.state_dict(), **HEAD})
    policy.save_pretrained(str(tmp_path))
    assert (tmp_path / VALUE_HEAD_FILE).exists()
    assert has_the_head(AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path)))


def test_a_pass_gives_logits_loss_and_values(model):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    policy.load_state_dict({**policy.state_dict(), **HEAD})
    ids = torch.stack([random_ids(6, seed=0), random_ids(6, seed=1)])
    with torch.no_grad():
        logits, loss, values = policy(ids, torch.ones_like(ids))
        plain = model(ids, output_hidden_states=True)
        assert policy(ids, labels=ids)[1] == model(ids, labels=ids).loss
    assert loss is None
    assert torch.equal(logits, plain.logits)
    expected = plain.hidden_states[-1] @ HEAD["v_head.summary.weight"][0] + 0.5
    assert torch.allclose(values, expected, atol=1e-5)
    assert policy.config is model.config
    assert policy.generate(ids, max_new_tokens=2, pad_token_id=0).shape[1] <= 8


def test_a_reference_is_a_frozen_copy(model):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    reference = create_reference_model(policy)
    policy.v_head.bias.data.fill_(3)
    assert reference.v_head.bias == 0
    assert not any(p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in policy.parameters())


# --- options of from_pretrained ---------------------------------------------------------------------


def test_options_that_change_no_result_are_taken(folder):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(
        folder,
        use_auth_token=True,
        trust_remote_code=False,
        device_map={"": "cpu"},
        load_in_8bit=False,
        low_cpu_mem_usage=True,
        torch_dtype=None,
    )
    assert policy.pretrained_model.dtype == torch.float32
    AutoModelForCausalLMWithValueHead.from_pretrained(folder, device_map="auto")
    with pytest.warns(UserWarning, match=r"weights in torch\.bfloat16: updates that are too small"):
        half = AutoModelForCausalLMWithValueHead.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert half.pretrained_model.dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="load_in_4bit: the weights are not quantized here"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder, load_in_4bit=True)


def test_options_that_would_are_refused(folder, model):
    load = AutoModelForCausalLMWithValueHead.from_pretrained
    with pytest.raises(ValueError, match="a model lies on one device"):
        load(folder, device_map={"model": 0, "lm_head": 1})
    with pytest.raises(ValueError, match="reward_adapter"):
        load(folder, reward_adapter="x")
    with pytest.raises(TypeError, match="a model that is loaded takes no revision"):
        load(model, revision="main")
    adapted = load(model, peft_config=LoraConfig(**LORA)).pretrained_model
    with pytest.raises(ValueError, match="peft_config: the model has an adapter already"):
        load(adapted, peft_config=LoraConfig(**LORA))


def test_an_encoder_decoder_can_be_loaded(tmp_path):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(
        tmp_path
    )
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(str(tmp_path))
    assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=3).shape[0] == 1


# --- tools ------------------------------------------------------------------------------------------


def test_the_hubs_tools_are_the_projects():
    assert load_tool("ybelkada/simple-calculator")("12-2*3") == "6"
    python = load_tool("lvwerra/python-interpreter", token="x")
    assert type(python).__name__ == "PythonInterpreter"
    assert str(python("print(sum(range(5)))")) == "10"
    with pytest.raises(
        ValueError, match="no tool 'wiki' here, there is ybelkada/simple-calculator"
    ):
        load_tool("wiki")


def test_the_search_needs_an_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="build_index"):
        load_tool("vwxyzjn/pyserini-wikipedia-kilt-doc")


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing():
        raise ImportError("No module named 'pydantic_monty'")

    monkeypatch.setitem(tools.HUB, "lvwerra/python-interpreter", missing)
    with pytest.raises(PipelineError, match=r"pydantic_monty.*learning-tools\[wiki,python\]"):
        load_tool("lvwerra/python-interpreter")


# --- trl.core ---------------------------------------------------------------------------------------


def test_lengths_are_drawn_by_the_scripts_seed():
    draw = LengthSampler(3, 6)
    set_seed(1)
    drawn = [draw() for _ in range(60)]
    assert set(drawn) == {3, 4, 5}
    set_seed(1)
    assert [draw() for _ in range(60)] == drawn


def test_a_batch_is_responded_to(model):
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    queries = torch.stack([random_ids(4, seed=0), random_ids(4, seed=1)])
    assert respond_to_batch(policy, queries).shape == (2, 20)
    greedy = model.generate(
        queries, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None
    )[:, 4:]
    assert torch.equal(respond_to_batch(policy, queries, 5, top_k=1), greedy)
    assert torch.equal(respond_to_batch(policy, queries, 5, top_p=1e-6), greedy)


def test_all_names_are_there():
    assert all(hasattr(trl, name) for name in trl.__all__)
