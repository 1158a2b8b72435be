"""How long a call of the python tool takes, beside a Python process started for each program."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from pipeline.tools.python import PythonInterpreter

PROGRAM = "def solution():\n    spent = 5 * 3\n    left = 23 - spent\n    return left\nprint(solution())\n"


def main() -> None:
    interpreter = PythonInterpreter(workers=2)
    tool = median(1000, lambda: interpreter(PROGRAM))
    process = median(
        20,
        lambda: subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM], check=True, capture_output=True
        ),
    )
    begin = time.perf_counter()
    interpreter.batch([PROGRAM] * 10_000)
    rate = 10_000 / (time.perf_counter() - begin)
    print(
        f"the python tool: {tool:.2f} ms a call (median of 1,000), {rate:,.0f} calls a second by two "
        f"workers; a Python process for each program: {process:.1f} ms, {process / tool:.0f} times as long"
    )


def median(calls: int, call: Callable[[], object]) -> float:
    """The median time of a call, in milliseconds."""
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
