"""Whatever a tool does, each call gets an answer in time, and the process can end."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from pipeline.environment.calling import SIDE_BY_SIDE, Caller
from pipeline.errors import PipelineError
from pipeline.tools import BatchTool, ErrorKind, ToolError, ToolResponse
from pipeline.tools.protocol import ToolCall

LIMIT = 0.3


def ask(tool, arguments=("ab",), timeout=10.0, longest=1000):
    """The answers of one tool to the calls of a turn."""
    caller = Caller({"T": tool}, timeout, longest)
    return caller.answers([ToolCall("T", argument) for argument in arguments])


def said(tool, **options):
    """A tool's answer to one call: its text, and the kind of what went wrong."""
    (answer,) = ask(tool, **options)
    return answer.text, answer.kind


def threads():
    return sum(thread.name == "tool T" for thread in threading.enumerate())


def exits(text):
    sys.exit(text)


async def coroutine(text):
    await asyncio.sleep(0)
    return text.upper()


async def exits_in_a_coroutine(text):
    await asyncio.sleep(0)
    sys.exit(3)


class Silent(Exception):  # noqa: N818
    def __str__(self):
        raise ValueError("not even that")


def silent(_):
    raise Silent


class Awaited:
    async def __call__(self, text):
        return ToolResponse(text * 2)


class Cancelled:
    def __call__(self, text):
        raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        (coroutine, "AB"),
        (lambda text: coroutine(text), "AB"),
        (Awaited(), "abab"),
        (lambda _: ToolResponse("x"), "x"),
        (lambda _: 42, "42"),
        (lambda _: 2.5, "2.5"),
        (lambda _: True, "True"),
        (lambda _: "", ""),
        (lambda _: "half \ud83d", "half \ufffd"),
        (lambda _: "\ude00 half", "\ufffd half"),
        (lambda _: "both \ud83d\ude00", "both 😀"),
        (lambda _: "\0a\0", "\ufffda\ufffd"),
    ],
)
def test_what_is_text_or_becomes_text(tool, text):
    assert said(tool) == (text, None)


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        (lambda _: None, "the tool returned NoneType, not text"),
        (lambda _: ["a"], "the tool returned list, not text"),
        (lambda _: b"a", "the tool returned bytes, not text"),
        (lambda _: ToolResponse(None), "the tool returned NoneType, not text"),
        (lambda _: 10**5000, "Exceeds the limit"),
        (lambda _: ValueError("returned"), "returned"),
        (lambda _: 1 / 0, "division by zero"),
        (lambda _: next(iter([])), "StopIteration"),
        (exits, "SystemExit: ab"),
        (exits_in_a_coroutine, "SystemExit: 3"),
        (silent, "Silent"),
        (Cancelled(), "CancelledError"),
    ],
)
def test_what_is_no_text_and_no_answer_is_a_failure_of_the_tool(tool, complaint):
    text, kind = said(tool)
    assert text.startswith(f"Tool error: {complaint}")
    assert kind == ErrorKind.CRASHED


def test_what_is_wrong_with_the_input_is_none():
    def refuses(text):
        raise ToolError(f"no {text}\ud83d", ErrorKind.SYNTAX)

    assert said(refuses) == ("Tool error: no ab\ufffd", ErrorKind.SYNTAX)
    assert said(lambda _: ToolError("returned")) == ("Tool error: returned", ErrorKind.REFUSED)
    assert [kind for kind in ErrorKind if kind.outage] == [ErrorKind.CRASHED, ErrorKind.NO_ANSWER]


def test_a_tool_that_exits_in_a_coroutine_can_be_called_again():
    caller = Caller({"T": exits_in_a_coroutine}, 10.0, 1000)
    for _ in range(2):
        (answer,) = caller.answers([ToolCall("T", "ab")])
        assert answer.kind == ErrorKind.CRASHED


@pytest.mark.parametrize("error", [PipelineError("mend this"), KeyboardInterrupt()])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_ends_the_run(error, asynchronous):
    def tool(_):
        raise error

    async def coroutine(_):
        raise error

    with pytest.raises(type(error)):
        ask(coroutine if asynchronous else tool, ["ab"] * 3)


def test_megabytes_are_cut_at_once():
    (answer,) = ask(lambda _: "x" * 50_000_000, longest=640)
    assert answer.text == "x" * 640
    assert answer.cut
    (answer,) = ask(lambda _: "x" * 640, longest=640)
    assert not answer.cut


async def sleeps(text):
    await asyncio.sleep(float(text))
    return text


async def ignores_that_it_is_cancelled(text):
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            continue


def blocks(text):
    time.sleep(float(text))
    return text


@pytest.mark.parametrize("tool", [sleeps, blocks])
def test_a_call_that_takes_too_long_is_given_up_and_the_others_are_answered(tool):
    began = time.monotonic()
    late, early, also = ask(tool, ["2", "0", "0.1"], timeout=LIMIT)
    assert time.monotonic() - began < 1.5
    assert late.text == "Tool error: T gave no answer within 0.3 seconds"
    assert late.kind == ErrorKind.NO_ANSWER
    assert [early.text, also.text] == ["0", "0.1"]


def test_a_late_result_is_thrown_away():
    caller = Caller({"T": blocks}, LIMIT, 1000)
    caller.answers([ToolCall("T", "0.5")])
    time.sleep(0.4)
    assert [a.text for a in caller.answers([ToolCall("T", "0"), ToolCall("T", "0.1")])] == [
        "0",
        "0.1",
    ]


@pytest.mark.parametrize("tool", [sleeps, blocks])
def test_calls_of_a_turn_run_side_by_side(tool):
    began = time.monotonic()
    answers = ask(tool, ["0.5"] * SIDE_BY_SIDE)
    assert time.monotonic() - began < 2
    assert {answer.text for answer in answers} == {"0.5"}


def test_more_calls_than_may_run_at_once_are_all_answered():
    """The time limit is a call's, not the turn's: the last ones begin late."""
    answers = ask(blocks, ["0.2"] * 3 * SIDE_BY_SIDE, timeout=0.5)
    assert {answer.text for answer in answers} == {"0.2"}


def test_a_tool_that_hangs_on_each_call_does_not_pile_up_threads():
    release = threading.Event()

    def hangs(text):
        release.wait()
        return text

    caller = Caller({"T": hangs}, LIMIT, 1000)
    before = threads()
    for _ in range(3):
        began = time.monotonic()
        answers = caller.answers([ToolCall("T", "ab")] * 100)
        assert time.monotonic() - began < 3
        assert {answer.kind for answer in answers} == {ErrorKind.NO_ANSWER}
        assert threads() - before == SIDE_BY_SIDE
    assert "T hangs: 32 earlier calls have given no answer within 0.3 seconds" in answers[-1].text
    release.set()
    while threads() > before:
        time.sleep(0.01)
    assert caller.answers([ToolCall("T", "ab")])[0].text == "ab"


def test_a_tool_that_hangs_does_not_hinder_another():
    caller = Caller({"T": blocks, "U": str}, LIMIT, 1000)
    slow, quick = caller.answers([ToolCall("T", "2"), ToolCall("U", "ab")])
    assert (slow.kind, quick.text) == (ErrorKind.NO_ANSWER, "ab")


def test_coroutines_of_a_tool_share_an_event_loop():
    loops = set()

    async def tool(text):
        loops.add(asyncio.get_running_loop())
        return text

    caller = Caller({"T": tool}, 10.0, 1000)
    for _ in range(2):
        caller.answers([ToolCall("T", "ab")] * 5)
    assert len(loops) == 1
    (loop,) = loops
    del caller
    for _ in range(200):
        if loop.is_closed():
            break
        time.sleep(0.01)
    assert loop.is_closed()


@pytest.mark.parametrize("name", ["blocks", "ignores_that_it_is_cancelled"])
def test_a_call_that_hangs_does_not_keep_the_process(name):
    program = (
        "from tests.environment.test_calling import *\n"
        f"print(ask({name}, ['100'], timeout=LIMIT)[0].text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "Tool error: T gave no answer within 0.3 seconds\n", done.stderr
    assert done.returncode == 0


class Batched(BatchTool):
    """Does with the arguments what it is told."""

    def __init__(self, does, waves=1):
        self.does, self.waves = does, waves

    def batch(self, arguments):
        return self.does(arguments)

    def seconds(self, calls, limit):
        return limit * self.waves


@pytest.mark.parametrize(
    ("does", "complaint"),
    [
        (lambda arguments: arguments[:-1], "T returned no list of one output for each call"),
        (lambda arguments: "ab", "T returned no list of one output for each call"),
        (lambda arguments: None, "T returned no list of one output for each call"),
        (lambda arguments: sys.exit("bye"), "SystemExit: bye"),
    ],
)
def test_a_batch_that_fails_fails_for_all_its_calls(does, complaint):
    answers = ask(Batched(does), ["a", "b"])
    assert [answer.text for answer in answers] == [f"Tool error: {complaint}"] * 2


def test_a_batch_may_fail_in_part():
    answers = ask(Batched(lambda _: [ToolResponse("x", {"n": 1}), None, ToolError("no")]), "abc")
    assert [answer.text for answer in answers] == [
        "x",
        "Tool error: the tool returned NoneType, not text",
        "Tool error: no",
    ]
    assert [answer.kind for answer in answers] == [None, "crashed", "refused"]
    assert answers[0].details == {"n": 1}


def test_a_batch_has_the_time_that_its_tool_asks_for():
    def does(arguments):
        time.sleep(1.5 * LIMIT)
        return list(arguments)

    assert ask(Batched(does), timeout=LIMIT)[0].kind == ErrorKind.NO_ANSWER
    assert ask(Batched(does, waves=3), timeout=LIMIT)[0].text == "ab"
