"""Live tracking of a training: DVCLive always, and what else accelerate knows to log to."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType

from pipeline.errors import PipelineError
from pipeline.nested import flatten

PROJECT = "learning-tools"
"""What trackers call the project."""

LIVE = "dvclive"


@contextmanager
def tracking(
    trackers: Sequence[str], run: str, folder: Path, config: Mapping[str, Any]
) -> Iterator[Callable[[dict[str, float], int], None]]:
    """Gives a function `log(values, step)` that tells all trackers of a step.

    DVCLive writes to `folder`; its page `report.html` there follows the run. That is for watching only:
    the curves that count are an output of the stage.

    Args:
        trackers: more of them, by accelerate's names ("wandb", "tensorboard", ...).
        run: this run's name.
        folder: where those that write files do so.
        config: the run's params, for those that show them; may be nested.

    Raises:
        PipelineError: for a tracker that does not exist or whose package is not installed.
    """
    known = sorted(LOGGER_TYPE_TO_CLASS)
    for name in trackers:
        if name not in known:
            raise PipelineError(f"tracking: no tracker {name!r}; there is {', '.join(known)}")
    logging.getLogger("dvclive").setLevel(logging.ERROR)
    names = [LIVE, *(name for name in trackers if name != LIVE)]
    accelerator = Accelerator(log_with=names, project_dir=str(folder), cpu=True)
    if absent := set(names) - {LoggerType(each).value for each in accelerator.log_with}:
        raise PipelineError(f"tracking: the package of {', '.join(absent)} is not installed")
    live = {"dir": str(folder), "report": "html", "save_dvc_exp": False, "dvcyaml": None}
    options = {LIVE: live, "wandb": {"name": run}, "mlflow": {"run_name": run}}
    plain = {key: _plain(value) for key, value in flatten(config).items()}
    accelerator.init_trackers(PROJECT, plain, {name: options.get(name, {}) for name in names})
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        accelerator.end_training()


def _plain(value: Any) -> bool | int | float | str:
    """A value of a type that all trackers take."""
    return value if isinstance(value, bool | int | float | str) else str(value)
