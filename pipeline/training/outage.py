"""When a tool is down for good, and a training has to wait for whoever mends it."""

from collections.abc import Mapping, Sequence

from pipeline.environment.history import TextHistory
from pipeline.environment.outage import MOST, worst_tool
from pipeline.errors import PipelineError

PATIENCE = 3
"""Steps in a row: a service that restarts may cost one or two."""


def outage(
    curve: Sequence[Mapping[str, float]], episodes: Sequence[TextHistory]
) -> PipelineError | None:
    """What to stop a training with after the last step of its learning curve; None to go on.

    It stops once tools have failed by themselves in at least half of the calls that reached them, in each
    of three steps in a row.

    Args:
        curve: the statistics of a training, one mapping a step.
        episodes: the last step's.
    """
    shares = [stats["env/tool_outage_share"] for stats in curve[-PATIENCE:]]
    if len(shares) < PATIENCE or min(shares) < MOST:
        return None
    return PipelineError(
        f"step {len(curve)}: tools have failed in {shares[-1]:.0%} of their calls, and in at least "
        f"{MOST:.0%} in each of {PATIENCE} steps in a row. {worst_tool(episodes)}. "
        "Mend the tool and start the training again; a tool that refuses a bad input raises ToolError"
    )
