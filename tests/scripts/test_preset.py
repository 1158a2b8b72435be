"""Presets: parameters put into params.yaml, all or none."""

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.nested import flatten
from pipeline.params import load_params
from scripts.preset import PRESETS, apply

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / PRESETS).glob("*.yaml"))
SAYS = ("What:", "Hardware:", "Hours:", "Expected:", "Run:")
"""What each preset's head tells."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the project's params and presets, which is the current one meanwhile."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / PRESETS, tmp_path / PRESETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project, text):
    (project / PRESETS / "mine.yaml").write_text(text)
    return project / "params.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_fits_and_changes_something(project, name):
    changes = apply(name)
    now = flatten(yaml.safe_load((project / "params.yaml").read_text()))
    before = flatten(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert {key: now[key] for key in flatten(changes)} == flatten(changes)
    different = {key for key in now if now[key] != before.get(key)}
    assert set() < different <= set(changes)
    load_params()


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_says_what_it_takes(name):
    comments = "".join(
        line
        for line in (ROOT / PRESETS / f"{name}.yaml").read_text().splitlines(keepends=True)
        if line.startswith("#")
    )
    assert [word for word in SAYS if f"# {word}" not in comments] == []
    assert f"make repro PRESET={name}" in comments


def test_comments_and_all_else_stay(project):
    file = written(project, "trivia: {train: {steps: 7}}\nseeds: [3, 4]\n")
    before = file.read_text()
    apply("mine")
    after = file.read_text()
    assert after == before.replace("steps: 44", "steps: 7").replace(
        "seeds: [1]                # train", "seeds: [3, 4]             # train"
    )


def test_a_section_can_take_the_place_of_nothing(project):
    file = written(project, "gsm8k: {train: {grpo: {beta: 0.5}}}\n")
    apply("mine")
    assert load_params(file).task("gsm8k").train.grpo.beta == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trivia: {trian: {steps: 7}}", "trivia.trian: no such parameter; did you mean train?"),
        ("trivia: {train: {steps: few}}", "trivia.train.steps: "),
        ("{steps: 1, trian: 2}", "steps: no such parameter"),
        ("[1]", "expected `key: value` pairs"),
        ("a: [", "mine.yaml"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_changed(project, text, said):
    file = written(project, text)
    before = file.read_bytes()
    with pytest.raises(PipelineError) as error:
        apply("mine")
    assert str(PRESETS / "mine.yaml") in str(error.value)
    assert said in str(error.value)
    assert file.read_bytes() == before


def test_an_unknown_preset_is_told_which_there_are(project):
    written(project, "seeds: [3]")
    with pytest.raises(PipelineError, match=r"PRESET=other: .* there is .*mine"):
        apply("other")


def test_faults_of_the_params_are_not_said_to_be_the_presets(project):
    file = written(project, "seeds: [3]")
    file.write_text(file.read_text().replace("lam: 0.95", "lamb: 0.95"))
    with pytest.raises(PipelineError) as error:
        apply("mine")
    assert "mine.yaml" not in str(error.value)
