"""Calls of tools, side by side. Whatever a tool does, each call gets an answer, within a time limit.

A tool may hang, raise anything, or return what is no text: the model reads that the call failed, and the
batch goes on. Only two things end a run: a `PipelineError`, which is what the user must mend, and
`KeyboardInterrupt`.
"""

import asyncio
import inspect
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from queue import Empty, SimpleQueue
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tools import BatchTool, ErrorKind, Tool, ToolError, ToolResponse
from pipeline.tools.protocol import ToolCall

SIDE_BY_SIDE = 32
"""How many calls of a tool run at once; those that hang are among them."""

ENDS_A_RUN = (PipelineError, KeyboardInterrupt)


@dataclass(frozen=True)
class Answer:
    """What the model is told of a call."""

    text: str
    kind: ErrorKind | None = None  # of what went wrong; None where nothing did
    details: Mapping[str, Any] = field(default_factory=dict)  # what the tool itself recorded
    cut: bool = False  # whether there was more text


@dataclass(eq=False)
class _Job:
    """What one thread does: a call, or all those that a `BatchTool` gets together."""

    tool: str
    places: Sequence[int]  # which of the turn's calls
    arguments: Sequence[str]
    seconds: float  # that it may take
    deadline: float = 0.0


@dataclass(frozen=True)
class _Done:
    """What came of a job, and when."""

    job: _Job
    result: list[Answer] | BaseException  # an exception is one that ends the run
    when: float


class Caller:
    """Calls tools.

    Each call runs in a thread of its own. One that takes longer than `timeout` is given up: its answer
    says so, and what it returns later is thrown away. Python cannot end a thread, so a call that hangs
    keeps its place among the `SIDE_BY_SIDE` that a tool may have. Once all of them hang, further calls
    are answered at once, until one ends. These threads do not keep the process from ending.

    A tool's coroutines share an event loop, so that what they have in common works: a client, a lock.

    Args:
        tools: by name.
        timeout: seconds that a call may take.
        longest: how many characters of an answer are kept.
    """

    def __init__(self, tools: Mapping[str, Tool], timeout: float, longest: int) -> None:
        self.tools, self.timeout, self.longest = tools, timeout, longest
        self._threads: dict[str, set[threading.Thread]] = {name: set() for name in tools}
        self._loops: dict[str, asyncio.AbstractEventLoop] = {}
        self._making_a_loop = threading.Lock()

    def answers(self, calls: Sequence[ToolCall]) -> list[Answer]:
        """What the tools say to the calls, each of a tool that there is.

        Raises PipelineError or KeyboardInterrupt if a tool does.
        """
        answers: dict[int, Answer] = {}
        waiting = self._jobs(calls)
        running: set[_Job] = set()
        done: SimpleQueue[_Done] = SimpleQueue()
        while True:
            for name, jobs in waiting.items():
                while jobs and len(self._threads[name]) < SIDE_BY_SIDE:
                    running.add(self._start(jobs.popleft(), done))
            if not running:
                break
            for job, said in self._next(running, done).items():
                running.remove(job)
                answers |= zip(job.places, said, strict=True)
        for jobs in waiting.values():  # could not be started
            for job in jobs:
                answers |= dict.fromkeys(job.places, self._hanging(job))
        return [answers[place] for place in range(len(calls))]

    def _jobs(self, calls: Sequence[ToolCall]) -> dict[str, deque[_Job]]:
        """The calls as jobs, by tool."""
        places: dict[str, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call.tool, []).append(place)
        jobs: dict[str, deque[_Job]] = {}
        for name, own in places.items():
            tool = self.tools[name]
            arguments = [calls[place].argument for place in own]
            if isinstance(tool, BatchTool):
                seconds = tool.seconds(len(own), self.timeout)
                jobs[name] = deque([_Job(name, own, arguments, seconds)])
            else:
                jobs[name] = deque(
                    _Job(name, [place], [argument], self.timeout)
                    for place, argument in zip(own, arguments)
                )
        return jobs

    def _start(self, job: _Job, done: SimpleQueue[_Done]) -> _Job:
        def work() -> None:
            try:
                result = self._result(job)
            finally:
                self._threads[job.tool].discard(thread)
            done.put(_Done(job, result, time.monotonic()))

        thread = threading.Thread(target=work, name=f"tool {job.tool}", daemon=True)
        self._threads[job.tool].add(thread)
        job.deadline = time.monotonic() + job.seconds
        thread.start()
        return job

    def _next(self, running: set[_Job], done: SimpleQueue[_Done]) -> dict[_Job, list[Answer]]:
        """Waits until a job is done or its time is over; says what came of it."""
        left = min(job.deadline for job in running) - time.monotonic()
        try:
            one = done.get(timeout=min(max(left, 0.0), threading.TIMEOUT_MAX))
        except Empty:
            now = time.monotonic()
            late = [job for job in running if job.deadline <= now]
        else:
            if one.job not in running:
                return {}  # has been given up
            if isinstance(one.result, BaseException):
                raise one.result
            if one.when <= one.job.deadline:
                return {one.job: one.result}
            late = [one.job]
        return {job: [_late(job)] * len(job.places) for job in late}

    def _hanging(self, job: _Job) -> Answer:
        count = len(self._threads[job.tool])
        return Answer(
            f"Tool error: {job.tool} hangs: {count} earlier calls have not come to an end",
            ErrorKind.NO_ANSWER,
        )

    # --- in the job's thread ---------------------------------------------------------------------

    def _result(self, job: _Job) -> list[Answer] | BaseException:
        """What came of a job; an exception only if it ends the run."""
        tool = self.tools[job.tool]
        try:
            if not isinstance(tool, BatchTool):
                return [self._answer(self._awaited(tool(job.arguments[0]), job))]
            outputs = self._awaited(tool.batch(job.arguments), job)
            if not isinstance(outputs, list | tuple) or len(outputs) != len(job.places):
                raise TypeError(f"{job.tool} returned no list of one output for each call")
            return [self._answer(output) for output in outputs]
        except ENDS_A_RUN as error:
            return error
        except BaseException as error:
            return [self._failure(error)] * len(job.places)

    def _answer(self, output: Any) -> Answer:
        """The answer that a tool's output is. Raises an output that ends the run."""
        try:
            if isinstance(output, BaseException):
                raise output
            details = dict(output.details) if isinstance(output, ToolResponse) else {}
            text = output.text if isinstance(output, ToolResponse) else output
            if not isinstance(text, str | Number):
                raise TypeError(f"the tool returned {type(text).__name__}, not text")
            text, cut = self._plain(str(text))
            return Answer(text, details=details, cut=cut)
        except ENDS_A_RUN:
            raise
        except BaseException as error:
            return self._failure(error)

    def _failure(self, error: BaseException) -> Answer:
        kind = error.kind if isinstance(error, ToolError) else ErrorKind.CRASHED
        text, cut = self._plain(f"Tool error: {_message(error)}")
        return Answer(text, kind, cut=cut)

    def _plain(self, text: str) -> tuple[str, bool]:
        """The text as any tokenizer takes it, and whether it had to be cut."""
        kept = text[: self.longest].replace("\0", "\ufffd")
        # Joins the halves of surrogate pairs, and replaces a half without its other one.
        kept = kept.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return kept, len(text) > self.longest

    def _awaited(self, output: Any, job: _Job) -> Any:
        """What a coroutine comes to; any other output as it is."""
        if not inspect.isawaitable(output):
            return output
        loop = self._loop(job.tool)
        result = asyncio.run_coroutine_threadsafe(_within(output, job.seconds), loop).result()
        if isinstance(result, _Raised):
            raise result.error
        return result

    def _loop(self, tool: str) -> asyncio.AbstractEventLoop:
        """The tool's event loop, which runs in a thread until this object is no more."""
        with self._making_a_loop:
            if tool not in self._loops:
                loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run, args=(loop,), name=f"loop of {tool}", daemon=True
                ).start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
                self._loops[tool] = loop
            return self._loops[tool]


@dataclass(frozen=True)
class _Raised:
    """What would end the event loop if a coroutine raised it there."""

    error: BaseException


async def _within(awaitable: Awaitable[Any], seconds: float) -> Any:
    """What the awaitable comes to. It is cancelled after so many seconds."""

    async def contained() -> Any:
        try:
            return await awaitable
        except (SystemExit, KeyboardInterrupt) as error:
            return _Raised(error)

    return await asyncio.wait_for(contained(), seconds)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _late(job: _Job) -> Answer:
    return Answer(
        f"Tool error: {job.tool} gave no answer within {job.seconds:g} seconds",
        ErrorKind.NO_ANSWER,
    )


def _message(error: BaseException) -> str:
    """What an exception says; its type where it says nothing, or is no mistake but an exit."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # a tool's exceptions are no safer than the tool
        return name
    if isinstance(error, Exception):
        return text or name
    return f"{name}: {text}" if text else name
