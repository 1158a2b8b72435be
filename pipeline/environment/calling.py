"""Calls of tools, side by side. Whatever a tool does, each call gets an answer, within a time limit.

A tool may hang, raise anything, or return what is no text: the model reads that the call failed, and the
batch goes on. Only two things end a run: a `PipelineError`, which is what the user must mend, and
`KeyboardInterrupt`.
"""

import asyncio
import inspect
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from queue import Empty, SimpleQueue
from typing import Any

from pipeline.errors import PipelineError
from pipeline.models.text import well_formed
from pipeline.tools import BatchTool, ErrorKind, Tool, ToolError, ToolResponse
from pipeline.tools.protocol import ToolCall

SIDE_BY_SIDE = 32
"""How many calls of a tool run at once; those that hang are among them."""

SOON = 0.001
"""Seconds after which calls that still wait get more threads: quick ones need but one."""

ENDS_A_RUN = (PipelineError, KeyboardInterrupt)


@dataclass(frozen=True)
class Answer:
    """What the model is told of a call."""

    text: str
    kind: ErrorKind | None = None  # of what went wrong; None where nothing did
    details: Mapping[str, Any] = field(default_factory=dict)  # what the tool itself recorded
    cut: bool = False  # whether there was more text
    parts: Sequence[str] = ()  # as of `ToolResponse`


@dataclass(eq=False)
class _Job:
    """What a thread does at a time: a call, or all those that a `BatchTool` gets together."""

    tool: str
    places: Sequence[int]  # which of the turn's calls
    arguments: Sequence[str]
    seconds: float  # that it may take
    deadline: float = math.inf  # once it has been started
    over: bool = False


@dataclass
class _Lane:
    """A tool's calls of a turn."""

    tool: str
    waiting: deque[_Job]
    workers: int = 0  # how many threads have been started for them

    def take(self) -> _Job | None:
        try:
            return self.waiting.popleft()
        except IndexError:
            return None


@dataclass(frozen=True)
class _Done:
    """What came of a job, and when."""

    job: _Job
    result: list[Answer] | BaseException  # an exception is one that ends the run
    when: float


class Caller:
    """Calls tools.

    Calls run in threads. One that takes longer than `timeout` is given up: its answer says so, and what
    it returns later is thrown away. Python cannot end a thread, so a call that hangs keeps its place
    among the `SIDE_BY_SIDE` that a tool may have. Once all of them hang, further calls are answered at
    once, until one ends. These threads do not keep the process from ending.

    A tool's coroutines share an event loop, so that what they have in common works: a client, a lock.

    Args:
        tools: by name.
        timeout: seconds that a call may take.
        longest: how many characters of an answer are kept.
    """

    def __init__(self, tools: Mapping[str, Tool], timeout: float, longest: int) -> None:
        self.tools, self.timeout, self.longest = tools, timeout, longest
        self._threads: dict[str, set[threading.Thread]] = {name: set() for name in tools}
        self._hanging: dict[str, set[_Job]] = {name: set() for name in tools}
        self._loops: dict[str, asyncio.AbstractEventLoop] = {}
        self._making_a_loop = threading.Lock()

    def answers(self, calls: Sequence[ToolCall]) -> list[Answer]:
        """What the tools say to the calls, each of a tool that there is.

        Raises PipelineError or KeyboardInterrupt if a tool does.
        """
        lanes = self._lanes(calls)
        unanswered = {job for lane in lanes for job in lane.waiting}
        shortest = min((job.seconds for job in unanswered), default=0.0)
        done: SimpleQueue[_Done] = SimpleQueue()
        answers: dict[int, Answer] = {}
        wake = 0.0  # when to look for calls that are late, or wait for a thread
        try:
            while unanswered:
                try:
                    left = max(0.0, wake - time.monotonic())
                    said = _read(done.get(timeout=min(left, threading.TIMEOUT_MAX)))
                except Empty:
                    started = [self._start(lane, done) for lane in lanes]
                    now = time.monotonic()
                    said = self._give_up(unanswered, now)
                    for lane in lanes:
                        said |= self._refuse(lane)
                    # A job that starts from now on is not late before the shortest time is over.
                    soonest = now + (SOON if any(started) else shortest)
                    wake = min([soonest, *(job.deadline for job in unanswered - said.keys())])
                for job in said.keys() & unanswered:  # a late result is for nobody
                    unanswered.remove(job)
                    answers |= zip(job.places, said[job], strict=True)
        finally:
            for lane in lanes:
                lane.waiting.clear()
        return [answers[place] for place in range(len(calls))]

    def _lanes(self, calls: Sequence[ToolCall]) -> list[_Lane]:
        """The calls as jobs, tool by tool."""
        places: dict[str, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call.tool, []).append(place)
        lanes = []
        for name, own in places.items():
            tool = self.tools[name]
            arguments = [calls[place].argument for place in own]
            if isinstance(tool, BatchTool):
                jobs = [_Job(name, own, arguments, tool.seconds(len(own), self.timeout))]
            else:
                jobs = [_Job(name, [p], [a], self.timeout) for p, a in zip(own, arguments)]
            lanes.append(_Lane(name, deque(jobs)))
        return lanes

    def _start(self, lane: _Lane, done: SimpleQueue[_Done]) -> bool:
        """Starts as many threads for the calls that wait as there have been; whether it started any."""
        threads = self._threads[lane.tool]
        room = SIDE_BY_SIDE - len(threads)
        count = max(0, min(len(lane.waiting), max(1, lane.workers), room))
        lane.workers += count
        for _ in range(count):
            thread = threading.Thread(
                target=self._work, args=(lane, done), name=f"tool {lane.tool}", daemon=True
            )
            threads.add(thread)
            thread.start()
        return count > 0

    def _give_up(self, jobs: Iterable[_Job], now: float) -> dict[_Job, list[Answer]]:
        """What to say of the jobs that are late."""
        late = [job for job in jobs if job.deadline <= now]
        for job in late:
            self._hanging[job.tool].add(job)
            if job.over:  # by now: then its thread may have looked before
                self._hanging[job.tool].discard(job)
        return {job: _late(job) for job in late}

    def _refuse(self, lane: _Lane) -> dict[_Job, list[Answer]]:
        """What to say of the jobs that no thread is left for."""
        refused: dict[_Job, list[Answer]] = {}
        while len(self._hanging[lane.tool]) >= SIDE_BY_SIDE and (job := lane.take()):
            text = (
                f"Tool error: {lane.tool} hangs: {SIDE_BY_SIDE} earlier calls have given no answer "
                f"within {job.seconds:g} seconds"
            )
            refused[job] = [Answer(text, ErrorKind.NO_ANSWER)] * len(job.places)
        return refused

    # --- in a thread of its own ------------------------------------------------------------------

    def _work(self, lane: _Lane, done: SimpleQueue[_Done]) -> None:
        """Does one job after the other until none waits."""
        try:
            while job := lane.take():
                job.deadline = time.monotonic() + job.seconds
                result = self._result(job)
                done.put(_Done(job, result, time.monotonic()))
                job.over = True
                self._hanging[job.tool].discard(job)
        finally:
            self._threads[lane.tool].discard(threading.current_thread())

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
            parts = output.parts if isinstance(output, ToolResponse) else ()
            text = output.text if isinstance(output, ToolResponse) else output
            if not isinstance(text, str | Number):
                raise TypeError(f"the tool returned {type(text).__name__}, not text")
            text, cut = self._plain(str(text))
            return Answer(text, details=details, cut=cut, parts=[self._plain(p)[0] for p in parts])
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
        return well_formed(kept), len(text) > self.longest

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


def _read(done: _Done) -> dict[_Job, list[Answer]]:
    """What came of a job. Raises what ends the run."""
    if isinstance(done.result, BaseException):
        raise done.result
    return {done.job: _late(done.job) if done.when > done.job.deadline else done.result}


def _late(job: _Job) -> list[Answer]:
    text = f"Tool error: {job.tool} gave no answer within {job.seconds:g} seconds"
    return [Answer(text, ErrorKind.NO_ANSWER)] * len(job.places)


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
