"""`make repro LAUNCHER=slurm`; the jobs on a real Slurm, where one is installed (`slurm-wlm` and `munge` of Debian)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.errors import PipelineError
from scripts.repro import read_graph
from scripts.slurm import TEMPLATE, Job, failures, log_of, options_of, read_queue
from tests import slurm
from tests.kills import ENVIRONMENT, STAGE, forget, litter, make_project, outcome, reproduce

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
RUN_MODELS = ("stages.train ", "stages.evaluate ", "stages.warm_start ", "stages.run_arm ")


def test_options_of_a_stage_are_those_of_all_lines_that_name_it():
    template = (
        "#!/bin/bash\n#SBATCH --time=1\n#STAGE *: --mem=1G --comment='a b'\n"
        "#STAGE train@* b: --mem=2G\n# of a #STAGE\n"
    )
    assert options_of("train@a-1", template) == ["--mem=1G", "--comment=a b", "--mem=2G"]
    assert options_of("studies/dvc.yaml:b", template) == ["--mem=1G", "--comment=a b", "--mem=2G"]
    assert options_of("training", template) == ["--mem=1G", "--comment=a b"]


@pytest.mark.parametrize("line", ["#STAGE train@* --mem=2G", "#STAGE: --mem=2G", "#STAGE"])
def test_a_line_for_no_stage_is_told(line):
    with pytest.raises(
        PipelineError, match=f"{TEMPLATE}, line 2: '{line.replace('*', '.')}' should"
    ):
        options_of("train", f"#!/bin/bash\n{line}\n")


@pytest.mark.parametrize("file", ["dvc.yaml", "studies/dvc.yaml"])
def test_the_template_asks_for_a_gpu_where_a_model_runs(file):
    template = (ROOT / TEMPLATE).read_text()
    stages = yaml.safe_load((ROOT / file).read_text())["stages"]
    prefix = "" if file == "dvc.yaml" else f"{file}:"
    for name, stage in stages.items():
        full = f"{prefix}{name}@x-1" if "matrix" in stage else f"{prefix}{name}"
        wants = "--gres=gpu:1" in options_of(full, template)
        assert wants == any(part in stage["cmd"] for part in RUN_MODELS), full


def test_a_log_is_of_one_stage():
    assert log_of("train@a-1") == Path("logs/slurm/train@a-1.out")
    assert log_of("studies/dvc.yaml:report") == Path("logs/slurm/studies/report.out")


def test_the_queue_is_read_for_one_folder_only():
    lines = "7|PENDING|Dependency|0:00||mine /a b|c\n8|RUNNING|None|1-02:03:04|n[1-2]|mine /a\n"
    assert read_queue(lines, "mine /a b|c") == {"7": Job("PENDING", "Dependency", "0:00", "")}
    assert read_queue(lines, "mine /a") == {"8": Job("RUNNING", "None", "1-02:03:04", "n[1-2]")}


def test_what_waited_for_a_failed_stage_has_not_failed():
    graph = read_graph('"a";\n"b";\n"c";\n"d";\n"e";\n"a" -> "b";\n"b" -> "c";\n"d" -> "e";\n')
    states = {"a": "TIMEOUT", "b": "CANCELLED", "c": "CANCELLED", "d": "COMPLETED", "e": "UNKNOWN"}
    assert failures(graph, {stage: Job(s, "", "", "") for stage, s in states.items()}) == ["a", "e"]


def test_without_slurm_the_launcher_says_so(tmp_path):
    ended = launch(tmp_path, {"PATH": str(tmp_path)}).communicate()[0]
    assert ended.startswith("error: sbatch: no such program on this machine; LAUNCHER=slurm has to")
    assert len(ended.splitlines()) == 1


def test_make_knows_its_launchers():
    def make(launcher):
        command = ["make", "--dry-run", "studies", f"LAUNCHER={launcher}", "JOBS=3"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert "python -m scripts.slurm studies/dvc.yaml\n" in make("slurm").stdout
    assert "python -m scripts.repro studies/dvc.yaml 3\n" in make("local").stdout
    assert "LAUNCHER=pigeon: there is local and slurm." in make("pigeon").stderr


needs_slurm = pytest.mark.skipif(
    bool(slurm.missing()),
    reason=f"no Slurm: {', '.join(slurm.missing())} not found (Debian: slurm-wlm, munge)",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


LAUNCH = "from scripts import slurm; slurm.EVERY = 0.5; slurm.run_script(slurm.main, target=str)"
"""As `python -m scripts.slurm`, but for a queue of its own."""


LAUNCHERS = []


@pytest.fixture(autouse=True)
def no_launcher_outlives_its_test():
    yield
    while LAUNCHERS:
        LAUNCHERS.pop().kill()


def launch(project, variables, target="dvc.yaml"):
    path = f"{Path(sys.executable).parent}:{variables['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, target],
        cwd=project,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)} | variables | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    LAUNCHERS.append(process)
    return process


def launched(project, variables, target="dvc.yaml"):
    """The exit status, and what was printed."""
    process = launch(project, variables, target)
    printed = process.communicate()[0]
    return process.returncode, printed


def ask(variables, *command):
    environment = os.environ | variables
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def numbers(project, variables):
    """The folder's jobs in the queue, by their stages."""
    lines = ask(variables, "squeue", "--noheader", "--format=%j %i %Z").splitlines()
    jobs = [line.split(maxsplit=2) for line in lines]
    return {stage: number for stage, number, folder in jobs if folder == str(project)}


def until(condition, seconds=60):
    """Waits until it holds; returns what it is."""
    latest = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < latest
        time.sleep(0.05)
    return value


def make_graph(folder, stages):
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / TEMPLATE, folder / "scripts")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc = Path(sys.executable).parent / "dvc"
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)


@needs_slurm
def test_each_stage_is_a_job_and_a_failure_stops_only_what_needs_it(tmp_path, cluster):
    ran = "echo $SLURM_JOB_NAME >> ran"
    make_graph(
        tmp_path,
        {
            "fetch": {"cmd": f"{ran} && echo > model", "outs": ["model"]},
            "train": {
                "matrix": {"task": ["a", "b", "c"]},
                "cmd": f"echo the ${{item.task}} reason; {ran} && "
                "{ test ${item.task} != b || test -e mended; } && cp model ${item.task}",
                "deps": ["model"],
                "outs": ["${item.task}"],
            },
            "label": {"cmd": f"{ran} && cat a c > labels", "deps": ["a", "c"], "outs": ["labels"]},
            "report": {
                "cmd": f"{ran} && cat b labels > report",
                "deps": ["b", "labels"],
                "outs": ["report"],
            },
        },
    )

    status, printed = launched(tmp_path, cluster)
    assert status == 1
    assert printed.splitlines()[-1] == (
        "error: failed, and what needs them was not run: train@b (see logs/slurm/train@b.out)"
    )
    for line in ("fetch done, 0:", "label done, 0:", "train@b failed, 0:", "report cancelled, 0:"):
        assert line in printed
    assert "the b reason" in (tmp_path / "logs/slurm/train@b.out").read_text()
    began = (tmp_path / "ran").read_text().split()
    assert began[0] == "fetch"
    assert sorted(began[1:4]) == ["train@a", "train@b", "train@c"] or "label" in began[1:4]
    assert sorted(began) == ["fetch", "label", "train@a", "train@b", "train@c"]

    (tmp_path / "mended").touch()
    status, printed = launched(tmp_path, cluster)
    assert status == 0, printed
    assert (tmp_path / "ran").read_text().split()[5:] == ["train@b", "report"]
    assert launched(tmp_path, cluster) == (0, "all is up to date\n")


@needs_slurm
def test_jobs_outlive_the_launcher_unless_it_is_interrupted(tmp_path, cluster):
    wait = "touch began; for i in $(seq 3000); do test -e go && break; sleep 0.1; done; echo > slow"
    make_graph(
        tmp_path,
        {
            "slow": {"cmd": wait, "outs": ["slow"]},
            "last": {"cmd": "cp slow last", "deps": ["slow"], "outs": ["last"]},
        },
    )

    first = launch(tmp_path, cluster)
    until((tmp_path / "began").exists)
    assert f"is running already (process {first.pid}, " in launched(tmp_path, cluster)[1]
    jobs = numbers(tmp_path, cluster)
    assert sorted(jobs) == ["last", "slow"]

    first.send_signal(signal.SIGINT)
    printed = first.communicate()[0]
    assert first.returncode == 130
    assert f"cancelled: {jobs['slow']}, {jobs['last']}" in printed
    until(lambda: not numbers(tmp_path, cluster))
    assert not (tmp_path / "slow").exists()
    (tmp_path / "began").unlink()

    second = launch(tmp_path, cluster)
    until(lambda: (tmp_path / "began").exists() or second.poll() is not None)
    assert second.poll() is None, second.stdout.read()
    second.terminate()
    assert second.wait(60) == 128 + signal.SIGTERM
    jobs = numbers(tmp_path, cluster)
    status, printed = launched(tmp_path, cluster)
    assert status == 1
    assert printed.startswith("error: jobs of this folder are in the queue already (")
    assert printed.endswith(f"or cancel them: scancel {jobs['slow']} {jobs['last']}\n")
    (tmp_path / "go").touch()
    until(lambda: not numbers(tmp_path, cluster))
    assert (tmp_path / "last").exists()


@needs_slurm
def test_a_job_that_slurm_does_not_take_is_told_and_those_before_it_are_cancelled(
    tmp_path, cluster
):
    make_graph(
        tmp_path,
        {
            "a": {"cmd": "echo > a", "outs": ["a"]},
            "b": {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]},
        },
    )
    template = tmp_path / TEMPLATE
    template.write_text(template.read_text() + "#STAGE a: --hold\n#STAGE b: --partition=none\n")
    status, printed = launched(tmp_path, cluster)
    assert status == 1
    assert printed.splitlines()[-1].startswith(
        f"error: b: Slurm does not take the job ({TEMPLATE}): sbatch: error: invalid partition"
    )
    assert not numbers(tmp_path, cluster)


@needs_slurm
def test_a_training_that_is_stopped_in_every_way_ends_with_the_same_bytes(tmp_path, cluster):
    project = tmp_path / "project"
    make_project(project, steps=30)
    assert reproduce(project).returncode == 0
    expected = outcome(project)
    forget(project)
    log = project / log_of(STAGE)
    first = launch(project, cluster, STAGE)

    # Another job takes the node; Slurm starts this one again.
    stage = halted(project)
    urgent = ["--partition=urgent", "--exclusive", "--output=none", "--wrap=true"]
    ask(cluster, "sbatch", f"--chdir={tmp_path}", "--wait", *urgent)

    # The time limit is near.
    stage = halted(project, stage)
    ask(cluster, "scancel", "--batch", "--signal=USR1", numbers(project, cluster)[STAGE])
    stage.resume()

    # Somebody wants it started again.
    stage = halted(project, stage)
    ask(cluster, "scontrol", "requeue", numbers(project, cluster)[STAGE])

    # Somebody cancels it.
    halted(project, stage)
    ask(cluster, "scancel", numbers(project, cluster)[STAGE])
    printed = first.communicate()[0]
    assert f"{STAGE} cancelled, " in printed
    assert f"was not run: {STAGE} (see {log_of(STAGE)})" in printed
    assert log.read_text().count("going on from data/snapshots/") == 3
    until(lambda: not numbers(project, cluster))
    # DVC has given back its locks: elsewhere nobody can tell whether its process lives.
    assert not any(json.loads((project / ".dvc/tmp/rwlock").read_text()).values())

    status, printed = launched(project, cluster, STAGE)
    assert status == 0, printed + log.read_text()
    assert log.read_text().count("going on from data/snapshots/") == 1
    assert outcome(project) == expected
    assert litter(project) == []


def halted(project, earlier=None):
    """The project's training after an earlier one, halted as soon as it has saved a state of its own."""
    if earlier:
        earlier.wait(60)
    state = project / "data/snapshots/train-arithmetic-1.pt"

    def modified():
        return state.stat().st_mtime_ns if state.exists() else None

    stage = until(lambda: training_in(project))
    before = modified()
    until(lambda: modified() != before)
    stage.suspend()
    return stage


def training_in(project):
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if "stages.train" in command and process.info["cwd"] == str(project):
            return process
    return None
