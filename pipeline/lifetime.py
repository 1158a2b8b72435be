"""How long a process may go on: one at a time for the same work, and none without its parent."""

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.errors import PipelineError

EVERY = 0.3
"""Seconds between two looks at the parents."""

SHELLS = ("sh", "bash", "dash", "fish", "ksh", "zsh")


@contextmanager
def only_one(file: Path, what: str, seconds: float = 0) -> Iterator[None]:
    """Holds the file's lock, which the system gives back however this process ends.

    Args:
        what: what is done meanwhile, for the message of another that wants to do it.
        seconds: how long to wait for another that is about to end.

    Raises:
        PipelineError: if another process holds it: which, and since when.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    latest = time.monotonic() + seconds
    with file.open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < latest:
                    time.sleep(0.1)
                    continue
                lock.seek(0)
                told = lock.read()
                held = "another process"
                if told:
                    other = json.loads(told)
                    held = f"process {other['pid']}, since {other['since']}"
                raise PipelineError(
                    f"{what} is running already ({held}): wait until it has ended, or stop it"
                ) from None
        lock.truncate(0)
        json.dump({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def parents() -> list[psutil.Process]:
    """The process that started this one, and the shells between them that only carry out its command."""
    found = []
    for process in psutil.Process().parents():
        found.append(process)
        if process.name() not in SHELLS or "-c" not in process.cmdline():
            break
    return found


def all_live(processes: Sequence[psutil.Process]) -> bool:
    """Whether all of these processes go on."""
    try:
        return all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    except psutil.NoSuchProcess:
        return False


def stop_after(processes: Sequence[psutil.Process], at_once: Callable[[], bool]) -> None:
    """Has this process stop, as by SIGTERM, when one of these has ended.

    Args:
        at_once: whether nothing is lost if it ends where it is. It then does so after a second, as a
            signal waits for the call into a library that the process is in.
    """

    def watch() -> None:
        while all_live(processes):
            time.sleep(EVERY)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        while not at_once():
            time.sleep(EVERY)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
