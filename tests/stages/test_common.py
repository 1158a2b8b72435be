import os
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.errors import PipelineError
from pipeline.files import read_jsonl
from pipeline.workspace import write_jsonl
from stages.common import code, outputs, run_stage
from tests.project_copy import ROOT


def test_every_character_survives_writing_and_reading(tmp_path):
    rows = [{"text": "a\u2028b\x85c\x1cd\re\nf 🚁"}, {"text": "g"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl", dict[str, str], "prepare") == rows


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file", "a.txt"), "error: a.txt: No such file"),
        (OSError("out of order"), "error: out of order"),
    ],
)
def test_what_the_system_refused_is_told_in_a_line(monkeypatch, tmp_path, error, told):
    def main():
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit, match=told):
        run_stage(main)


def test_outputs_of_what_has_changed_meanwhile_are_not_put_in_place(tmp_path):
    out, params = tmp_path / "out", {"ppo": {"lam": 0.9}, "seed": 1}
    out.write_text("old")

    def stage():
        with outputs(out, inputs=lambda: params) as (beside,):
            beside.write_text("new")
            params["ppo"] = {"lam": 1.0}

    with pytest.raises(PipelineError, match=r"^ppo\.lam changed while the stage ran"):
        stage()
    assert out.read_text() == "old"
    with outputs(out, inputs=lambda: params) as (beside,):
        beside.write_text("new")
    assert out.read_text() == "new"


def test_a_stage_that_has_outlived_its_parent_overwrites_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.write_text("old")
    dead = subprocess.Popen(["true"])
    monkeypatch.setattr("stages.parents._found", [psutil.Process(dead.pid)])
    dead.wait()

    def stage():
        with outputs(out, inputs=dict) as (beside,):
            beside.write_text("new")

    with pytest.raises(SystemExit):
        stage()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("variable", ["DVC_STAGE", "LEARNING_TOOLS_PARENT"])
def test_a_stage_whose_parent_ends_while_it_imports_stops(variable, tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(100)\n")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, subprocess, sys, time\nos.environ[{variable!r}] = str(os.getpid())\n"
            "subprocess.Popen([sys.executable, '-m', 'stages.train', 'arithmetic', '1'])\n"
            "time.sleep(100)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    begun = time.monotonic()
    assert parent.stdout.read() == ""  # until all that hold the pipe have ended
    assert time.monotonic() - begun < 30


def test_temporary_files_of_a_killed_stage_are_removed_by_the_next(tmp_path):
    code = """
import os, subprocess, sys, tempfile
from stages.common import code, outputs, run_stage
from tests.project_copy import ROOT
def main() -> None:
    folder = tempfile.mkdtemp()
    subprocess.run(["python3", "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
    print(len(os.listdir(os.path.dirname(folder))), flush=True)
    if os.environ["END"] == "killed":
        os.kill(os.getpid(), 9)
run_stage(main)
"""
    (tmp_path / "tmp").mkdir()
    for end in ("killed", "killed", "well"):
        stage = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT), "END": end},
            capture_output=True,
            text=True,
        )
        assert stage.stdout == "2\n", stage.stderr
        left = list((tmp_path / "tmp").iterdir())
        assert len(left) == (end == "killed")


def test_the_code_of_a_stage_has_its_task_and_its_algorithm(monkeypatch):
    monkeypatch.setattr("stages.common._module", lambda: "stages.train")
    monkeypatch.setattr("stages.common._arguments", ["word_problems", "1"])
    files = code({"ppo": {}, "seed": 1}).keys()
    assert {"pipeline/algorithms/ppo/advantages.py", "pipeline/tasks/word_problems/stories.py", "pipeline/tools/python.py"} <= files  # fmt: skip
    assert not any("grpo" in file or "trivia" in file for file in files)
