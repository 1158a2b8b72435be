"""Where a model and its tools write one text together."""

from pipeline.environment.batch import EpisodeBatch
from pipeline.environment.environment import TaskEnvironment, TextEnvironment
from pipeline.environment.history import CallRecord, EndReason, Segment, TextHistory

__all__ = [
    "CallRecord",
    "EndReason",
    "EpisodeBatch",
    "Segment",
    "TaskEnvironment",
    "TextEnvironment",
    "TextHistory",
]
