"""`dvc repro` for what has changed, several stages at a time; DVC itself runs one after the other.

Not a stage: `make repro JOBS=3`, `make studies JOBS=2`. Each stage runs by `dvc repro --single-item` as
soon as those before it are done, so DVC keeps its records as ever.
"""

import json
import os
import re
import subprocess
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter

from pipeline.errors import PipelineError
from stages.common import run_stage


def main(target: str, jobs: int) -> None:
    """Reproduces the target, a stage or a dvc.yaml, with up to so many stages at a time."""
    if jobs < 1:
        raise PipelineError(f"JOBS={jobs}: at least one stage must run at a time")
    before = read_graph(_dvc("dag", "--dot", target))
    changed = json.loads(_dvc("status", "--json", "--with-deps", target))
    affected = to_run(before, set(changed))
    if not affected:
        print("all is up to date")
    todo = TopologicalSorter(affected)
    todo.prepare()
    failed = []
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[str | None], str] = {}
        while True:
            for stage in todo.get_ready():
                running[pool.submit(_run, stage, environment)] = stage
            if not running:  # the end, or all others wait for one that failed
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                stage, output = running.pop(done), done.result()
                if output is None:
                    todo.done(stage)
                else:
                    print(output)
                    failed.append(stage)
    if failed:
        raise PipelineError(f"failed, and what needs them was not run: {', '.join(failed)}")


def read_graph(dot: str) -> dict[str, set[str]]:
    """Each stage's direct predecessors, in the order and by the names of `dvc dag --dot`."""
    before: dict[str, set[str]] = {}
    for first, second in re.findall(r'^"(.+?)"(?: -> "(.+?)")?;$', dot, re.MULTILINE):
        if second:
            before[second].add(first)
        else:
            before[first] = set()
    return before


def to_run(before: dict[str, set[str]], changed: set[str]) -> dict[str, set[str]]:
    """The part of a graph that is changed or comes after what is."""
    affected: dict[str, set[str]] = {}
    for stage in TopologicalSorter(before).static_order():
        if stage in changed or before[stage] & affected.keys():
            affected[stage] = before[stage] & affected.keys()
    return affected


def _run(stage: str, environment: dict[str, str]) -> str | None:
    """Runs one stage. Returns what it printed if it failed."""
    print(f"{time.strftime('%H:%M:%S')} {stage} ...", flush=True)
    # Others hold DVC's lock for moments only, when they read and write its records.
    started = time.monotonic()
    ended = subprocess.run(
        ["dvc", "--wait-for-lock", "repro", "--single-item", stage],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    result = "failed" if ended.returncode else "done"
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{time.strftime('%H:%M:%S')} {stage} {result}, {minutes} min {seconds} s", flush=True)
    return ended.stdout if ended.returncode else None


def _dvc(*arguments: str) -> str:
    ended = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
    if ended.returncode:
        raise PipelineError(ended.stderr.strip().removeprefix("ERROR: "))
    return ended.stdout


if __name__ == "__main__":
    run_stage(main, target=str, jobs=int)
