"""Each preset run to the end with a tiny model of its model's architecture: what a hub has is made on the spot."""

import json
import signal

import pandas as pd
import pytest
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.models.policy import save_model
from scripts.preset import PRESETS, apply, set_params
from tests.project_copy import ROOT
from tests.stages.tiny_project import make_project, run
from tests.tiny import make_tokenizer

ARCHITECTURES = {
    "openai-community/gpt2": "gpt2",
    "bigcode/starcoderbase": "gpt_bigcode",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "llama",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": "qwen2",
}
"""Of the models that presets take from the hub."""

SIZES = {
    "gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 4096},
    "others": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}

NAMES = ("box", "bag", "tin", "jar", "cup", "pot", "can", "keg", "bin", "vat", "urn", "tub")


def gsm8k_rows():
    for i, name in enumerate(NAMES):
        first, second = i + 2, i + 5
        total = first + second
        yield {
            "question": f"Ann puts {first} red balls and {second} blue balls into each {name}. How many into 3?",
            "answer": f"Each {name} has {first}+{second}=<<{first}+{second}={total}>>{total} balls.\n"
            f"Three have {total}*3=<<{total}*3={3 * total}>>{3 * total} balls.\n#### {3 * total}",
        }


def tiny_model(family):
    sizes = SIZES["gpt" if family.startswith("gpt") else "others"]
    tokens = {"vocab_size": len(make_tokenizer()), "bos_token_id": 0, "eos_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **tokens))


def tiny(task, section):
    """Changes that make a run of the task tiny, whatever a preset says."""
    changes = {
        "model.source": "path",
        "model.path": "tiny-model",
        "machine.device": "cpu",
        "machine.precision": "float32",
        "evaluation.batch_size": 4,
        f"{task}.data.train": 8,
        f"{task}.data.test": 2,
        f"{task}.environment.max_new_tokens": 400,
        f"{task}.train.steps": 2,
        f"{task}.train.episodes_per_step": 4,
    }
    if section["warm_start"]["steps"]:
        changes |= {f"{task}.warm_start.steps": 1, f"{task}.warm_start.demonstrations": 2}
    if "mix" in section["warm_start"]:
        changes[f"{task}.warm_start.mix"] = 1
    if task in ("triviaqa", "gsm8k"):
        changes |= {f"{task}.data.source": "path", f"{task}.data.validation": 0}
        changes[f"{task}.data.evaluate"] = "test"
    if task == "gsm8k":
        changes |= {f"gsm8k.data.path.{s}": f"gsm8k-{s}.jsonl" for s in ("train", "test")}
    return changes


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / PRESETS).glob("*.yaml")))
def test_a_preset_runs_to_the_end(name, tmp_path, monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    for variable in ("DVC_STAGE", "MAKELEVEL"):  # nobody's stages
        monkeypatch.delenv(variable, raising=False)
    make_project(tmp_path, stages=[])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / PRESETS).symlink_to(ROOT / PRESETS)
    apply(name)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (task,) = params["tasks"]
    family = ARCHITECTURES[params["model"]["hub"]["name"]]
    save_model(tiny_model(family), make_tokenizer(), tmp_path / "tiny-model")
    rows = list(gsm8k_rows())
    for split, part in (("train", rows[:10]), ("test", rows[10:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"gsm8k-{split}.jsonl").write_text(text)
    corpus = {"corpus.source": "path", "corpus.path": "documents.jsonl"}
    set_params(tmp_path / "params.yaml", {**tiny(task, params[task]), **corpus})
    searches = ["build_corpus", "build_index"] if task == "triviaqa" else []
    seed = params["seeds"][0]
    try:
        for stage in [
            "fetch_model",
            *searches,
            f"prepare {task}",
            f"demonstrate {task}",
            f"warm_start {task}",
            f"train {task} {seed}",
            f"evaluate {task} rl-{seed}",
        ]:
            assert run(stage) is None, stage
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    curve = pd.read_csv(tmp_path / f"data/training/{task}-{seed}/curve.csv")
    assert list(curve["step"]) == [1, 2]
    adapter = tmp_path / f"data/models/{task}-rl-{seed}/adapter_model.safetensors"
    assert adapter.exists() == bool(params["model"]["lora"])
