"""Outages: tools that fail by themselves, and not because of what the model wrote.

Each tool is judged by itself: of two tools one may be down, and the other answer most calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.environment.history import CallRecord, TextHistory

MOST = 0.5
"""The share of a tool's calls from which on its failures are an outage, and no accident."""

FEW = 8
"""So many failures may be an accident."""


@dataclass(frozen=True)
class Asked:
    """What became of a tool's calls.

    Attributes:
        calls: how many reached it, at least 1.
        failures: in how many of them it failed by itself.
        last: what it said when it last did; empty if it never did.
    """

    calls: int
    failures: int
    last: str

    @property
    def share(self) -> float:
        """Which share of its calls it failed."""
        return self.failures / self.calls

    def __str__(self) -> str:
        return f"failed in {self.failures} of {self.calls} calls, the last time with: {self.last}"


def asked(calls: Iterable[CallRecord]) -> dict[str, Asked]:
    """What became of the calls that reached a tool, by the tools' names."""
    found: dict[str, Asked] = {}
    for call in calls:
        if call.reached:
            so_far = found.get(call.tool, Asked(0, 0, ""))
            found[call.tool] = Asked(
                so_far.calls + 1,
                so_far.failures + call.outage,
                call.output if call.outage else so_far.last,
            )
    return found


def asked_in(episodes: Sequence[TextHistory]) -> dict[str, Asked]:
    """The same of all calls of some episodes."""
    return asked(call for episode in episodes for call in episode.calls)


def worst_tool(episodes: Sequence[TextHistory]) -> str | None:
    """Which tool failed by itself most often, and its last words; None if no tool did in most of its calls."""
    failing = {n: tool for n, tool in asked_in(episodes).items() if tool.share >= MOST}
    worst = max(failing, key=lambda name: failing[name].failures, default=None)
    return worst and f"{worst} {failing[worst]}"
