"""The processes that a stage must not outlive, and the watch over them.

It begins before the stage's own imports, which take seconds: `stages/__init__.py` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import psutil

from pipeline.lifetime import all_live, parents, stop_after

if TYPE_CHECKING:  # it takes a while, too
    from pipeline.snapshot import Snapshot

PARENT = "LEARNING_TOOLS_PARENT"
"""The environment variable that holds the process id of the `scripts.repro` that runs a stage, and, with commas
between them, those of others that the stage must not outlive."""

snapshots: list[Snapshot] = []
"""Those of the running stage."""

_found: list[psutil.Process] = []


def stop_with_parents() -> None:
    """Run by DVC or by make, this process is not to outlive them; run by hand, it may.

    Called again, it does nothing.
    """
    if _found:
        return
    if os.environ.keys() & {"DVC_STAGE", "MAKELEVEL"}:
        if not (found := parents()):
            sys.exit(128 + signal.SIGTERM)
        _found.extend(found)
    if PARENT in os.environ:
        try:
            _found.extend(psutil.Process(int(pid)) for pid in os.environ[PARENT].split(","))
        except psutil.NoSuchProcess:
            sys.exit(128 + signal.SIGTERM)
    if _found:
        stop_after(_found, lambda: not any(snapshot.behind for snapshot in snapshots))


def parents_live() -> bool:
    """Whether none of the processes that this one must not outlive has ended."""
    return all_live(_found)
