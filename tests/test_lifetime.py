import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.lifetime import all_live, only_one, parents


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
