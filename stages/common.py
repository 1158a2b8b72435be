"""What all stage scripts share: their command line, and errors told in one line."""

import argparse
import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.dependencies import sources
from pipeline.errors import PipelineError
from pipeline.files import sha256
from pipeline.snapshot import Snapshot
from pipeline.workspace import snapshot_path


def run_stage(main: Callable[..., None], **arguments: type) -> None:
    """Calls `main` with the command line's arguments, one for each of `arguments`, in their order.

    What the user can mend is told in a line on standard error, with exit status 1. SIGTERM ends the
    stage as Ctrl-C does: half-written outputs are removed, and a run's state is saved.
    """
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").strip())
    for name, kind in arguments.items():
        parser.add_argument(name, type=kind)
    _keep_freed_memory()
    # Read by transformers when it is imported, which many stages never do.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main(*vars(parser.parse_args()).values())
        for snapshot in _snapshots:
            snapshot.remove()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")


_snapshots: list[Snapshot] = []
"""Those of this stage."""


def snapshot_of(run: str, stage: str, key: Mapping[str, Any], seconds: float) -> Snapshot:
    """Where a run's state is kept until its stage has ended well.

    Its key is what decides the outcome, and the code of the stage.
    """
    code = {str(file): sha256(file) for file in sources(stage)}
    _snapshots.append(Snapshot(snapshot_path(run), {**key, "code": code}, seconds))
    return _snapshots[-1]


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed for what is allocated next, instead of giving it back.

    Tensors of many megabytes come and go with every layer, and fresh pages for each of them took
    between a tenth and a quarter of the time of an evaluation.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large piece
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing back to the system
