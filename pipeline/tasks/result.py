"""What a task reads of an episode, to reward it."""

from pipeline import answers
from pipeline.tools.protocol import SUBMIT


def handed_in(answer_text: str) -> str:
    """What the model hands in, between `Result=` and `<submit>`; empty if nothing."""
    return answers.handed_in(answer_text, SUBMIT)
