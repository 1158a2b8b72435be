"""`dvc repro` of what has changed, several stages at a time; DVC itself runs one after the other.

Not a stage: `make repro`, `make studies`. Each stage runs by `dvc repro --single-item` as soon as those
before it are done, so DVC keeps its records as ever.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.lifetime import only_one
from pipeline.snapshot import clear_finished
from pipeline.workspace import SNAPSHOTS, lock_path
from stages.common import run_script
from stages.parents import PARENT

Graph = dict[str, set[str]]
"""Each stage's direct predecessors."""

RUN = "`make repro` or `make studies`"
"""What only one process does at a time in a folder."""


def main(target: str, jobs: int) -> None:
    """Reproduces the target, a stage or a dvc.yaml, with up to so many stages at a time; 0: `fitting`."""
    if jobs < 0:
        raise PipelineError(f"JOBS={jobs}: 1 or more stages can run at a time; 0 for what fits")
    with only_one(lock_path("repro"), RUN):
        _reproduce(target, jobs or fitting())


def _reproduce(target: str, jobs: int) -> None:
    graph = outdated(target)
    if not graph:
        print("all is up to date")
        return
    after = stages_after(graph)
    todo = TopologicalSorter(graph)
    todo.prepare()
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, PARENT: str(os.getpid())}
    console = Console(highlight=False, markup=False, soft_wrap=True)
    stages = Stages(environment, console)
    ready: list[str] = []
    failed = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        Live(console=console, get_renderable=stages.table, transient=True),
        stages.stopped_with_this(),
    ):
        running: dict[Future[list[str] | None], str] = {}
        while True:
            # Long chains first: what is short can fill the gaps at the end.
            ready = sorted([*ready, *todo.get_ready()], key=lambda stage: -after[stage])
            while ready and len(running) < jobs:
                stage = ready.pop(0)
                running[pool.submit(stages.run, stage)] = stage
            if not running:  # the end, or all others wait for one that failed
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                stage, output = running.pop(done), done.result()
                if output is None:
                    todo.done(stage)
                else:
                    console.print(*output, sep="")
                    failed.append(stage)
    conclude(failed)


def conclude(failed: Sequence[str]) -> None:
    """Tells of the stages that failed; where none did, all runs are on DVC's record: their states go."""
    if failed:
        raise PipelineError(f"failed, and what needs them was not run: {', '.join(failed)}")
    clear_finished(SNAPSHOTS, since=time.time())


MEMORY = 10e9
"""Bytes that the largest stage takes with the default model, and some to spare; also of a GPU's memory."""


def fitting() -> int:
    """How many stages cores and memory hold; without a GPU up to 3, as many as there are tasks.

    Launching a small model's kernels takes longer than the kernels: eight trainings side by side each
    decoded and learned as fast on an H200 as one alone.
    """
    import torch  # takes seconds, and is not needed where JOBS is given

    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    most = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        sizes.append(torch.cuda.get_device_properties(0).total_memory)
    else:
        most = min(most, 3)
    # A container's share, by the kernel's second or first kind of control groups.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = Path("/sys/fs/cgroup") / name
        if file.exists() and (limit := file.read_text().strip()).isdigit():
            sizes.append(int(limit))
    return max(1, min(most, int(min(sizes) / MEMORY)))


def outdated(target: str) -> Graph:
    """The stages that have to run to reproduce the target, a stage or a dvc.yaml."""
    changed = json.loads(_dvc("status", "--json", "--with-deps", target))
    return to_run(read_graph(_dvc("dag", "--dot", target)), set(changed))


def read_graph(dot: str) -> Graph:
    """The stages by the names, and in the order, of `dvc dag --dot`."""
    before: Graph = {}
    for first, second in re.findall(r'^"(.+?)"(?: -> "(.+?)")?;$', dot, re.MULTILINE):
        if second:
            before[second].add(first)
        else:
            before[first] = set()
    return before


def to_run(before: Graph, changed: set[str]) -> Graph:
    """The part of a graph that is changed or comes after what is."""
    affected: Graph = {}
    for stage in TopologicalSorter(before).static_order():
        earlier = before[stage] & affected.keys()
        if stage in changed or earlier:
            affected[stage] = earlier
    return affected


def stages_after(before: Graph) -> dict[str, int]:
    """How many stages the longest chain has that follows each."""
    after = dict.fromkeys(before, 0)
    for stage in reversed(list(TopologicalSorter(before).static_order())):
        for earlier in before[stage]:
            after[earlier] = max(after[earlier], after[stage] + 1)
    return after


def ended(stage: str, result: str, took: str) -> str:
    """What is told when a stage has ended."""
    return f"{time.strftime('%H:%M:%S')} {stage} {result}, {took}"


LINES = 40
"""How much of what a stage printed is shown if it failed."""


class Stages:
    """The stages that are running.

    Args:
        environment: their environment variables.
        console: where the end of each is told.
    """

    def __init__(self, environment: Mapping[str, str], console: Console) -> None:
        self.environment = environment
        self.console = console
        self._said: dict[str, str] = {}  # the last line of each
        self._processes: list[subprocess.Popen[str]] = []
        self._stopping = False

    def run(self, stage: str) -> list[str] | None:
        """Runs one stage. Returns the last lines that it printed if it failed."""
        self._said[stage] = ""
        started = time.monotonic()
        lines: deque[str] = deque(maxlen=LINES)
        # Others hold DVC's lock for moments only, when they read and write its records.
        with subprocess.Popen(
            ["dvc", "--wait-for-lock", "repro", "--single-item", stage],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it by `stopped_with_this` only, and once
        ) as process:
            self._processes.append(process)
            if self._stopping:
                self._stop(process)
            for line in process.stdout or ():  # a progress bar's "\r" ends a line, too
                lines.append(line)
                self._said[stage] = line.strip() or self._said[stage]
        self._processes.remove(process)
        del self._said[stage]
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        result = "failed" if process.returncode else "done"
        self.console.print(ended(stage, result, f"{minutes} min {seconds} s"))
        return list(lines) if process.returncode else None

    @contextmanager
    def stopped_with_this(self) -> Iterator[None]:
        """Hands what ends the block, Ctrl-C or SIGTERM, on to DVC and to the stages, as a terminal does."""
        try:
            yield
        except BaseException:
            self._stopping = True
            for process in list(self._processes):
                self._stop(process)
            raise

    @staticmethod
    def _stop(process: subprocess.Popen[str]) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGINT)

    def table(self) -> Table:
        """What the stages said last, a line each."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for stage, line in list(self._said.items()):
            table.add_row(stage, line)
        return table


def _dvc(*arguments: str) -> str:
    ended = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
    if ended.returncode:
        raise PipelineError(ended.stderr.strip().removeprefix("ERROR: "))
    return ended.stdout


if __name__ == "__main__":
    run_script(main, target=str, jobs=int)
