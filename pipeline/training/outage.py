"""When a tool is down for good, and a training has to wait for whoever mends it."""

from collections.abc import Mapping
from typing import Any

from pipeline.environment.outage import FEW, MOST, Asked
from pipeline.errors import PipelineError

PATIENCE = 3
"""Steps in a row: a service that restarts may cost one or two."""


class Outages:
    """Which tools stay down, step after step.

    A tool is down once it has failed by itself in at least half of its calls in each of three steps in a
    row. Steps that did not call it are passed over: a tool that is called now and then is judged as well.
    It must have failed more than `FEW` times in them: with a call a step, three failures may be an accident.
    """

    def __init__(self) -> None:
        self._lost: dict[str, tuple[int, int]] = {}  # a tool's steps in a row, its failures in them

    def rolled_out(self, step: int, tools: Mapping[str, Asked]) -> PipelineError | None:
        """Takes in what became of a step's calls.

        Args:
            step: its number, from 1.
            tools: see `asked`; of all of the step's episodes.

        Returns:
            What to stop the training with; None to go on.
        """
        down = None
        for name, tool in tools.items():
            if tool.share < MOST:
                self._lost.pop(name, None)
                continue
            steps, failures = self._lost.get(name, (0, 0))
            self._lost[name] = steps, failures = steps + 1, failures + tool.failures
            if steps >= PATIENCE and failures > FEW:
                down = PipelineError(
                    f"step {step}: {name} {tool}. It has failed in at least {MOST:.0%} of its calls in "
                    f"each of the last {steps} steps that called it. Mend the tool and start the "
                    "training again; a tool that refuses a bad input raises ToolError"
                )
        return down

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on has to know."""
        return dict(self._lost)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._lost = dict(state)
