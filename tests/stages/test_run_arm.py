import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.workspace import ARMS
from stages.run_arm import load_arm


def test_the_committed_arms_can_be_loaded():
    for arm, changes in yaml.safe_load(ARMS.read_text()).items():
        load_arm(arm, changes)


def test_an_arm_changes_params():
    params = load_arm(
        "slow",
        {"ppo.learning_rate": 1e-6, "word_problems.train.steps": 9, "trivia.train.ppo.lam": 0.5},
    )
    assert params.algorithm_of("arithmetic").config.learning_rate == 1e-6
    assert params.algorithm_of("trivia").config.lam == 0.5
    assert params.task("word_problems").train.steps == 9


def test_an_arm_may_train_an_adapter():
    assert load_arm("small", {"model.lora": {"r": 4, "alpha": 8}}).model.lora.r == 4


@pytest.mark.parametrize(
    "key",
    [
        "word_problems.warm_start.steps",
        "arithmetic.data.seed",
        "model.source",
        "corpus.source",
        "seeds",
        "trivia.ppo.lam",
        "word_problems",
    ],
)
def test_what_a_run_does_not_read_is_refused(key):
    with pytest.raises(PipelineError, match=rf"arms.yaml: odd: {key} would change nothing"):
        load_arm("odd", {key: 1})


def test_a_mistake_is_told_of_the_arm():
    with pytest.raises(PipelineError, match=r"arms\.yaml: odd: .*ppo\.gea: no such parameter"):
        load_arm("odd", {"ppo.gea": "walk"})
