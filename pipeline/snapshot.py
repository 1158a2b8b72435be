"""A run's state on disk, from which the run goes on after it was stopped.

Chance is a function of place, so a run has no hidden state: one that goes on ends with the digits of one that
was never stopped. The state is kept outside of what DVC keeps, and removed when the run's outputs are there.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.nested import flatten

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and mappings of them."""


class Snapshot:
    """The last saved state of one run.

    Args:
        file: where it lies; None keeps nothing.
        key: all that decides what the run's outputs are, as JSON. A state that was saved under another
            key is never taken up.
        seconds: how long to wait, at least, between two times of saving.
    """

    def __init__(
        self, file: Path | None, key: Mapping[str, Any] | None = None, seconds: float = 0
    ) -> None:
        self.file = file
        self.key = json.loads(json.dumps(key))
        self.seconds = seconds
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """The saved state; None if there is none, or none of this key, which is then said."""
        import torch

        if self.file is None or not self.file.exists():
            return None
        try:
            saved = torch.load(self.file, map_location="cpu", weights_only=True)
            key, state = saved["key"], saved["state"]
        except (
            Exception
        ) as error:  # torch's, pickle's and zipfile's, for a file that is none of ours
            raise PipelineError(
                f"{self.file}: not a snapshot ({type(error).__name__}); remove it, and the run begins anew"
            ) from error
        if key == self.key:
            print(f"going on from {self.file}")
            return state
        old, new = flatten(key), flatten(self.key)
        differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        print(f"{self.file} is of a run with another {', '.join(differing)}: beginning anew")
        return None

    def save(self, state: State) -> None:
        """Writes the state beside the old one, then puts it in its place."""
        import torch

        if self.file is None:
            return
        with replacing(self.file) as beside:
            torch.save({"key": self.key, "state": state}, beside)
        self._saved = time.monotonic()

    def offer(self, state: Callable[[], State]) -> None:
        """Saves the state if it is time to."""
        if self.file is not None and time.monotonic() - self._saved >= self.seconds:
            self.save(state())

    @contextmanager
    def saved_on_exit(self, state: Callable[[], State]) -> Iterator[None]:
        """Saves the state when the block ends well, and when it is interrupted."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.save(state())
            raise
        self.save(state())

    def remove(self) -> None:
        """The run's outputs are there: it is over."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


NOWHERE = Snapshot(None)
"""For runs that start anew after they were stopped."""


@contextmanager
def interruptions_wait() -> Iterator[None]:
    """Has SIGINT and SIGTERM that come while the block runs take effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # no signal arrives elsewhere
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
