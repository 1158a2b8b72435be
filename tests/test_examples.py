"""What the README and examples/ show runs, and does what they say."""

import re
from pathlib import Path

import pytest
import torch

from examples import calculator
from pipeline.models.policy import from_pretrained, save_model
from pipeline.models.sampler import Continuation, StopReason
from pipeline.tools.calculator import calculate
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


class Asking:
    """A sampler that asks the calculator what the question asks, and hands in what it answers."""

    def __init__(self, model, tokenizer):
        self.tokenizer = tokenizer

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        continuations = []
        for context in contexts:
            question = self.tokenizer.decode(context).rpartition("What is ")[2]
            answer = re.search(r"<call>(.*)<response>", question)
            text = (
                f"\nResult={answer[1]}<submit>"
                if answer
                else f"<request><Calculator>{question[:-2]}<call>"
            )
            tokens = self.tokenizer(text, add_special_tokens=False).input_ids
            continuations.append(
                Continuation(tokens, [-1.0] * len(tokens), text, StopReason.STOP_STRING)
            )
        return continuations


def test_the_calculator_examples_episodes_have_tool_calls(folder, monkeypatch):
    """Written in the form that its prompt shows, they are answered, and the right result is paid."""
    monkeypatch.setattr(calculator, "TorchSampler", Asking)
    for episode in calculator.learn(str(folder), steps=1, episodes=4):
        (call,) = episode.calls
        assert (call.tool, call.error_kind) == ("Calculator", "")
        assert call.output == calculate(call.argument)
        assert episode.text.startswith(calculator.PROMPT + f"What is {call.argument}?\n<request>")
        assert [segment.system for segment in episode.segments[1:]] == [False, True, False]
        assert episode.reward == 1


def test_the_calculator_examples_prompt_shows_what_the_tool_answers():
    shown = re.findall(
        r"<Calculator>(.*?)<call>(.*?)<response>\nResult=(.*?)<submit>", calculator.PROMPT
    )
    assert len(shown) == calculator.PROMPT.count("What is ")
    assert all(calculate(asked) == answer == result for asked, answer, result in shown)


def test_the_readmes_example_runs(folder, capsys):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- example -->\s*```python\n(.*?)```", page, re.DOTALL)[1]
    assert code.count("data/models/base") == 1
    exec(code.replace("data/models/base", str(folder)), {})
    assert float(capsys.readouterr().out) in (0, 1)
