from pathlib import Path

import pytest
import yaml

from pipeline.algorithms.grpo import GRPO
from pipeline.errors import PipelineError
from pipeline.nested import put
from pipeline.params import load_params

COMMITTED = yaml.safe_load(Path("params.yaml").read_text())


def changed(tmp_path, key, value):
    """A copy of params.yaml in which `key`, with dots, is `value`."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    put(content, key, value)
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_committed_file_is_good():
    params = load_params()
    assert params.tasks == COMMITTED["tasks"]
    assert params.ppo.lam == 0.95
    assert params.task("arithmetic").data.test >= 200


def test_every_ppo_knob_is_in_the_file():
    assert set(COMMITTED["ppo"]) == set(type(load_params().ppo).model_fields)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("ppo.lamm", 0.9, r"ppo\.lamm: no such parameter; did you mean lam\?"),
        ("zzz", 1, r"zzz: no such parameter; known are .*arithmetic.*"),
        ("arithmetic.train.step", 1, r"arithmetic\.train\.step: .* did you mean steps\?"),
        ("arithmetic.data.tests", 1, r"arithmetic\.data\.tests: .* did you mean test\?"),
        ("ppo.gamma", 1.5, r"ppo\.gamma: .*less than or equal to 1, got 1\.5"),
        ("ppo.learning_rate", "fast", r"ppo\.learning_rate: .*number.*got 'fast'"),
        ("ppo.gae", "run", r"ppo\.gae: .*'skip' or 'walk', got 'run'"),
        ("arithmetic.train.steps", 0, r"arithmetic\.train\.steps: .*greater than or equal to 1"),
        ("seeds", [], r"seeds: .*at least 1 item"),
        ("seeds", [1, -1], r"seeds\.1: .*got -1"),
        ("seeds", [1, 2, 1], r"seeds: each may occur once, 1 is there twice"),
        ("tracking", ["wandb", "wandb"], r"tracking: each may occur once, wandb is there twice"),
        ("tasks", ["trivia", "trivia"], r"tasks: each may occur once, trivia is there twice"),
        ("trivia.data.source", "hub", r"trivia\.data\.source: .*'builtin', got 'hub'"),
        (
            "triviaqa.data.source",
            "builtin",
            r"triviaqa\.data\.source: .*'hub' or 'path', got 'builtin'",
        ),
        ("tasks", ["arithmatic"], r"no task 'arithmatic'; there is arithmetic"),
        (
            "trivia.environment.tool_timeout",
            0,
            r"trivia\.environment\.tool_timeout: .*greater than 0",
        ),
        (
            "triviaqa.tools.shown",
            6,
            r"triviaqa\.tools: .*shown must be at most hits, which is 5; it is 6",
        ),
        (
            "triviaqa.train.reward",
            "f2",
            r"triviaqa\.train\.reward: no such measure 'f2'; there is right, contains, .*f1",
        ),
        ("model.lora", {"r": 8}, r"model\.lora\.alpha: field required"),
        ("model.lora", {"r": 8, "alfa": 8}, r"model\.lora\.alfa: .* did you mean alpha\?"),
        ("model.lora", {"r": 8, "alpha": 8, "dropout": 0.1}, r"model\.lora\.dropout: .*got 0\.1"),
        ("model.source", "web", r"model\.source: .*'pypi', 'hub' or 'path'"),
    ],
)
def test_names_the_key_and_what_would_be_right(tmp_path, key, value, complaint):
    with pytest.raises(PipelineError, match=complaint):
        load_params(changed(tmp_path, key, value))


def test_a_task_may_change_some_of_ppos_parameters(tmp_path):
    params = load_params(changed(tmp_path, "arithmetic.train.ppo", {"lam": 0.5, "gae": "walk"}))
    own = params.algorithm_of("arithmetic").config
    assert load_params().algorithm_of("arithmetic").config == params.ppo  # nothing changed there
    assert (own.lam, own.gae) == (0.5, "walk")
    assert own.model_copy(update={"lam": 0.95, "gae": "skip"}) == params.ppo
    with pytest.raises(
        PipelineError, match=r"arithmetic\.train\.ppo\.lam: .*less than or equal to 1, got 2"
    ):
        load_params(changed(tmp_path, "arithmetic.train.ppo", {"lam": 2}))
    with pytest.raises(PipelineError, match=r"arithmetic\.train\.ppo\.lamm: .* did you mean lam\?"):
        load_params(changed(tmp_path, "arithmetic.train.ppo", {"lamm": 2}))


def test_only_a_tasks_own_measures_can_be_paid_for(tmp_path):
    file = changed(tmp_path, "arithmetic.train.reward", "f1")
    with pytest.raises(PipelineError, match=r"arithmetic\.train\.reward: .*'f1'; there is right$"):
        load_params(file)


def test_the_algorithm_is_chosen_by_name(tmp_path):
    params = load_params(changed(tmp_path, "train.algorithm", "grpo"))
    algorithm = params.algorithm_of("trivia")
    assert isinstance(algorithm, GRPO)
    assert algorithm.config.learning_rate == 4e-5
    with pytest.raises(PipelineError, match="no algorithm 'dpo'; there is grpo, ppo, rloo"):
        load_params(changed(tmp_path, "train.algorithm", "dpo"))


def test_a_listed_task_needs_its_section(tmp_path):
    content = yaml.safe_load(Path("params.yaml").read_text())
    del content["arithmetic"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(PipelineError, match="arithmetic: the task has no section"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "not valid YAML"),
        ("", "key: value"),
        ("- a", "key: value"),
        ("a: 1\nb: 2\na: 3\n", r'a is there twice in "params\.yaml", line 3, column 1'),
        ("a: {b: 1,\n  b: 2}", r'b is there twice in "params\.yaml", line 2, column 3'),
    ],
)
def test_a_file_that_is_no_params(tmp_path, text, complaint):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(PipelineError, match=complaint):
        load_params(tmp_path / "params.yaml")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + Path("params.yaml").read_bytes())
    assert load_params(tmp_path / "params.yaml").model_dump() == load_params().model_dump()


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "params.yaml").write_bytes("# für alle\n".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"params\.yaml: not valid YAML: .*utf-8"):
        load_params(tmp_path / "params.yaml")


def test_no_file(tmp_path):
    with pytest.raises(PipelineError, match="No such file"):
        load_params(tmp_path / "params.yaml")
