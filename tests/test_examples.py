"""What the README and examples/ show runs, and does what they say."""

import re
from pathlib import Path

import pytest
import torch

from examples import calculator
from pipeline.models.policy import from_pretrained, save_model
from pipeline.training.trainer import PolicyTrainer
from tests.tiny import make_model

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tokenizer, tmp_path):
    save_model(make_model(), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("answer", "reward"),
    [("\nResult=42<submit>", 1), ("\nResult=41<submit>", 0), ("42<submit>", 0), ("", 0)],
)
def test_what_the_calculator_example_rewards(answer, reward):
    assert calculator.rewards([answer], ["6*7"]) == [reward]


def test_the_calculator_example_learns_from_rewards(folder, monkeypatch, capsys):
    trainers = []
    genuine = PolicyTrainer.__init__

    def init(self, *args, **options):
        genuine(self, *args, **options)
        trainers.append(self)

    monkeypatch.setattr(PolicyTrainer, "__init__", init)
    monkeypatch.setattr(
        calculator, "rewards", lambda answers, sums: [float(len(a) % 2) for a in answers]
    )
    episodes = calculator.learn(str(folder), steps=2, episodes=4)
    assert len(episodes) == 4
    assert all(episode.text.startswith(calculator.PROMPT + "What is ") for episode in episodes)
    (trainer,) = trainers
    before, _ = from_pretrained(folder)
    after = trainer.policy.pretrained_model.state_dict()
    assert any(not torch.equal(x, after[name]) for name, x in before.state_dict().items())
    assert re.findall(r"^step (\d): reward [01]\.\d\d, KL", capsys.readouterr().out, re.M) == [
        "1",
        "2",
    ]


def test_the_readmes_example_runs(folder, capsys):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- example -->\s*```python\n(.*?)```", page, re.DOTALL)[1]
    assert code.count("data/models/base") == 1
    exec(code.replace("data/models/base", str(folder)), {})
    assert float(capsys.readouterr().out) in (0, 1)
