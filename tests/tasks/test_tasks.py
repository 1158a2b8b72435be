"""What holds for every task there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.tasks import load_task, task_names
from pipeline.workspace import RESOURCES, read_resources

ROOT = Path(__file__).parents[2]

PROBLEMS = """
import json
from pipeline.params import load_params
from pipeline.tasks import load_task
print(json.dumps(load_task({name!r}).problems(load_params().task({name!r}).data)))
"""


@pytest.mark.parametrize("name", ["arithmetic", "trivia", "word_problems"])
def test_problems_are_the_same_in_every_process(name):
    printed = [
        subprocess.run(
            [sys.executable, "-c", PROBLEMS.format(name=name)],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0]) > 1000


def test_there_is_a_section_for_every_task():
    params = load_params(ROOT / "params.yaml")
    for name in task_names():
        assert load_task(name).name == name
        assert isinstance(params.task(name).data, load_task(name).Data)


@pytest.mark.parametrize("name", task_names())
def test_the_resources_that_a_task_needs_are_made_by_a_stage(name):
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for resource in load_task(name).resources:
        record, stage, _ = RESOURCES[resource]
        assert str(record) in [path for out in stages[stage]["outs"] for path in out]
        assert str(record) in stages["demonstrate"]["deps"]


def test_a_resource_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_resources([]) == {}
    with pytest.raises(
        PipelineError, match=r"index\.json does not exist yet: run `dvc repro build_index`"
    ):
        read_resources(["index"])
