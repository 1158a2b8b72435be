"""A python interpreter in a sandbox: what a program prints is the output.

Programs run in pydantic-monty, an interpreter of its own that has neither files nor a network, in worker
processes with limits on time, memory, recursion and output. It knows a part of Python only. A program may
stand in a Markdown fence.
"""

import math
import re
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

from pydantic_monty import (
    Monty,
    MontyCrashedError,
    MontyError,
    MontySession,
    OSPolicy,
    ResourceLimits,
)

from pipeline.tools import BatchTool, ErrorKind, ToolError, ToolResponse

MODULES = [
    "collections",
    "datetime",
    "decimal",
    "functools",
    "itertools",
    "json",
    "math",
    "random",
    "re",
    "time",
    "typing",
]
"""The modules that a program may find useful; there is no other but a few that get it nowhere."""

GRACE = 0.1
"""Seconds after its time limit at which a worker that does not stop by itself is killed."""

# The same program prints the same, whenever it runs; and no call waits.
_POLICY: OSPolicy = {
    "datetime": datetime(2000, 1, 1),
    "sleep": "zero",
    "random_start": {"seed": 0},
}

_FENCE = re.compile(r"`{3,}|~{3,}")
_LANGUAGE = re.compile(r"\A\s*(python|py)\b\s*")

_KINDS = {
    SyntaxError: ErrorKind.SYNTAX,
    TimeoutError: ErrorKind.TIMEOUT,
    # What the sandbox lacks is not the program's mistake.
    ModuleNotFoundError: ErrorKind.MISSING,
    NotImplementedError: ErrorKind.MISSING,
}
"""What is not a mistake at run time, by the type of the exception."""


class PythonInterpreter(BatchTool):
    """Runs programs, several side by side; each starts from nothing.

    Args:
        time_limit: seconds that a program may take.
        memory_limit: MiB that it may use.
        recursion_limit: how deep its calls may nest.
        output_limit: how many characters it may print.
        workers: how many programs run at once.

    A call raises ToolError, with the last line of the traceback, if the program fails; also if it
    breaks a limit or prints nothing.
    """

    def __init__(
        self,
        time_limit: float = 1.0,
        memory_limit: int = 64,
        recursion_limit: int = 200,
        output_limit: int = 1000,
        workers: int = 2,
    ) -> None:
        self.time_limit = time_limit
        self.workers = workers
        self.output_limit = output_limit
        self._limits: ResourceLimits = {
            "max_feed_duration_secs": time_limit,
            "max_memory": memory_limit * 2**20,
            "max_recursion_depth": recursion_limit,
        }
        self._pool = Monty(max_processes=workers, feed_duration_limit_grace=GRACE)
        self._pool.__enter__()
        self._threads = ThreadPoolExecutor(workers)
        weakref.finalize(self, _close, self._pool, self._threads)

    def batch(self, arguments: Sequence[str]) -> list[ToolResponse | ToolError]:
        answers: list[Future[ToolResponse | ToolError]] = [Future() for _ in arguments]
        for program, answer in zip(arguments, answers):
            self._threads.submit(self._run, unfenced(program), answer)
        return [answer.result() for answer in answers]

    def seconds(self, calls: int, limit: float) -> float:
        return limit * math.ceil(calls / self.workers)

    def _run(self, program: str, answer: Future[ToolResponse | ToolError]) -> None:
        """Runs the program. The answer is there before what the program leaves has been cleared away."""
        try:
            with self._pool.checkout(limits=self._limits, os_policy=_POLICY) as session:
                answer.set_result(self._feed(session, program))
        except BaseException as error:
            if not answer.done():
                answer.set_exception(error)

    def _feed(self, session: MontySession, program: str) -> ToolResponse | ToolError:
        printed = ""

        def collect(stream: str, text: str) -> None:
            nonlocal printed
            printed = (printed + text).lstrip()[: self.output_limit + 1]
            if len(printed.rstrip()) > self.output_limit:
                raise OverflowError  # stops the program

        try:
            # The None is the program's value, which is of no interest and may be large.
            session.feed_run(program + "\nNone", print_callback=collect)
        except MontyError as error:
            if len(printed.rstrip()) > self.output_limit:
                return ToolError(f"the program printed more than {self.output_limit} characters")
            kind, line = self._last_line(error)
            return ToolError(line[: self.output_limit], kind)
        text = printed.rstrip()
        return ToolResponse(text) if text else ToolError("the program printed nothing")

    def _last_line(self, error: Any) -> tuple[ErrorKind, str]:
        """The end of the error's traceback, made plain where it is the sandbox's doing."""
        too_long = f"TimeoutError: the program took longer than {self.time_limit:g} s"
        if isinstance(error, MontyCrashedError):
            if error.timed_out:
                return ErrorKind.TIMEOUT, too_long
            return ErrorKind.RUNTIME, "MemoryError: the program crashed the interpreter"
        line = " ".join(error.display(format="type-msg").split())
        if line.startswith("TimeoutError: feed time limit exceeded"):
            return ErrorKind.TIMEOUT, too_long
        raised = error.exception()
        if isinstance(raised, ModuleNotFoundError):
            line = f"{line}; there is only {', '.join(MODULES)}"
        kinds = (kind for type_, kind in _KINDS.items() if isinstance(raised, type_))
        return next(kinds, ErrorKind.RUNTIME), line


def unfenced(program: str) -> str:
    """The program without the Markdown fence around it, if there is one."""
    text = program.strip()
    fence = _FENCE.match(text)
    if fence is None:
        return program
    inside = text[fence.end() :]
    first, line_end, rest = inside.partition("\n")
    if line_end and (not first.strip() or first.strip().isalnum()):
        return rest.removesuffix(fence[0])
    if fence[0][0] == "~":  # three times bitwise not
        return program
    return _LANGUAGE.sub("", inside, count=1).removesuffix(fence[0])


def _close(pool: Monty, threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=False, cancel_futures=True)  # it may be one of them that closes
    pool.__exit__(None, None, None)
