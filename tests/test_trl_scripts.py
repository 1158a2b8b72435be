"""Whole scripts for TRL 0.11, with tiny models, from the first line to the last."""

import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pipeline.models.policy import save_model
from pipeline.tools.wiki.process import Hit
from pipeline.trl import AutoModelForCausalLMWithValueHead, tools
from tests.tiny import make_model

TESTS = Path(__file__).parent


@pytest.fixture
def folder(tokenizer, tmp_path):
    save_model(make_model(), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return runpy.run_path(str(TESTS / script), run_name="__main__")


def changed(folder, out):
    """The names of weights that are others in `out` than in the model it came from; new ones that are not 0."""
    before, after = (
        AutoModelForCausalLMWithValueHead.from_pretrained(x).state_dict() for x in (folder, out)
    )
    nothing = torch.zeros(())
    old = {name: before.get(name.replace("base_layer.", ""), nothing) for name in after}
    return {name for name, x in after.items() if not torch.equal(x, old[name].expand_as(x))}


class Index:
    """Stands in for the searcher of a built index."""

    def search(self, queries, k=1):
        return [[Hit("1", 1.0, "Chile\n\nThe capital is Santiago.")] for _ in queries]


def test_lora_accumulation_and_a_search_tool(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        tools.HUB,
        "vwxyzjn/pyserini-wikipedia-kilt-doc",
        lambda: tools.PyseriniWikipediaTool(Index()),
    )
    out = tmp_path / "out"
    names = run(monkeypatch, "trl_search_script.py", "--model", folder, "--out", out)
    assert names["second_line"]("Chile") == "The capital is Santiago."
    assert names["ppo_trainer"].current_step == 2
    assert names["train_stats"]["ppo/skipped_minibatches"] == 0
    moved = changed(folder, out)
    assert any("lora_B" in name for name in moved)
    assert "v_head.summary.weight" in moved
    assert not any("base_layer" in name for name in moved)
    assert (out / "state" / "optimizer.bin").exists()


def test_a_data_set_an_evaluation_and_an_interpreter(folder, tmp_path, monkeypatch, capsys):
    names = run(monkeypatch, "trl_program_script.py", folder, tmp_path / "out")
    assert "steps 2" in capsys.readouterr().out
    assert list(names["text_env"].tools) == ["PythonInterpreter"]
    assert any("lora_B" in name for name in changed(folder, tmp_path / "out"))
