"""The python tool: what programs print, what is said of programs that fail, and that none gets out."""

import os
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipeline.tools import ToolError
from pipeline.tools.python import MODULES, PythonInterpreter

LIMIT = 0.5


@pytest.fixture(scope="module")
def interpreter():
    return PythonInterpreter(time_limit=LIMIT)


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("print(1 + 2)", "3"),
        ("\ndef solution():\n    a = 23 - 5 * 3\n    return a\nprint(solution())\n", "8"),
        ("print(7 / 2)", "3.5"),
        ("for i in range(3):\n    print(i)", "0\n1\n2"),
        ("print('a', 'b', sep='-', end='!')", "a-b!"),
        ("import math\nprint(math.gcd(12, 18))", "6"),
        ("print(sum(n * n for n in [1, 2, 3]))", "14"),
        ("print('é😀')", "é😀"),
        ("print(8)\n8", "8"),  # a value is no print
        ("if __name__ == '__main__':\n    print(1)", "1"),
        ("```python\nprint(1 + 1)\n```", "2"),
        ("\n~~~\nif True:\n    print(3)\n~~~\n", "3"),
        ("```print(4)```", "4"),
        ("```python print(5)```", "5"),
        ("````py\nprint('```')\n````", "```"),
        ("```\nprint(6)", "6"),
        ("~~~7\nprint(~~~7)", "-8"),  # no fence, but bitwise not
    ],
)
def test_what_a_program_prints_is_the_answer(interpreter, program, printed):
    assert str(interpreter(program)) == printed


@pytest.mark.parametrize(
    ("program", "complaint", "kind"),
    [
        ("print(1 / 0)", "ZeroDivisionError: division by zero", "runtime"),
        ("print(x)", "NameError: name 'x' is not defined", "runtime"),
        ("raise ValueError('a\\nb')", "ValueError: a b", "runtime"),
        ("print(1)\nraise KeyError('k')", "KeyError: k", "runtime"),
        ("def solution(:\n", "SyntaxError: ", "syntax"),
        ("", "the program printed nothing", "refused"),
        ("8", "the program printed nothing", "refused"),
        ("print()", "the program printed nothing", "refused"),
        (
            "import numpy",
            "ModuleNotFoundError: No module named 'numpy'; there is only collections,",
            "missing",
        ),
        (
            "from fractions import Fraction",
            "No module named 'fractions'; there is only coll",
            "missing",
        ),
        ("while True: pass", "TimeoutError: the program took longer than 0.5 s", "timeout"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError", "runtime"),
        ("x = [0] * 10 ** 9", "MemoryError", "runtime"),
        ("print('a' * 1001)", "the program printed more than 1000 characters", "refused"),
        ("raise ValueError('a' * 10 ** 6)", "ValueError: aaa", "runtime"),
        ("raise TimeoutError('mine')", "TimeoutError: mine", "timeout"),
    ],
)
def test_what_is_wrong_with_a_program(interpreter, program, complaint, kind):
    with pytest.raises(ToolError) as error:
        interpreter(program)
    assert complaint in str(error.value)
    assert error.value.kind == kind
    assert len(str(error.value)) <= 1000
    assert "\n" not in str(error.value)


def test_the_modules_named_are_there(interpreter):
    for module in MODULES:
        assert str(interpreter(f"import {module}\nprint(1)")) == "1"


def test_limits_are_what_they_are_set_to():
    small = PythonInterpreter(time_limit=0.1, memory_limit=8, recursion_limit=20, output_limit=5)
    assert str(small("print(12345)")) == "12345"
    for program, complaint in (
        ("print(123456)", "more than 5 characters"),
        ("x = 'a' * 9 * 2 ** 20\nprint(len(x))", "Memor"),
        ("def f(n):\n    return n and f(n - 1)\nprint(f(30))", "Recur"),
    ):
        with pytest.raises(ToolError, match=complaint):
            small(program)
    assert str(PythonInterpreter()("x = 'a' * 9 * 2 ** 20\nprint(len(x))")) == str(9 * 2**20)
    assert str(PythonInterpreter()("def f(n):\n    return n and f(n - 1)\nprint(f(30))")) == "0"


def test_every_call_starts_from_nothing(interpreter):
    interpreter("x = 1\nprint(x)")
    for _ in range(4):
        with pytest.raises(ToolError, match="NameError"):
            interpreter("print(x)")


def test_a_program_prints_the_same_whenever_it_runs(interpreter):
    program = "import random, datetime\nprint(random.random(), datetime.datetime.now())"
    assert (
        str(interpreter(program)) == str(interpreter(program)) == str(PythonInterpreter()(program))
    )


def test_calls_of_a_turn_run_side_by_side_and_keep_their_order(interpreter):
    began = time.perf_counter()
    answers = interpreter.batch(["while True: pass", "while True: pass", "print(1)", "print(2)"])
    assert time.perf_counter() - began < 2 * LIMIT
    assert [str(answer) for answer in answers[2:]] == ["1", "2"]


def test_the_time_for_many_calls_grows_with_them():
    interpreter = PythonInterpreter(workers=3)
    assert [interpreter.seconds(calls, 10.0) for calls in (1, 3, 4, 9)] == [10, 10, 20, 30]


def test_an_answer_does_not_wait_until_the_program_has_been_cleared_away(interpreter, monkeypatch):
    """To drop a deep structure takes a worker a while."""
    cleared = threading.Event()
    genuine = interpreter._pool.checkout

    @contextmanager
    def checkout(**options):
        with genuine(**options) as session:
            yield session
            cleared.wait(30)

    monkeypatch.setattr(interpreter, "_pool", SimpleNamespace(checkout=checkout))
    assert str(interpreter("print(1)")) == "1"
    cleared.set()


def test_a_sandbox_that_does_not_start_is_no_fault_of_the_program(interpreter, monkeypatch):
    def checkout(**options):
        raise RuntimeError("no worker")

    monkeypatch.setattr(interpreter, "_pool", SimpleNamespace(checkout=checkout))
    with pytest.raises(RuntimeError, match="no worker"):
        interpreter("print(1)")


def test_a_killed_worker_is_replaced():
    interpreter = PythonInterpreter(time_limit=30)
    answers = []

    def run():
        answers.append(interpreter.batch(["while True: pass"])[0])

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(1)
    subprocess.run(["pkill", "-9", "-P", str(os.getpid()), "monty"], check=True)
    thread.join()
    assert isinstance(answers[0], ToolError)
    assert "crashed the interpreter" in str(answers[0])
    assert answers[0].kind == "runtime"
    assert [str(a) for a in interpreter.batch(["print(1)"] * 4)] == ["1"] * 4


# Each of these asks for something that no program may have, or for too much of what it may.
HOSTILE = """
open('FILE', 'w').write('x')
open('FOLDER/mine')
print(open('FOLDER/mine').read())
open(0)
print(open('/etc/passwd').read())
with open('/proc/self/environ') as f: print(f.read())
import os; print(os.environ)
import os; print(os.getenv('SECRET_KEY'))
import os; os.system('touch FILE')
import os; os.popen('touch FILE').read()
import os; os.remove('FOLDER/mine')
import os; print(os.listdir('/'))
import os; os.mkdir('FILE')
import os; os.fork()
import os; os.kill(1, 0)
import os; os._exit(1)
import os; os.execv('/bin/sh', ['sh'])
import os; os.chdir('/etc'); print(open('passwd').read())
import os; os.open('FILE', 64)
import subprocess; subprocess.run(['touch', 'FILE'])
import socket; socket.create_connection(('127.0.0.1', PORT))
import urllib.request; urllib.request.urlopen('http://127.0.0.1:PORT')
import http.client
import requests
import ctypes; ctypes.string_at(0)
import pathlib; pathlib.Path('FILE').touch()
from pathlib import Path; print(Path('/etc/passwd').read_text())
from pathlib import Path; print(list(Path('/').iterdir()))
import shutil; shutil.rmtree('FOLDER')
import tempfile; tempfile.mkstemp()
import sys; sys.modules['os'].system('touch FILE')
import sys; sys.setrecursionlimit(10 ** 9)
import sys; sys.stdout = None
import sys; print(sys._getframe().f_globals)
import importlib; importlib.import_module('subprocess')
import builtins; builtins.open('FILE', 'w')
import pickle; pickle.loads(b"cos\\nsystem\\n(S'touch FILE'\\ntR.")
import signal; signal.alarm(1)
import threading; threading.Thread(target=print).start()
import multiprocessing; multiprocessing.Process(target=print).start()
import gc; print(gc.get_objects())
import inspect; print(inspect.currentframe())
import asyncio; asyncio.run(asyncio.create_subprocess_shell('touch FILE'))
import asyncio; asyncio.run(asyncio.sleep(3600)); print(1)
import time; time.sleep(3600); print(1)
__import__('os').system('touch FILE')
__import__('subprocess').run(['touch', 'FILE'])
eval("__import__('os').system('touch FILE')")
exec("open('FILE', 'w')")
compile("open('FILE', 'w')", '', 'exec')
print(().__class__.__bases__[0].__subclasses__())
print([c for c in object.__subclasses__()])
print((lambda: 0).__globals__['__builtins__'])
print((lambda: 0).__code__.replace(co_code=b''))
print(print.__self__.open('FILE', 'w'))
print(str.__mro__[1].__subclasses__())
print(type('X', (), {}).__dict__['__module__'].__class__)
print('{0.__class__.__mro__}'.format(1))
print(globals()['__builtins__'])
print(vars())
input()
breakpoint()
exit()
quit()
raise SystemExit(0)
raise KeyboardInterrupt
while True: pass
while True: print('x' * 1000)
for i in range(10 ** 12): pass
sum(range(10 ** 12))
max(range(10 ** 12))
sorted(range(10 ** 9))
[x for x in range(10 ** 9)]
x = list(range(10 ** 9))
x = {i: str(i) for i in range(10 ** 9)}
x = 'a' * 10 ** 10
x = bytearray(10 ** 10)
x = 'a'.rjust(10 ** 10)
x = '%10000000000d' % 1
x = f'{1:10000000000}'
x = 10 ** 10 ** 10
x = 9 ** 9 ** 9
x = 10 ** (10 ** 7)
x = 1 << 10 ** 11
x = pow(3, 10 ** 9)
print(10 ** 100000)
print(int('9' * 10 ** 6))
import math; print(math.factorial(10 ** 6))
import math; print(math.comb(10 ** 7, 10 ** 6))
import itertools; print(list(itertools.repeat(1)))
import itertools; print(len(list(itertools.permutations(range(12)))))
import re; print(re.match('(a+)+$', 'a' * 40 + 'b'))
import re; print(re.sub('a', 'b' * 10 ** 6, 'a' * 10 ** 6))
import json; print(json.loads('[' * 10 ** 5))
import random; print(random.sample(range(10 ** 9), 10 ** 8))
print('x' * 10 ** 7)
f = lambda n: f(n + 1); f(0)
x = []; x.append(x); print(x == x, str(x) * 10 ** 6)
""".strip().splitlines()

HARMLESS = ("asyncio.sleep", "time.sleep", "re.match")  # of those above; they are over at once

LONG_HOSTILE = [
    "a = [1]\nfor i in range(100): a = [a, a]\nprint(len(str(a)))",
    "a = []\nwhile True:\n    a.append('x' * 10 ** 6)",
    "a = 'x'\nwhile True:\n    a += a",
    "class A:\n    def __repr__(self): return repr(self)\nprint(A())",
    "class A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nA().y",
    "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
    "def f():\n    try:\n        f()\n    finally:\n        f()\nf()",
    "(" * 10**5,
    "-" * 10**5 + "1",
    "[" * 10**5 + "]" * 10**5,
    "x = " + "1+" * 10**5 + "1",
    "'" + "a" * 10**6 + "'",
    "\x00",
    "print(1)\x00",
    "\ud800",
    "é" * 1000,
    "# coding: rot13\ncevag(1)",
]


@pytest.mark.timeout(150)
def test_no_program_gets_out_or_takes_too_long(tmp_path, monkeypatch):
    secret, mine = "do-not-print-me", tmp_path / "mine"
    monkeypatch.setenv("SECRET_KEY", secret)
    mine.write_text(secret)
    interpreter = PythonInterpreter(time_limit=LIMIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        names = {
            "FILE": str(tmp_path / "made"),
            "FOLDER": str(tmp_path),
            "PORT": str(server.getsockname()[1]),
        }
        programs = [line.replace("; ", "\n") for line in HOSTILE] + LONG_HOSTILE
        assert len(programs) >= 60
        for program in programs:
            for name, value in names.items():
                program = program.replace(name, value)
            began = time.perf_counter()
            (answer,) = interpreter.batch([program])
            assert time.perf_counter() - began < LIMIT + 0.5, program
            if program not in LONG_HOSTILE and not any(name in program for name in HARMLESS):
                assert isinstance(answer, ToolError), program
                assert "printed nothing" not in str(answer), program
            assert secret not in str(answer), program
            assert "root:" not in str(answer), program
            assert len(str(answer)) <= 1000, program
            assert str(interpreter("print('alive')")) == "alive", program
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.read_text() == secret
