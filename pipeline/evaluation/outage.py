"""When a tool is down, and an evaluation would tell of the tool and not of the model."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.environment.history import CallRecord
from pipeline.environment.outage import FEW, Asked

NEVER = 3
"""A tool that has failed so often, and never answered, does not work at all."""


@dataclass
class _Count:
    """What became of a tool's calls so far."""

    calls: int = 0
    failures: int = 0
    ahead: int = 0  # by how many failures outnumber answers, counted from where that is most
    most: int = 0  # the most that this has been

    def add(self, failed: bool) -> None:
        self.calls += 1
        self.failures += failed
        self.ahead = max(0, self.ahead + (1 if failed else -1))
        self.most = max(self.most, self.ahead)

    @property
    def down(self) -> bool:
        return self.most > FEW or NEVER <= self.calls == self.failures


class Outages:
    """Which tools are down, by all of an evaluation's calls so far, however small its batches are.

    A tool is down if at least `NEVER` calls have reached it, and all of them failed. It is down too once
    its failures outnumber its answers by more than `FEW`, counted from any call on: so it may go down
    after many answers. This is Page's cumulative sum (1954, https://doi.org/10.1093/biomet/41.1-2.100).
    A tool that fails in one of ten calls is taken for down once in 500 million calls, one that fails in
    three of ten once in nine thousand.
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def called(self, calls: Iterable[CallRecord]) -> str | None:
        """Takes in a batch's calls, in their order; says which tool is down, None if none is."""
        last: dict[str, str] = {}  # what each tool said when it failed
        for call in calls:
            if call.reached:
                self._counts.setdefault(call.tool, _Count()).add(call.outage)
            if call.outage:
                last[call.tool] = call.output
        for tool, words in last.items():
            count = self._counts[tool]
            if count.down:
                return f"{tool} {Asked(count.calls, count.failures, words)}"
        return None
