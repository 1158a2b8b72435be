"""A model that cannot be used is told by the stage that fetches it, in one line, and nothing is left behind."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from pipeline.models.policy import save_model
from pipeline.workspace import BASE, WEIGHTS_FILE
from tests.project_copy import ROOT
from tests.stages.tiny_project import run
from tests.tiny import make_model, make_tokenizer


def unknown(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "brandnew"}))


def encoder_decoder(folder):
    vocabulary = len(make_tokenizer())
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8}
    shutil.rmtree(folder)
    save_model(
        T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **sizes)),
        make_tokenizer(),
        folder,
    )


def broken_weights(folder):
    weights = load_file(folder / WEIGHTS_FILE)
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def small_vocabulary(folder):
    model = make_model()
    model.resize_token_embeddings(200)
    save_model(model, make_tokenizer(), folder)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (unknown, "has model_type 'brandnew', which transformers"),
        (encoder_decoder, "models of the type 't5' do not go on from a text"),
        (broken_weights, "its weights model.norm.weight have NaN or infinity"),
        (small_vocabulary, "has room for 200 tokens, but the tokenizer's ids go up to"),
    ],
)
def test_a_model_that_cannot_be_used(tmp_path, monkeypatch, capsys, break_it, told):
    for name in ("DVC_STAGE", "MAKELEVEL", "LEARNING_TOOLS_PARENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["model"] |= {"source": "path", "path": "mine"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    save_model(make_model(), make_tokenizer(), tmp_path / "mine")
    break_it(tmp_path / "mine")
    ended = run("fetch_model")
    assert ended.startswith("error: model: ")
    assert told in ended
    assert "\n" not in ended
    assert not BASE.exists()
