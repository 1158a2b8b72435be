import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from scripts import repro as module
from scripts.repro import fitting, read_graph, stages_after, to_run

ROOT = Path(__file__).parents[2]


def test_what_changed_is_run_with_all_that_comes_after_it():
    before = read_graph(
        'strict digraph {\n"a";\n"b@x-1";\n"s/dvc.yaml:c";\n"d";\n"a" -> "s/dvc.yaml:c";\n'
        '"b@x-1" -> "s/dvc.yaml:c";\n"s/dvc.yaml:c" -> "d";\n}\n'
    )
    assert before == {
        "a": set(),
        "b@x-1": set(),
        "s/dvc.yaml:c": {"a", "b@x-1"},
        "d": {"s/dvc.yaml:c"},
    }
    assert to_run(before, {"a"}) == {"a": set(), "s/dvc.yaml:c": {"a"}, "d": {"s/dvc.yaml:c"}}
    assert to_run(before, {"d"}) == {"d": set()}
    assert to_run(before, set()) == {}
    assert stages_after(before) == {"a": 2, "b@x-1": 2, "s/dvc.yaml:c": 1, "d": 0}
    assert stages_after({"d": {"c", "a"}, "c": {"b"}, "a": set(), "b": set()})["b"] == 2


def repro(project, jobs, target="dvc.yaml"):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "scripts.repro", target, str(jobs)],
        cwd=project,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )


def meet(own, other):
    """A command that ends well if another stage has begun before it ends."""
    wait = f"for i in $(seq 600); do test -e {other}-began && break; sleep 0.1; done"
    return f"touch {own}-began; {wait}; test -e {other}-began && echo {own} >> ran && echo > {own}"


def test_stages_run_side_by_side_and_a_failure_stops_only_what_needs_it(tmp_path):
    stages = {
        "a": {"cmd": meet("a", "b"), "outs": ["a"]},
        "b": {"cmd": meet("b", "a"), "outs": ["b"]},
        "both": {"cmd": "echo both >> ran && cat a b > both", "deps": ["a", "b"], "outs": ["both"]},
        "bad": {"cmd": "echo the reason; test -e mended && echo > bad", "outs": ["bad"]},
        "worse": {"cmd": "echo worse >> ran && cp bad worse", "deps": ["bad"], "outs": ["worse"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc = Path(sys.executable).parent / "dvc"
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)

    first = repro(tmp_path, jobs=2)
    assert first.returncode == 1
    assert "the reason" in first.stdout
    assert first.stderr == "error: failed, and what needs them was not run: bad\n"
    assert sorted((tmp_path / "ran").read_text().split()[:2]) == ["a", "b"]
    assert (tmp_path / "ran").read_text().split()[2:] == ["both"]

    (tmp_path / "mended").touch()
    second = repro(tmp_path, jobs=2)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tmp_path / "ran").read_text().split()[3:] == ["worse"]

    third = repro(tmp_path, jobs=2)
    assert third.returncode == 0
    assert third.stdout == "all is up to date\n"


def test_what_cannot_be_reproduced_is_told(tmp_path):
    assert "error: JOBS=-1: 1 or more" in repro(tmp_path, jobs=-1).stderr
    outside = repro(tmp_path, jobs=1)
    assert outside.returncode == 1
    assert outside.stderr.startswith("error: ")
    assert len(outside.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("gigabytes", "cores", "gpu", "jobs"),
    [
        (8, 8, None, 1),
        (25, 8, None, 2),
        (64, 8, None, 3),
        (64, 1, None, 1),
        (64, 8, 80, 6),
        (128, 16, 80, 8),
        (128, 4, 80, 4),
        (128, 16, 6, 1),
    ],
)
def test_as_many_stages_as_fit(monkeypatch, gigabytes, cores, gpu, jobs):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gigabytes * 1e9 / 4096)}
    monkeypatch.setattr(module.os, "sysconf", pages.get)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    of_the_gpu = SimpleNamespace(total_memory=(gpu or 0) * 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: of_the_gpu)
    monkeypatch.setattr(module.Path, "exists", lambda _: False)
    assert fitting() == jobs
