"""Where a model and its tools write one text together."""

from pipeline.environment.environment import TextEnvironment
from pipeline.environment.history import CallRecord, EndReason, Segment, TextHistory

__all__ = ["CallRecord", "EndReason", "Segment", "TextEnvironment", "TextHistory"]
