"""Where a model and its tools write one text together."""

from pipeline.environment.environment import TextEnvironment
from pipeline.environment.history import EndReason, Segment, TextHistory

__all__ = ["EndReason", "Segment", "TextEnvironment", "TextHistory"]
