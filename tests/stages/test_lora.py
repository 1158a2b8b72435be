"""The stages with `model.lora` set: adapters are trained, saved, found again and exported."""

import json
import os
import shutil

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from pipeline.files import sha256
from pipeline.models.policy import load_policy
from pipeline.nested import put
from pipeline.workspace import ADAPTER_CONFIG, ADAPTER_FILE, WEIGHTS_FILE
from scripts.export import main as export
from tests.stages.conftest import _run_by_hand
from tests.stages.tiny_project import TASK, make_project, run

STAGES = ("fetch_model", f"prepare {TASK}", f"demonstrate {TASK}", f"warm_start {TASK}")
TRAIN, EVALUATE = f"train {TASK} 1", f"evaluate {TASK} rl-1"
LORA = {"r": 2, "alpha": 4, "dropout": 0, "target_modules": ["q_proj", "up_proj"]}
CHANGES = {
    "model.lora": LORA,
    "arithmetic.train.steps": 2,
    "arithmetic.warm_start": {
        "steps": 2,
        "demonstrations": 4,
        "batch_size": 2,
        "learning_rate": 1e-2,
    },
}
SFT, RL = f"data/models/{TASK}-sft", f"data/models/{TASK}-rl-1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("lora"), os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        _run_by_hand(patch)
        os.chdir(folder)
        try:
            make_project(folder, (*STAGES, TRAIN, EVALUATE), CHANGES)
        finally:
            os.chdir(before)
    return folder


@pytest.fixture
def project(made, monkeypatch, tmp_path, signals):
    """A copy, somewhere else, as a clone is after `dvc pull`."""
    copy = tmp_path / "clone"
    shutil.copytree(made, copy)
    _run_by_hand(monkeypatch)
    monkeypatch.chdir(copy)
    return copy


def change(key, value):
    with open("params.yaml") as file:
        params = yaml.safe_load(file)
    put(params, key, value)
    with open("params.yaml", "w") as file:
        yaml.safe_dump(params, file)


def test_policies_are_adapters_on_each_other(project):
    for folder, base in ((SFT, "data/models/base"), (RL, SFT)):
        assert not (project / folder / WEIGHTS_FILE).exists()
        config = json.loads((project / folder / ADAPTER_CONFIG).read_text())
        assert config["base_model_name_or_path"] == base  # so it holds in any clone
        assert (config["r"], config["lora_alpha"]) == (LORA["r"], LORA["alpha"])
    record = json.loads((project / f"data/training/{TASK}-1/record.json").read_text())
    assert record["lora"].items() >= LORA.items()
    assert record["sha256"].keys() >= {f"{SFT}/{ADAPTER_FILE}", f"data/models/base/{WEIGHTS_FILE}"}


def test_kl_is_measured_from_the_warm_started_policy(project):
    """Which is far from the base model by then."""
    curve = pd.read_csv(project / f"data/training/{TASK}-1/curve.csv")
    assert curve["objective/kl"][0] == pytest.approx(0, abs=1e-5)
    ids = torch.tensor([[5, 6, 7]])
    base, sft = (load_policy(project / f)[0].pretrained_model for f in ("data/models/base", SFT))
    with torch.no_grad():
        assert not torch.allclose(base(ids).logits, sft(ids).logits, atol=1e-3)


def test_a_clone_trains_and_evaluates_to_the_same_digits(project):
    before = {path: sha256(project / RL / path) for path in os.listdir(project / RL)}
    episodes = project / f"data/episodes/{TASK}/rl-1.parquet"
    expected = pd.read_parquet(episodes)
    assert set(expected["weights_sha256"]) == {before[ADAPTER_FILE]}
    shutil.rmtree(project / RL)
    episodes.unlink()
    assert run(TRAIN) is None
    assert run(EVALUATE) is None
    assert {path: sha256(project / RL / path) for path in os.listdir(project / RL)} == before
    pd.testing.assert_frame_equal(pd.read_parquet(episodes), expected)


def test_an_evaluation_needs_the_model_below(project):
    shutil.rmtree(project / SFT)
    assert f"{SFT}/{WEIGHTS_FILE} does not exist yet" in str(run(EVALUATE))


def test_the_exported_policy_is_the_trained_one(project):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = load_policy(project / RL)[0].pretrained_model(ids).logits
        export(project / RL, project / "exported")
        shutil.rmtree(project / "data")
        plain = AutoModelForCausalLM.from_pretrained(project / "exported")
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_target_that_no_module_has_stops_a_training_before_its_first_step(project):
    change("model.lora.target_modules", ["q_projj"])
    told = str(run(TRAIN))
    assert told.startswith("error: model.lora.target_modules: LlamaForCausalLM has no linear layer")
    assert "'q_projj'; there is " in told
    assert "q_proj," in told


def test_without_lora_a_training_goes_on_from_the_adapter_in_full(project):
    """As where an arm of a study takes it away."""
    change("model.lora", None)
    assert run(TRAIN) is None
    assert (project / RL / WEIGHTS_FILE).exists()
    assert not (project / RL / ADAPTER_FILE).exists()
    curve = pd.read_csv(project / f"data/training/{TASK}-1/curve.csv")
    assert curve["objective/kl"][0] == pytest.approx(0, abs=1e-5)
