"""The one exception that stands for "the user can mend this": its text is all they need to see."""


class PipelineError(Exception):
    """Something the user gave is wrong. The message says what, where, and what would be right."""
