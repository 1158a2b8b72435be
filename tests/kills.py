"""A training under DVC that is killed again and again, and what must then hold: for `make torture` and a test.

python -m tests.kills FOLDER TIMES [SEED]
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from pipeline.lifetime import all_live
from pipeline.models.fetch import SOURCE_FILE
from pipeline.models.policy import save_model
from pipeline.workspace import BASE
from scripts.preset import set_params
from tests.project_copy import ROOT, git
from tests.tiny import make_model, make_tokenizer

STAGE = "train@arithmetic-1"
OUTPUTS = ("data/models/arithmetic-rl-1", "data/training/arithmetic-1")
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
}
COMMANDS = {
    "dvc": ["dvc", "repro", "--no-run-cache", "--single-item", STAGE],
    "make repro": [sys.executable, "-m", "scripts.repro", STAGE, "1"],
}
SECONDS = {signal.SIGKILL: 2.0, signal.SIGTERM: 2.0, signal.SIGHUP: 2.0, signal.SIGINT: 5.0}
"""Until everything below has ended, and a second for a busy machine."""


def make_project(folder: Path, **train: object) -> None:
    """A repository of the project's code, params of a short training, and its inputs."""
    folder.mkdir(parents=True)
    for name in ("pipeline", "stages", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(
        folder / "params.yaml",
        {
            "tasks": ["arithmetic"],
            "snapshot_seconds": 0.2,
            "machine.precision": "float32",
            "ppo.mini_batch_size": 4,
            "ppo.adap_kl_ctrl": True,
            "ppo.epochs": 2,
            "arithmetic.data.train": 40,
            "arithmetic.data.test": 4,
            "arithmetic.environment.max_new_tokens": 40,  # a character is a token or two
            "arithmetic.train.warmup_steps": 0,
            "arithmetic.train.episodes_per_step": 8,
            **{f"arithmetic.train.{key}": value for key, value in train.items()},
        },
    )
    save_model(make_model(), make_tokenizer(), folder / BASE)
    (folder / BASE / SOURCE_FILE).write_text('{"source": "path"}\n')
    (folder / "data/models/arithmetic-sft").mkdir()
    for stage in ("prepare", "demonstrate"):
        command = [sys.executable, "-m", f"stages.{stage}", "arithmetic"]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    train_stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    train_stage["deps"] = [dep for dep in train_stage["deps"] if dep.startswith(("data", "stages"))]
    (folder / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"train": train_stage}}, sort_keys=False)
    )
    (folder / ".gitignore").write_text("data/\nlive/\n")
    git(folder, "init", "-q")
    subprocess.run(["dvc", "init", "-q"], cwd=folder, env=ENVIRONMENT, check=True)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a training")


def outcome(folder: Path) -> dict[str, bytes]:
    """What a training left: its outputs, file by file, and DVC's record of it."""
    files = [file for output in OUTPUTS for file in (folder / output).rglob("*") if file.is_file()]
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in [*sorted(files), folder / "dvc.lock"]
    }


def forget(folder: Path) -> None:
    """Has the next training begin anew."""
    for output in (*OUTPUTS, "data/snapshots", "live"):
        shutil.rmtree(folder / output, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)


def litter(folder: Path) -> list[str]:
    """What is in the folder of data that no training that ended well leaves, but for what waits to be cleared."""
    found = [*(folder / "data").rglob("*.partial"), *(folder / "data/snapshots").glob("*")]
    return [str(f.relative_to(folder)) for f in found if not f.name.endswith(".finished.pt")]


def begin(folder: Path, command: str, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Starts a command in a session of its own, as a terminal would."""
    return subprocess.Popen(
        COMMANDS[command],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def reproduce(folder: Path, command: str = "dvc") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMANDS[command],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclass
class Kill:
    """How a training was killed: `whom` is "all", "stage", or the command's first process."""

    command: str
    whom: str
    number: signal.Signals
    after: float  # seconds

    def __str__(self) -> str:
        return f"{self.number.name} to {self.whom} of {self.command} after {self.after:.2f} s"


@dataclass
class Ended:
    """How many seconds the processes of a killed training took to end."""

    stage: float  # the stage; 0 if there was none
    all: float  # all of them, DVC and make among them

    def __str__(self) -> str:
        return f"the stage {self.stage:.1f} s, all {self.all:.1f} s"


def kill(folder: Path, how: Kill) -> Ended | None:
    """Starts a training, and kills it. Returns how long it then took to end, None if it had ended before."""
    first = begin(folder, how.command, output=subprocess.DEVNULL)
    time.sleep(how.after)
    processes = family(first.pid)
    if first.poll() is not None or not processes:
        return None
    stage = stage_of(processes)
    # Where there is no stage, DVC is at work before or after it.
    one = stage if stage and how.whom == "stage" else processes[0]
    for process in processes if how.whom == "all" else [one]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how.number)
    begun = time.monotonic()
    ended = Ended(0.0, 0.0)
    alive = processes
    while alive:
        seconds = time.monotonic() - begun
        assert seconds < 60, f"{how}: still running: {[_command(p) for p in alive]}"
        alive = [process for process in alive if all_live([process])]
        if not alive:
            ended.all = seconds
        if stage and not ended.stage and stage not in alive:
            ended.stage = seconds
        time.sleep(0.02)
    first.wait()
    return ended


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def stage_of(processes: list[psutil.Process]) -> psutil.Process | None:
    """The stage among the processes of a command."""
    return next((p for p in processes if "stages.train" in _command(p)), None)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def drawn(draw: random.Random, longest: float) -> Kill:
    """A kill of any kind that users and machines are capable of, at a moment up to `longest` seconds."""
    command = draw.choice(list(COMMANDS))
    whom = draw.choice(["all", "stage", command])
    number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    if whom == "dvc" and number == signal.SIGINT:
        whom = "all"  # DVC ignores it while a stage runs: a terminal sends it to all
    return Kill(command, whom, number, draw.uniform(0.1, longest))


def main(folder: Path, times: int, seed: int = 0) -> None:
    """Kills a training as often as told, lets it go on, and compares every byte."""
    make_project(folder, steps=60)
    begun = time.monotonic()
    first = reproduce(folder)
    assert first.returncode == 0, first.stdout
    takes = time.monotonic() - begun
    expected = outcome(folder)
    draw = random.Random(seed)
    faults: Counter[str] = Counter()
    late: list[int] = []
    went_on = 0
    for number in range(1, times + 1):
        forget(folder)
        how = drawn(draw, takes)
        ended = kill(folder, how)
        went_on += any((folder / "data/snapshots").glob("*.pt"))
        again = reproduce(folder, how.command)
        wrong = []
        if again.returncode:
            wrong.append("the next command failed:\n" + again.stdout)
        elif outcome(folder) != expected:
            wrong.append("other bytes")
        wrong += [f"left {name}" for name in litter(folder)]
        said = str(ended or "it had ended before")
        if ended and ended.all > SECONDS[how.number] + 1:
            late.append(number)
        # Others' work takes the time of what is to end.
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        print(f"{number}: {how}: {', '.join(wrong) or 'right'}; {said}; {load}", flush=True)
        faults.update(message.split("\n")[0] for message in wrong)
    print(f"{times} kills within {takes:.1f} s, {went_on} of which left a state to go on from")
    print(f"too slow to end: {late or 'none'}")
    print(f"faults: {dict(faults) or 'none'}")
    sys.exit(bool(faults or late))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
