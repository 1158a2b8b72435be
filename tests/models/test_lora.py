"""Adapters on tiny models."""

import copy
import json
import shutil
import sys

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.chance import Place
from pipeline.errors import PipelineError
from pipeline.models.fetch import ModelSource, fetch_model
from pipeline.models.forward import packed_weights
from pipeline.models.lora import (
    LoraSettings,
    adapter_off,
    attach,
    halve,
    has_adapter,
    merged,
)
from pipeline.models.policy import (
    CausalLMWithValueHead,
    load_policy,
    load_trained_state,
    save_model,
    trained_state,
)
from pipeline.models.sampling import TorchSampler
from pipeline.models.scoring import TokenBatch, score
from pipeline.workspace import ADAPTER_CONFIG, ADAPTER_FILE, WEIGHTS_FILE, weights_files
from scripts.export import main as export
from tests.tiny import make_model, random_ids

SETTINGS = LoraSettings(r=4, alpha=8)
EVERYWHERE = LoraSettings(r=2, alpha=6, target_modules="all-linear")
IDS = random_ids(12, 5)[None]


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def learned(model, seed=0):
    """The model after it has learned something, as it were."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(any_model):
    before = logits(any_model)
    names = set(any_model.state_dict())
    attach(any_model, SETTINGS)
    assert torch.equal(logits(any_model), before)
    assert trained(any_model)
    assert all("lora" in name for name in trained(any_model))
    assert {name.replace(".base_layer", "") for name in any_model.state_dict()} >= names


def test_a_fresh_adapter_depends_on_the_seed_alone():
    states = []
    for seed in (1, 1, 2):
        model = make_model()
        torch.manual_seed(len(states))
        expected = torch.rand(1)
        torch.manual_seed(len(states))
        attach(model, SETTINGS, seed)
        assert torch.equal(torch.rand(1), expected)  # and draws nothing from others
        states.append(trained_state(model))
    name = next(name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        (SETTINGS, {"q_proj", "v_proj"}),  # peft's choice for the family
        (LoraSettings(r=1, alpha=1, target_modules=["mlp.up_proj"]), {"up_proj"}),
        (
            EVERYWHERE,
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
    ],
)
def test_the_layers_that_get_an_adapter(model, settings, layers):
    attach(model, settings)
    assert {name.split(".lora")[0].rpartition(".")[2] for name in trained(model)} == layers


def test_a_family_that_peft_does_not_know_gets_one_on_all_linear_layers(model):
    model.config.model_type = "unheard-of"
    attach(model, SETTINGS)
    assert any("down_proj" in name for name in trained(model))


@pytest.mark.parametrize("target", ["q_projj", "norm", "proj"])
def test_a_target_that_is_not_there_is_named_with_those_that_are(model, target):
    settings = LoraSettings(r=4, alpha=8, target_modules=["v_proj", target])
    with pytest.raises(
        PipelineError,
        match=rf"^model\.lora\.target_modules: LlamaForCausalLM has no linear layer '{target}'; "
        r"there is down_proj, gate_proj, .*v_proj$",
    ):
        attach(model, settings)
    assert not has_adapter(model)


def test_a_head_that_shares_the_embeddings_weights_is_refused():
    model = make_model("gpt2")
    with pytest.raises(PipelineError, match="lm_head shares its weights with the embedding"):
        attach(model, LoraSettings(r=4, alpha=8, target_modules=["lm_head"]))


def test_without_peft_one_line_says_so(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"^model\.lora: it needs the package peft: pip"):
        attach(model, SETTINGS)


def test_off_means_as_before(any_model):
    before = logits(any_model)
    attach(any_model, EVERYWHERE)
    on = logits(learned(any_model))
    names = trained(any_model)
    with adapter_off(any_model):
        assert torch.equal(logits(any_model), before)
        with adapter_off(any_model):
            pass
        assert torch.equal(logits(any_model), before)
    assert torch.equal(logits(any_model), on)
    assert not torch.allclose(on, before)
    assert trained(any_model) == names


def test_what_was_frozen_stays_frozen(model):
    attach(model, SETTINGS)
    model.requires_grad_(False)
    with adapter_off(model):
        pass
    assert not trained(model)


def test_merged_weights_say_what_the_adapter_says(any_model):
    names = list(any_model.state_dict())
    attach(any_model, EVERYWHERE)
    on = logits(learned(any_model))
    everything = merged(any_model)
    torch.testing.assert_close(logits(everything), on, atol=1e-5, rtol=1e-5)
    assert list(everything.state_dict()) == names
    assert not has_adapter(everything)
    assert trained(everything) == {name for name, _ in everything.named_parameters()}


def test_a_second_adapter_starts_from_the_first(model):
    attach(model, SETTINGS)
    on = logits(learned(model))
    attach(model, EVERYWHERE)
    torch.testing.assert_close(logits(model), on, atol=1e-5, rtol=1e-5)
    learned(model, seed=1)
    with adapter_off(model):
        torch.testing.assert_close(logits(model), on, atol=1e-5, rtol=1e-5)


def test_frozen_weights_in_bfloat16_change_no_digit_of_products_in_bfloat16(any_model):
    attach(any_model, SETTINGS)
    learned(any_model)
    other = copy.deepcopy(any_model)
    halve(other)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(other), logits(any_model))
    size, before = (
        sum(p.nbytes for p in model.parameters() if not p.requires_grad)
        for model in (other, any_model)
    )
    assert size < before or any_model.config.model_type == "gpt2"  # which has no linear layers
    assert all(p.dtype is torch.float32 for p in other.parameters() if p.requires_grad)
    assert all(p.dtype is torch.float32 for p in merged(other).parameters())


# --- sampling and scoring ---------------------------------------------------------------------------


def test_the_samplers_log_probabilities_are_the_trainers(any_model, tokenizer):
    attach(any_model, EVERYWHERE)
    policy = CausalLMWithValueHead(learned(any_model))
    prompt = random_ids(20, 1).tolist()
    contexts = [[*prompt, *random_ids(n, n).tolist()] for n in (2, 5, 3)]
    for off in (False, True):
        with adapter_off(any_model) if off else torch.no_grad():
            sampled = TorchSampler(any_model, tokenizer).generate(
                contexts, [9] * 3, ["<submit>"], [Place(0, 0, i) for i in range(3)]
            )
            sequences = [[*c, *s.tokens] for c, s in zip(contexts, sampled)]
            batch = TokenBatch.of(sequences, [len(context) for context in contexts])
            with torch.no_grad():
                scored = score(policy, batch)
        mask = batch.place([torch.ones(len(s.tokens)) for s in sampled]).bool()
        expected = torch.tensor([logprob for s in sampled for logprob in s.logprobs])
        torch.testing.assert_close(scored.logprobs[mask], expected, atol=2e-5, rtol=1e-5)
        for row, (context, sequence) in enumerate(zip(contexts, sequences)):
            with adapter_off(any_model) if off else torch.no_grad(), torch.no_grad():
                plain = any_model(torch.tensor([sequence])).logits[0].log_softmax(-1)
            told = scored.logprobs[row][mask[row]]
            for place, logprob in zip(range(len(context), len(sequence)), told):
                assert plain[place - 1, sequence[place]] == pytest.approx(float(logprob), abs=2e-5)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 products here"
)
@torch.no_grad()
def test_the_layers_below_an_adapter_multiply_by_packed_weights(model):
    attach(model, EVERYWHERE)
    learned(model)
    halve(model)
    layer = model.base_model.layers[0].mlp.up_proj
    with torch.autocast("cpu", torch.bfloat16):
        expected = logits(model)
        with packed_weights(model):
            assert "forward" in vars(layer.base_layer)
            torch.testing.assert_close(logits(model), expected, atol=0.05, rtol=0.02)
            with adapter_off(model):
                assert (logits(model) - expected).abs().max() > 0.5
    assert "forward" not in vars(layer.base_layer)


# --- peft's own wrapper -----------------------------------------------------------------------------


def test_a_wrapped_model_is_taken_out_of_its_wrapper(tokenizer, tmp_path):
    save_model(make_model(), tokenizer, tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wrapped = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    learned(wrapped)
    expected = logits(wrapped)
    policy = CausalLMWithValueHead(wrapped)
    assert type(policy.pretrained_model).__name__ == "LlamaForCausalLM"
    assert torch.equal(logits(policy.pretrained_model), expected)
    assert trained(policy) - {"v_head.weight", "v_head.bias"} == {
        name for name in trained(policy) if "lora" in name
    }
    with wrapped.disable_adapter():
        without = logits(wrapped)
    with adapter_off(policy.pretrained_model):
        assert torch.equal(logits(policy.pretrained_model), without)
    save_model(policy, tokenizer, tmp_path / "policy")
    assert torch.equal(logits(load_policy(tmp_path / "policy")[0].pretrained_model), expected)
    torch.testing.assert_close(
        logits(merged(policy.pretrained_model)), expected, atol=1e-5, rtol=1e-5
    )


def test_what_is_trained_beside_an_adapter_is_off_too_and_is_merged(model):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])
    before = logits(model)
    inner = CausalLMWithValueHead(get_peft_model(model, config)).pretrained_model
    on = logits(learned(inner))
    with adapter_off(inner):
        assert torch.equal(logits(inner), before)
    torch.testing.assert_close(logits(merged(inner)), on, atol=1e-5, rtol=1e-5)


def test_adapters_that_the_passes_would_leave_out_are_refused(model):
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="PROMPT_TUNING are not supported; LoRA is"):
        CausalLMWithValueHead(get_peft_model(model, config))


def test_biases_that_are_trained_beside_are_refused_where_the_reference_would_have_them(model):
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], bias="all"))
    with pytest.raises(ValueError, match="bias='all' are not supported"), adapter_off(model):
        pass


# --- saving and loading -----------------------------------------------------------------------------


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A base, an adapter of a warm start on it, and another of a training on that: `base`, `sft`, `rl`."""
    save_model(make_model(), tokenizer, tmp_path / "base")
    for name, below, settings in (("sft", "base", SETTINGS), ("rl", "sft", EVERYWHERE)):
        policy, _ = load_policy(tmp_path / below)
        attach(policy.pretrained_model, settings, base=tmp_path / below)
        save_model(learned(policy), tokenizer, tmp_path / name)
    return tmp_path


def test_a_saved_adapter_is_found_again_with_its_value_head_and_what_it_is_on(folder, tokenizer):
    policy, loaded = load_policy(folder / "rl")
    attach(policy.pretrained_model, SETTINGS, base=folder / "rl")
    learned(policy, seed=3)
    save_model(policy, tokenizer, folder / "next")
    again, _ = load_policy(folder / "next")
    assert torch.equal(logits(again.pretrained_model), logits(policy.pretrained_model))
    assert torch.equal(again.v_head.weight, policy.v_head.weight)
    assert trained(again) == trained(policy)
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_a_folder_with_an_adapter_holds_no_other_weights(folder):
    assert not (folder / "rl" / WEIGHTS_FILE).exists()
    assert all("lora" in name for name in load_file(folder / "rl" / ADAPTER_FILE))
    assert weights_files(folder / "rl", "train") == [
        folder / "rl" / ADAPTER_FILE,
        folder / "sft" / ADAPTER_FILE,
        folder / "base" / WEIGHTS_FILE,
    ]


def test_a_loaded_adapter_is_saved_as_it_was(folder, tokenizer):
    """A set of layers would be in another order each time, and DVC would take it for another policy."""
    policy, _ = load_policy(folder / "rl")
    save_model(policy, tokenizer, folder / "again")
    for file in (ADAPTER_FILE, ADAPTER_CONFIG):
        assert (folder / "again" / file).read_bytes() == (folder / "rl" / file).read_bytes()
    targets = json.loads((folder / "rl" / ADAPTER_CONFIG).read_text())["target_modules"]
    assert targets == sorted(targets)


def test_models_that_were_moved_together_find_each_other(folder, tmp_path_factory):
    expected = logits(load_policy(folder / "rl")[0].pretrained_model)
    elsewhere = tmp_path_factory.mktemp("clone") / "models"
    folder.rename(elsewhere)
    assert torch.equal(logits(load_policy(elsewhere / "rl")[0].pretrained_model), expected)


def test_an_exported_policy_needs_transformers_only(folder):
    policy, _ = load_policy(folder / "rl")
    export(folder / "rl", folder / "exported")
    plain = AutoModelForCausalLM.from_pretrained(folder / "exported")
    assert not has_adapter(plain)
    torch.testing.assert_close(logits(plain), logits(policy.pretrained_model), atol=1e-5, rtol=1e-5)
    with pytest.raises(PipelineError, match="exported is there already"):
        export(folder / "rl", folder / "exported")


def test_a_policy_with_an_adapter_can_be_what_tasks_start_from(folder):
    hub = {"name": "nobody/nothing", "revision": "abc"}
    package = {"package": "some-model", "version": "1.0", "sha256": "0" * 64}
    source = ModelSource(source="path", pypi=package, hub=hub, path=folder / "rl")
    fetch_model(source, folder / "fetched")
    policy, _ = load_policy(folder / "rl")
    fetched, _ = load_policy(folder / "fetched")
    assert not has_adapter(fetched.pretrained_model)
    torch.testing.assert_close(
        logits(fetched.pretrained_model), logits(policy.pretrained_model), atol=1e-5, rtol=1e-5
    )


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-10])


def without_one(file):
    weights = load_file(file)
    del weights[next(iter(weights))]
    save_file(weights, file, metadata={"format": "pt"})


def of_another_rank(file):
    weights = {name: x.repeat(2, 2) for name, x in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        (f"rl/{ADAPTER_FILE}", cut_off, "model: cannot load .*rl on .*sft: "),
        (f"rl/{ADAPTER_FILE}", without_one, "rl: its weights lack .*lora"),
        (f"rl/{ADAPTER_FILE}", of_another_rank, "model: cannot load .*rl on .*sft: "),
        (f"rl/{ADAPTER_CONFIG}", cut_off, "expected an adapter's configuration"),
        (f"sft/{ADAPTER_FILE}", cut_off, "rl/adapter_config.json: base_model_name_or_path: .*sft"),
        ("base", shutil.rmtree, "rl/adapter_config.json: base_model_name_or_path: .*base"),
    ],
)
def test_what_is_broken_is_told_in_a_line(folder, name, damage, complaint):
    damage(folder / name)
    with pytest.raises(PipelineError, match=complaint) as told:
        load_policy(folder / "rl", made_by="train@x")
    assert "\n" not in str(told.value)
    assert str(told.value).endswith("remove it and run `dvc repro train@x`")


def test_a_state_of_other_parts_is_refused(model):
    state = trained_state(model)
    attach(model, SETTINGS)
    with pytest.raises(RuntimeError, match="other parts"):
        load_trained_state(model, state)
    assert set(trained_state(model)) == trained(model)
