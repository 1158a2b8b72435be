"""docs/metrics.md names every statistic that is logged, and no other."""

import re
from pathlib import Path

import pytest

from pipeline.algorithms import NAMES, load_algorithm
from pipeline.evaluation.metrics import PAID_INEXACT
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.tasks import load_task, task_names
from pipeline.training.settings import GroupConfig
from tests.tiny import make_model
from tests.training.test_training import train

PAGE = (Path(__file__).parents[1] / "docs/metrics.md").read_text(encoding="utf-8")


def named(part):
    """What stands in backticks in the first cells of a part's tables."""
    cells = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


TRAINING, EVALUATION = PAGE.split("## Of an evaluation")


@pytest.mark.parametrize("name", NAMES)
def test_every_statistic_of_a_training_is_explained_and_no_other(tokenizer, name):
    task = load_task("arithmetic")
    problems = task.problems(task.Data(source="builtin", train=7, test=1, seed=0))["train"]
    algorithm = load_algorithm(name)
    grouped = {"num_generations": 2} if issubclass(algorithm.Config, GroupConfig) else {}
    policy = CausalLMWithValueHead(make_model())
    config = algorithm.Config(**grouped)
    (stats,) = train(
        policy, tokenizer, problems, name, config, steps=1, warmup_steps=0, episodes_per_step=4
    )
    others = tuple(f"{other}/" for other in NAMES if other != name)
    explained = [each.replace("<algorithm>", name) for each in named(TRAINING)]
    expected = {each for each in explained if not each.startswith(others)}
    if name != "ppo":
        expected.remove("objective/kl_coef")
    assert set(stats) == expected
    assert len(explained) == len(set(explained))


def test_every_number_of_the_metrics_is_explained():
    measures = {name for task in task_names() for name in load_task(task).measures}
    assert set(named(EVALUATION)) == {"accuracy", "low", "high", "n", PAID_INEXACT} | measures
