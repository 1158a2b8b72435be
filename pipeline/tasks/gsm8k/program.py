"""Word problems and the programs that solve them: generated stories, and GSM8K's own solutions."""

from collections.abc import Sequence


def program(steps: Sequence[str]) -> str:
    """The program that takes the steps, each an assignment, and prints what the last one assigns."""
    result = steps[-1].partition("=")[0].strip()
    body = "".join(f"    {step}\n" for step in (*steps, f"return {result}"))
    return f"def solution():\n{body}print(solution())\n"
