"""How long a process may go on: one at a time for the same work, none without its parent, until a signal."""

import fcntl
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import PipelineError

EVERY = 0.3
"""Seconds between two looks at the parents."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that stop a process, if Python handles them."""

SAME = 2.0
"""Seconds within which several signals are one: a terminal or a system tells all processes, and they each other."""

_asked: list[int] = []
"""The signals by which this process was asked to stop."""

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
            except OSError:  # a file system without locks
                print(f"warning: {file} cannot be locked: start {what} once at a time only")
                break
        lock.truncate(0)
        json.dump({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def is_main() -> bool:
    """Whether this process is the one that writes, of those that `torchrun` or `accelerate` has started together."""
    return os.environ.get("RANK", "0") == "0"


def parents() -> list[psutil.Process]:
    """The process that started this one, and the shells between them that only carry out its command.

    None if that one has ended: then the first process of all has taken its place.
    """
    found = []
    for process in psutil.Process().parents():
        found.append(process)
        if process.name() not in SHELLS or "-c" not in process.cmdline():
            break
    if found and found[-1].pid == 1 and not any("dvc" in part for part in found[-1].cmdline()):
        return []
    return found


def all_live(processes: Sequence[psutil.Process]) -> bool:
    """Whether all of these processes go on."""
    try:
        return all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    except psutil.NoSuchProcess:
        return False


def stop_after(processes: Sequence[psutil.Process], at_once: Callable[[], bool]) -> None:
    """Makes this process stop, as by SIGTERM, when one of these has ended.

    Args:
        at_once: whether nothing is lost if it ends where it is. It then does so after a second, as a
            signal waits for the call into a library that the process is in.
    """

    def watch() -> None:
        while all_live(processes):
            time.sleep(EVERY)
        if not _asked:  # else it is about to end
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        while not at_once():
            time.sleep(EVERY)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def stop(number: int, frame: object) -> None:
    """A handler of `STOPS`: ends the process as an exception does."""
    _asked.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


@contextmanager
def interruptions_wait() -> Iterator[None]:
    """Makes a signal of `STOPS` that comes while the block runs take effect at its end.

    One that comes after `SAME` seconds more takes effect at once.
    """
    if threading.current_thread() is not threading.main_thread():  # no signal arrives elsewhere
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    came: list[int] = []
    latest = math.inf

    def wait(number: int, frame: object) -> None:
        nonlocal latest
        _asked.append(number)
        if time.monotonic() > latest:
            came.clear()
            _handle(before)
            signal.raise_signal(number)
        elif not came:
            came.append(number)
            latest = time.monotonic() + SAME

    _handle({n: wait for n in STOPS if before[n] not in (signal.SIG_IGN, signal.SIG_DFL)})
    try:
        yield
    finally:
        _handle(before)
    if came:
        signal.raise_signal(came[0])


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
