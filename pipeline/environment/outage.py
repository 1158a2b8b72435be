"""Outages: tools that fail by themselves, and not because of what the model wrote."""

from collections.abc import Sequence

from pipeline.environment.history import TextHistory

MOST = 0.5
"""The share of a tool's calls from which on its failures are an outage, and no accident."""


def outage_share(episodes: Sequence[TextHistory]) -> float:
    """Which share of the calls that reached a tool it failed by itself; 0 if none did."""
    calls = [call for episode in episodes for call in episode.calls if call.reached]
    return sum(call.outage for call in calls) / len(calls) if calls else 0.0


FEW = 8
"""So many failures in a single batch may be an accident."""


def outage_of(episodes: Sequence[TextHistory]) -> str | None:
    """What `worst_tool` says, if the failures of a single batch are enough to call them an outage."""
    failures = sum(call.outage for episode in episodes for call in episode.calls)
    return worst_tool(episodes) if failures > FEW and outage_share(episodes) >= MOST else None


def worst_tool(episodes: Sequence[TextHistory]) -> str | None:
    """Which tool failed by itself most often, and its last words; None if no tool did in most of its calls."""
    calls = [call for episode in episodes for call in episode.calls if call.reached]
    found = []
    for tool in dict.fromkeys(call.tool for call in calls):
        own = [call for call in calls if call.tool == tool]
        failed = [call for call in own if call.outage]
        if len(failed) >= MOST * len(own):
            found.append(
                (
                    len(failed),
                    f"{tool} failed in {len(failed)} of {len(own)} calls, the last time with: {failed[-1].output}",
                )
            )
    return max(found)[1] if found else None
