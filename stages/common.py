"""What all stage scripts share: their command line, errors told in one line, and how a stage ends.

A stage's outputs take their places together or not at all, and only if what they were made of is still
there. A stage that is stopped saves its run's state first; one whose parent is gone stops.
"""

import argparse
import ctypes
import functools
import importlib.metadata
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.algorithms.names import NAMES
from pipeline.dependencies import sources
from pipeline.errors import PipelineError
from pipeline.files import replacing_all, sha256_of, telling_full_disks, workshop
from pipeline.lifetime import is_main, only_one, parents, stop
from pipeline.nested import differing
from pipeline.snapshot import Snapshot, clear_finished
from pipeline.tasks import task_names
from pipeline.workspace import SNAPSHOTS, lock_path, snapshot_path
from stages.parents import PARENT, parents_live, snapshots, stop_with_parents

LOCK = Path("dvc.lock")
"""What DVC writes when a stage has ended well."""

LAUNCHED = "LEARNING_TOOLS_LAUNCHED"
"""The environment variable that the processes have which `machine.launcher` has started."""

PATIENCE = 10.0
"""Seconds that a stage waits for another of its kind to end, as one does whose parent is gone."""

_arguments: list[str] = []
"""The running stage's."""

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
"""Those whose version may decide a digit."""


def run_script(main: Callable[..., None], **arguments: type) -> None:
    """Calls `main` with the command line's arguments, one for each of `arguments`, in their order.

    What the user can mend is told in a line on standard error, with exit status 1. SIGTERM and SIGHUP end
    it as Ctrl-C does: half-written outputs are removed, and a run's state is saved.
    """
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").strip())
    for name, kind in arguments.items():
        parser.add_argument(name, type=kind)
    values = list(vars(parser.parse_args()).values())
    _keep_freed_memory()
    # Read by transformers when it is imported, which many stages never do.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # A process that is started in the background of a script is made to ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else `nohup` has it ignored
        signal.signal(signal.SIGHUP, stop)
    stop_with_parents()
    try:
        main(*values)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")


def run_stage(main: Callable[..., None], **arguments: type) -> None:
    """`run_script` for a stage: one of its kind at a time, which leaves no states or temporary files."""
    if "RANK" in os.environ:
        sys.exit(f"error: {_module()}: this stage runs in one process; start it without a launcher")
    _run_stage(main, arguments)


def _run_stage(main: Callable[..., None], arguments: Mapping[str, type]) -> None:
    @functools.wraps(main)
    def stage(*values: Any) -> None:
        _arguments[:] = map(str, values)
        snapshots.clear()
        run = "-".join([_module().rpartition(".")[2], *_arguments])
        if not is_main():
            with _temporary_folder(f"{run}-process-{os.environ['RANK']}"):
                return main(*values)
        with only_one(lock_path(run), run, PATIENCE):
            if LOCK.exists():
                clear_finished(SNAPSHOTS, LOCK.stat().st_mtime)
            with telling_full_disks(), _temporary_folder(run):
                main(*values)
            for snapshot in snapshots:
                snapshot.finish()

    run_script(stage, **arguments)


def run_launched(main: Callable[..., None], **arguments: type) -> None:
    """`run_stage` in the processes that `machine.launcher` of the params starts; without one, in this process."""
    if not os.environ.keys() & {LAUNCHED, "RANK"}:  # else one has started this process
        from pipeline.params import load_params

        try:
            command = launched(load_params().machine.launcher, _module(), sys.argv[1:])
        except PipelineError as error:
            sys.exit(f"error: {error}")
        if command:
            # The launcher takes this process's place; those that it starts watch this one's parents.
            watched = [os.environ[PARENT]] if PARENT in os.environ else []
            if os.environ.keys() & {"DVC_STAGE", "MAKELEVEL"}:
                watched += [str(process.pid) for process in parents()]
            environment = {**os.environ, LAUNCHED: "1"}
            if watched:
                environment[PARENT] = ",".join(watched)
            os.execvpe(command[0], command, environment)
    _run_stage(main, arguments)


def launched(launcher: str, module: str, arguments: Sequence[str]) -> list[str]:
    """The command that has a launcher run a module; none without a launcher. Raises PipelineError if there is no such."""
    words = shlex.split(launcher)
    if words and shutil.which(words[0]) is None:
        raise PipelineError(
            f"params.yaml: machine.launcher: no command {words[0]!r} here; it stands in the place of `python` "
            f"before `-m {module}`, as in `torchrun --nproc-per-node 2`"
        )
    return [*words, "-m", module, *arguments] if words else []


@contextmanager
def outputs(
    *paths: Path,
    inputs: Callable[[], Mapping[str, Any]],
    before: Mapping[str, Any] | None = None,
) -> Iterator[list[Path]]:
    """Paths to write a stage's outputs at; they take their places together when the block has ended.

    DVC takes down at the end what a stage was made of, so the outputs must be of what is there then.

    Args:
        inputs: the params, and whatever else decides the outputs, as JSON; asked at the beginning and
            at the end. The stage's code is looked at anyway.
        before: what `inputs` has just given, if it has been asked already.

    Of several processes, only the main one may write there.

    Raises:
        PipelineError: if they have changed meanwhile, or a place cannot be written.
    """

    def with_code(found: Mapping[str, Any]) -> dict[str, Any]:
        return {**found, "code": code(found)}

    if not is_main():
        yield list(paths)
        return
    began = with_code(inputs() if before is None else before)
    with replacing_all(*paths) as beside:
        yield beside
        if changed := sorted(differing(began, with_code(inputs()))):
            raise PipelineError(
                f"{', '.join(changed)} changed while the stage ran, so its outputs were not put in place; "
                "undo the change to have them at once, or run the stage again for new ones"
            )
        if not parents_live():
            sys.exit(128 + signal.SIGTERM)


@contextmanager
def _temporary_folder(run: str) -> Iterator[None]:
    """Has temporary files made in a folder that the next run of this name removes, should this one be killed."""
    name, outer = "TMPDIR", tempfile.tempdir
    variable = os.environ.get(name)
    with workshop(Path(tempfile.gettempdir()) / f"learning-tools-{os.getuid()}-{run}") as folder:
        tempfile.tempdir = os.environ[name] = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = outer
            if variable is None:
                del os.environ[name]
            else:
                os.environ[name] = variable


def code(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the files that the running stage's result depends on.

    Tasks and algorithms are imported by name. So the task is one of the stage's arguments, and the
    algorithm one of the inputs, which hold its section of the params.
    """
    tasks = [f"pipeline.tasks.{name}" for name in task_names() if name in _arguments]
    algorithms = [f"pipeline.algorithms.{name}" for name in NAMES if name in inputs]
    modules = [_module(), *tasks, *algorithms]
    return sha256_of(*sorted({file for module in modules if module for file in sources(module)}))


def snapshot_of(run: str, inputs: Mapping[str, Any], seconds: float) -> Snapshot:
    """Where a run's state is kept until its stage has ended well."""
    import torch

    key = {
        **inputs,
        "code": code(inputs),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),  # sums are rounded as they are shared out
    }
    snapshots.append(Snapshot(snapshot_path(run), key, seconds, is_main()))
    return snapshots[-1]


def _module() -> str:
    """The module that Python was started with."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else ""


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed for what is allocated next, instead of giving it back.

    Tensors of many megabytes come and go with every layer, and fresh pages for each of them took
    between a tenth and a quarter of the time of an evaluation.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large piece
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing back to the system
