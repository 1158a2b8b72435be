"""What the stages of dvc.yaml and studies/dvc.yaml depend on, held to what their scripts import."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.dependencies import SHARED, sources
from pipeline.tasks import task_names

ROOT = Path(__file__).parents[1]
FILES = ("dvc.yaml", "studies/dvc.yaml")
CODE = ("pipeline", "stages", "scripts")


def read(file):
    return YAML(typ="safe").load(ROOT / file)


DEFAULT = read("params.yaml")["train"]["algorithm"]
ALGORITHMS = {
    "dvc.yaml": {DEFAULT},
    "studies/dvc.yaml": {
        changes.get("train.algorithm", DEFAULT) for changes in read("studies/arms.yaml").values()
    },
}
"""By which algorithms the trainings of a file's stages learn."""

STAGES = [
    pytest.param(
        stage["cmd"].split()[2],
        [dep.replace("${train.algorithm}", DEFAULT) for dep in stage["deps"]],
        ALGORITHMS[file],
        id=f"{file}:{name}",
    )
    for file in FILES
    for name, stage in read(file)["stages"].items()
]
"""The module and the deps of each stage, and the algorithms."""


def used(module, deps, algorithms):
    """The files of the project that a stage runs."""
    files = set(sources(module, ROOT))
    # Tasks and algorithms are loaded by name. A task's own files are in the hashes of its setup, and what
    # has been played with that depends on them already.
    if ROOT / "pipeline/algorithms/__init__.py" in files:
        for name in algorithms:
            files |= set(sources(f"pipeline.algorithms.{name}", ROOT))
    hashed = any(dep.startswith(("data/setup", "studies/runs")) for dep in deps)
    if ROOT / "pipeline/tasks/__init__.py" in files and not hashed:
        for name in task_names():
            files |= set(sources(f"pipeline.tasks.{name}", ROOT))
    return files


@pytest.mark.parametrize(("module", "deps", "algorithms"), STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(module, deps, algorithms):
    files = used(module, deps, algorithms)
    places = [ROOT / dep for dep in deps if dep.split("/")[0] in CODE]
    forgotten = [f for f in files if not any(f.is_relative_to(place) for place in places)]
    needless = [p for p in places if not any(f.is_relative_to(p) for f in files)]
    assert sorted(str(f.relative_to(ROOT)) for f in forgotten) == []
    assert sorted(str(p.relative_to(ROOT)) for p in needless) == []


@pytest.mark.parametrize("deps", [pytest.param(p.values[1], id=p.id) for p in STAGES])
def test_no_dep_lies_in_another(deps):
    assert len(set(deps)) == len(deps)
    for dep in deps:
        assert not [other for other in deps if other != dep and Path(dep).is_relative_to(other)]


def test_the_head_of_the_file_names_what_no_stage_lists():
    head = (ROOT / "dvc.yaml").read_text().partition("stages:\n")[0]
    for file in SHARED:
        assert file in head
        assert (ROOT / file).is_file()
