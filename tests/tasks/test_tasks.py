"""What holds for every task there is."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tasks import load_task, task_names

SHARED = {"__init__", "errors", "files"}
"""What all code uses and dvc.yaml does not list."""

IMPORTED = """
import sys
import pipeline.environment, pipeline.tasks
before = set(sys.modules)
pipeline.tasks.load_task({name!r})
print(*(m.__file__ for n, m in sys.modules.items() if n.startswith("pipeline") and n not in before))
"""


@pytest.mark.parametrize("name", task_names())
def test_a_task_names_all_the_code_that_it_uses(name):
    command = [sys.executable, "-c", IMPORTED.format(name=name)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = [Path(place).resolve() for place in load_task(name).code]
    assert all(place.exists() for place in named)
    for file in map(Path, printed.split()):
        if file.stem not in SHARED and file.parent.name != "tasks":
            assert any(place in (file, file.parent) for place in named), file
