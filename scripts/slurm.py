"""`dvc repro` of what has changed, by jobs of a Slurm cluster: `make repro LAUNCHER=slurm`.

Not a stage. Each stage is a job, which runs scripts/slurm.sbatch in this folder, on any node that sees it.
Slurm holds it until the jobs of the stages before it have ended well. This program submits them and
watches. If it ends, they go on; only Ctrl-C cancels them.
"""

import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.lifetime import only_one
from pipeline.workspace import lock_path
from scripts.repro import RUN, Graph, conclude, ended, outdated
from stages.common import run_script

TEMPLATE = Path("scripts/slurm.sbatch")
"""What each job runs, with the resources that it asks for."""

LOGS = Path("logs/slurm")

MARK = "#STAGE"
"""How a line of the template begins that is for some stages only."""

EVERY = 10.0
"""Seconds between two looks at the queue, which many share; it remembers ended jobs for minutes."""

ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
"""The states of jobs that will not run again by themselves."""


@dataclass(frozen=True)
class Job:
    """A job as the queue tells of it."""

    state: str
    reason: str  # why it waits, or "None"
    elapsed: str
    nodes: str


FORGOTTEN = Job("UNKNOWN", "", "", "")
"""One that the queue no longer tells of: it has ended, and nobody saw how."""


def main(target: str) -> None:
    """Reproduces the target, a stage or a dvc.yaml, by jobs of Slurm; ends when they have."""
    for program in ("sbatch", "scancel", "squeue"):
        if shutil.which(program) is None:
            raise PipelineError(
                f"{program}: no such program on this machine; LAUNCHER=slurm has to be run where Slurm "
                "takes jobs, such as a cluster's login node"
            )
    with only_one(lock_path("repro"), RUN):
        _reproduce(target)


def _reproduce(target: str) -> None:
    if there := list(_queue()):
        raise PipelineError(
            f"jobs of this folder are in the queue already ({', '.join(there)}): wait until they have "
            f"ended, or cancel them: scancel {' '.join(there)}"
        )
    graph = outdated(target)
    if not graph:
        print("all is up to date")
        return
    template = TEMPLATE.read_text(encoding="utf-8")
    options = {stage: options_of(stage, template) for stage in graph}
    try:
        jobs: dict[str, str] = {}
        for stage in TopologicalSorter(graph).static_order():
            jobs[stage] = _submit(stage, options[stage], [jobs[before] for before in graph[stage]])
        last = _watch(jobs)
    except (KeyboardInterrupt, PipelineError):  # Ctrl-C, or a job that Slurm does not take
        if going := list(_queue()):
            subprocess.run(["scancel", *going])
            print(f"cancelled: {', '.join(going)}")
        raise
    conclude([f"{stage} (see {log_of(stage)})" for stage in failures(graph, last)])


def options_of(stage: str, template: str) -> list[str]:
    """The options of sbatch that the template's lines of `MARK` have for a stage.

    Raises PipelineError for such a line without names or a colon.
    """
    options = []
    for number, line in enumerate(template.splitlines(), start=1):
        if not line.startswith(MARK):
            continue
        names, colon, rest = line.removeprefix(MARK).partition(":")
        if not colon or not names.split():
            raise PipelineError(
                f"{TEMPLATE}, line {number}: {line!r} should be like "
                f"'{MARK} train@* report: --mem=16G --time=4:00:00'"
            )
        if any(fnmatchcase(stage.rpartition(":")[2], name) for name in names.split()):
            options += shlex.split(rest)
    return options


def log_of(stage: str) -> Path:
    """Where what a stage prints goes."""
    return LOGS / f"{stage.replace('/dvc.yaml:', '/')}.out"


def failures(graph: Graph, last: Mapping[str, Job]) -> list[str]:
    """The stages whose jobs were run, or could have been, and did not end well."""
    wrong = {stage for stage, job in last.items() if job.state != "COMPLETED"}
    return [stage for stage in graph if stage in wrong and not graph[stage] & wrong]


def _submit(stage: str, options: list[str], after: list[str]) -> str:
    """The number of the job that runs the stage when others have ended well."""
    log = log_of(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    if after:
        options = [*options, f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    names = [f"--job-name={stage}", f"--comment={_comment()}", f"--output={log}"]
    answer = subprocess.run(
        ["sbatch", "--parsable", *options, *names, str(TEMPLATE), stage],
        capture_output=True,
        text=True,
        start_new_session=True,  # Ctrl-C leaves no job of which nobody knows
    )
    if answer.returncode:
        reason = " ".join(answer.stderr.split())
        raise PipelineError(f"{stage}: Slurm does not take the job ({TEMPLATE}): {reason}")
    return answer.stdout.strip().partition(";")[0]


def _watch(jobs: Mapping[str, str]) -> dict[str, Job]:
    """Shows the jobs of the stages, by number, until all have ended. Returns how each has."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    going: dict[str, Job] = dict.fromkeys(jobs, Job("PENDING", "", "", ""))
    last: dict[str, Job] = {}
    complaint = ""
    with Live(console=console, get_renderable=lambda: table(going), transient=True):
        while going:
            try:
                queue = _queue("--states=all")
            except PipelineError as error:  # Slurm is restarted, say; the jobs go on
                if str(error) != complaint:
                    complaint = str(error)
                    console.print(complaint)
                time.sleep(EVERY)
                continue
            for stage in list(going):
                job = queue.get(jobs[stage], FORGOTTEN)
                going[stage] = job
                if job.state in ENDED or job is FORGOTTEN:
                    last[stage] = going.pop(stage)
                    result = "done" if job.state == "COMPLETED" else job.state.lower()
                    console.print(ended(stage, result, job.elapsed))
            if going:
                time.sleep(EVERY)
    return last


def table(jobs: Mapping[str, Job]) -> Table:
    """Stages, the states of their jobs, since when they run, and where, or why they do not."""
    rows = Table.grid(padding=(0, 2))
    for _ in range(4):
        rows.add_column(no_wrap=True, overflow="ellipsis")
    for stage, job in list(jobs.items()):
        rows.add_row(stage, job.state.lower(), job.elapsed, job.nodes or job.reason)
    return rows


def _comment() -> str:
    """What tells this folder's jobs from others."""
    return f"learning-tools {Path.cwd()}"


def _queue(*options: str) -> dict[str, Job]:
    """This folder's jobs by their numbers; by default those that wait or run."""
    answer = subprocess.run(
        ["squeue", "--noheader", "--sort=i", "--format=%i|%T|%r|%M|%N|%k", *options],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise PipelineError(f"Slurm does not answer: {' '.join(answer.stderr.split())}")
    return read_queue(answer.stdout, _comment())


def read_queue(lines: str, comment: str) -> dict[str, Job]:
    """The jobs with a comment, by their numbers, from lines of number|state|reason|time|nodes|comment."""
    jobs = {}
    for line in lines.splitlines():
        number, state, reason, elapsed, nodes, its = line.split("|", 5)
        if its == comment:
            jobs[number] = Job(state, reason, elapsed, nodes)
    return jobs


if __name__ == "__main__":
    run_script(main, target=str)
