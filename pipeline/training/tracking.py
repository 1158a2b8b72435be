"""Live tracking of a training: DVCLive always, and what else accelerate knows to log to."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers

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
    PartialState()  # accelerate's trackers ask it which process is the main one
    if absent := set(names) - {str(each) for each in filter_trackers(names, str(folder))}:
        raise PipelineError(f"tracking: the package of {', '.join(absent)} is not installed")
    live = {"dir": str(folder), "report": "html", "save_dvc_exp": False, "dvcyaml": None}
    options: dict[str, dict[str, Any]] = {
        LIVE: live,
        "wandb": {"name": run},
        "mlflow": {"run_name": run},
    }
    plain = {key: _plain(value) for key, value in flatten(config).items()}
    started: list[GeneralTracker] = []
    try:
        for name in names:
            started.append(_start(name, folder, options.get(name, {}), plain))
        yield lambda values, step: _log(started, values, step)
    finally:
        for tracker in started:
            tracker.finish()


def _start(
    name: str, folder: Path, options: Mapping[str, Any], config: dict[str, Any]
) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    places = [str(folder)] if kind.requires_logging_directory else []
    tracker = kind(PROJECT, *places, **options)
    tracker.start()
    tracker.store_init_configuration(config)
    return tracker


def _log(trackers: Sequence[GeneralTracker], values: dict[str, float], step: int) -> None:
    for tracker in trackers:
        tracker.log(values, step=step)


def _plain(value: Any) -> bool | int | float | str:
    """A value of a type that all trackers take."""
    return value if isinstance(value, bool | int | float | str) else str(value)
