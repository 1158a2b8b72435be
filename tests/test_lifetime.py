import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.lifetime import all_live, interruptions_wait, only_one, parents


def python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options
    )


def test_one_at_a_time_and_another_is_told_since_when(tmp_path):
    file = tmp_path / "locks/work.lock"
    code = f"""
import pathlib, time
from pipeline.lifetime import only_one
with only_one(pathlib.Path({str(file)!r}), "the work"):
    print("begun", flush=True)
    time.sleep(60)
"""
    first = python(code)
    assert first.stdout.readline() == "begun\n"
    told = rf"the work is running already \(process {first.pid}, since 20..-..-.. ..:..:..\): wait"
    with pytest.raises(PipelineError, match=told), only_one(file, "the work", seconds=0.3):
        pass
    first.kill()
    with only_one(file, "the work", seconds=10):  # a dead process holds nothing
        pass
    with only_one(file, "the work"):
        pass


def test_a_process_whose_parent_has_ended_stops(tmp_path):
    """Also if the parent is a shell, and if it is busy in a call that no signal interrupts."""
    child = f"""
import signal, sys, threading, time
from pathlib import Path
from pipeline.lifetime import parents, stop_after
signal.signal(signal.SIGTERM, lambda *_: Path({str(tmp_path / "told")!r}).touch() or sys.exit(143))
busy = len(sys.argv) > 1
stop_after(parents(), lambda: True)
print("begun", flush=True)
if busy:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
time.sleep(60)
"""
    (tmp_path / "child.py").write_text(child)
    for busy in ("", " busy"):
        parent = python(
            f"import subprocess, time; subprocess.Popen('{sys.executable} {tmp_path}/child.py{busy}; true', "
            "shell=True); time.sleep(60)",
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        begun = time.monotonic()
        assert parent.stdout.read() == ""  # until all that hold the pipe have ended
        assert time.monotonic() - begun < 20
        assert (tmp_path / "told").exists()


def test_parents_go_up_to_the_first_that_is_no_shell():
    code = "from pipeline.lifetime import parents; print([p.pid for p in parents()])"
    shell = subprocess.run(
        f'"{sys.executable}" -c "{code}"; true',
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    pids = eval(shell.stdout)
    assert len(pids) == 2
    assert pids[1] == os.getpid()
    assert all_live(parents())


def test_a_process_that_nobody_has_buried_does_not_live():
    import psutil

    child = python("import time; time.sleep(60)")
    process = psutil.Process(child.pid)
    assert all_live([process])
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not all_live([process])
    child.wait()
    assert not all_live([process])


def test_a_signal_waits_until_the_block_has_ended():
    done = []

    def block():
        with interruptions_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("the block")
        done.append("what follows")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the block"]


def test_only_a_signal_that_comes_later_does_not_wait(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    done = []

    def block():
        with interruptions_wait():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append("after two that are one")
            now[0] += 3
            signal.raise_signal(signal.SIGINT)
            done.append("after the next")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["after two that are one"]


def test_who_is_about_to_end_is_not_told_again(tmp_path):
    """A terminal tells the whole group: the parent ends at once, and the child has work to save."""
    code = f"""
import signal, time
from pathlib import Path
from pipeline.lifetime import interruptions_wait, parents, stop, stop_after
signal.signal(signal.SIGTERM, stop)
stop_after(parents(), lambda: False)
with interruptions_wait():
    print("begun", flush=True)
    time.sleep(4)
    Path({str(tmp_path / "saved")!r}).touch()
"""
    (tmp_path / "child.py").write_text(code)
    parent = python(
        f"import subprocess; subprocess.run([{sys.executable!r}, {str(tmp_path / 'child.py')!r}])",
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        start_new_session=True,
    )
    assert parent.stdout.readline() == "begun\n"
    os.killpg(parent.pid, signal.SIGTERM)
    assert parent.stdout.read() == ""  # until the child has ended
    assert (tmp_path / "saved").exists()


def test_who_is_taken_over_by_the_first_process_has_no_parent(monkeypatch):
    import psutil

    class First:
        pid = 1

        def __init__(self, *command):
            self.cmdline = lambda: list(command)

        def name(self):
            return "init"

    for command, expected in ((["/sbin/init"], 0), (["python", "/usr/bin/dvc", "repro"], 1)):
        monkeypatch.setattr(psutil.Process, "parents", lambda self, c=command: [First(*c)])
        assert len(parents()) == expected
