"""A run's state on disk, from which the run goes on after it was stopped.

Chance is a function of place, so a run has no hidden state: one that goes on ends with the digits of one that
was never stopped. The state is kept outside of what DVC keeps, and removed when the run's outputs are there.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.lifetime import interruptions_wait
from pipeline.nested import differing

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and mappings of them."""


class Snapshot:
    """The last saved state of one run.

    Args:
        file: where it lies; None keeps nothing.
        key: all that decides what the run's outputs are, as JSON. A state that was saved under another
            key is never taken up.
        seconds: how long to wait, at least, between two times of saving. It is longer where saving
            takes more than `SHARE` of the time.
        main: whether it may be written; else it is read only, as in all but one of several processes.

    Attributes:
        behind: whether the run has gone on since its state was last saved.
    """

    def __init__(
        self,
        file: Path | None,
        key: Mapping[str, Any] | None = None,
        seconds: float = 0,
        main: bool = True,
    ) -> None:
        self.file = file
        self.main = main
        self.key = json.loads(json.dumps(key))
        self.seconds = seconds
        self.behind = False
        self._updating = False
        self._next = time.monotonic() + seconds

    @property
    def finished(self) -> Path | None:
        """Where the state lies of a run whose outputs are there."""
        return self.file and self.file.with_suffix(FINISHED)

    def load(self) -> State | None:
        """The saved state; None if there is none, or none of this key, which is then said."""
        file = next((f for f in (self.file, self.finished) if f and f.exists()), None)
        if file is None:
            return None
        import torch  # which a run without a model does not need

        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            key, state = saved["key"], saved["state"]
        except Exception as error:  # torch's, pickle's and zipfile's, for a file that is not ours
            raise PipelineError(
                f"{file}: not a snapshot ({type(error).__name__}); remove it, and the run begins anew"
            ) from error
        if key == self.key:
            self._tell(f"going on from {file}")
            return state
        other = ", ".join(sorted(differing(key, self.key)))
        self._tell(f"{file} is of a run with another {other}: beginning anew")
        return None

    def _tell(self, news: str) -> None:
        if self.main:
            print(news)

    def save(self, state: State) -> None:
        """Writes the state beside the old one, then puts it in its place.

        Where that fails, as on a full disk, it is said, and the run goes on with the old one.
        """
        if self.file is None or not self.main:
            return
        import torch

        begun = time.monotonic()
        try:
            with replacing(self.file) as beside:
                torch.save({"key": self.key, "state": state}, beside)
            self.behind = False
        except PipelineError as error:
            print(f"warning: the run's state was not saved: {error}")
        ended = time.monotonic()
        self._next = ended + max(self.seconds, (ended - begun) / SHARE)

    def offer(self, state: Callable[[], State]) -> None:
        """Saves the state if it is time to."""
        self.behind = self.file is not None and self.main
        if self.behind and time.monotonic() >= self._next:
            self.save(state())

    @contextmanager
    def kept(self, state: Callable[[], State]) -> Iterator[None]:
        """Saves the state where the block ends or is interrupted, but not in the midst of an `update`."""
        try:
            yield
        except BaseException:  # also where another process of the run is gone
            if self.behind and not self._updating:
                with interruptions_wait():
                    self.save(state())
            raise
        if self.behind:
            self.save(state())

    @contextmanager
    def update(self) -> Iterator[None]:
        """For a block in whose midst there is no state to save.

        The first signal of `STOPS` waits for its end, where otherwise more than this block's work were lost.
        """
        # All processes of a run wait: the main one needs the others to come to the block's end.
        with interruptions_wait() if self.behind or not self.main else nullcontext():
            self._updating = True
            yield
            self._updating = False

    def finish(self) -> None:
        """The run's outputs are there. The state stays until `clear_finished`."""
        if self.main and self.file and self.finished and self.file.exists():
            os.utime(self.file)
            self.file.replace(self.finished)


SHARE = 0.05
"""The most of a run's time that saving its state takes."""

FINISHED = ".finished.pt"

NOWHERE = Snapshot(None)
"""For runs that start anew after they were stopped."""


def clear_finished(folder: Path, since: float) -> None:
    """Removes the states of runs that were finished before a time, in seconds since the epoch."""
    for file in folder.glob(f"*{FINISHED}"):
        if file.stat().st_mtime < since:
            file.unlink(missing_ok=True)
