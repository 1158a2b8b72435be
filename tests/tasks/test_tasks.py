"""What holds for every task there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.tasks import load_task, task_names

ROOT = Path(__file__).parents[2]

SHARED = {"__init__", "errors", "files"}
"""What all code uses and dvc.yaml does not list."""

IMPORTED = """
import sys
import pipeline.environment, pipeline.tasks
before = set(sys.modules)
pipeline.tasks.load_task({name!r})
print(*(m.__file__ for n, m in sys.modules.items() if n.startswith("pipeline") and n not in before))
"""


PROBLEMS = """
import json
from pipeline.params import load_params
from pipeline.tasks import load_task
print(json.dumps(load_task({name!r}).problems(load_params().task({name!r}).data)))
"""


@pytest.mark.parametrize("name", task_names())
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


@pytest.mark.parametrize("name", task_names())
def test_a_task_names_all_the_code_that_it_uses(name):
    command = [sys.executable, "-c", IMPORTED.format(name=name)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = [Path(place).resolve() for place in load_task(name).code]
    assert all(place.exists() for place in named)
    for file in map(Path, printed.split()):
        if file.stem not in SHARED and file.parent.name != "tasks":
            assert any(place in (file, file.parent) for place in named), file


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("stage", ["prepare", "demonstrate"])
def test_the_stages_that_a_task_is_made_by_depend_on_its_code(name, stage):
    """Otherwise a change there would be no change to DVC, and the hashes stay as they are."""
    watched = [ROOT / path for path in YAML().load(ROOT / "dvc.yaml")["stages"][stage]["deps"]]
    for place in load_task(name).code:
        assert any((ROOT / place).is_relative_to(path) for path in watched), place
