"""A real Slurm of one node on this machine, in a folder, without systemd: for tests/scripts/test_slurm.py."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin"
"""Debian keeps daemons where not every user looks."""

# Two partitions of the same node, the second of which takes it from the first. The node says that it has
# processors, memory and GPUs that it has not, so that scripts/slurm.sbatch needs no edit. Credentials end
# soon: a job that was stopped is not started again before.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=10
MpiDefault=none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:16 State=UNKNOWN
PartitionName=usual Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> list[str]:
    """The programs that are needed and not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Starts the daemons, and ends them and all jobs at the end. Yields environment variables to reach it by."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    for number in range(16):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-15]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    variables = {"SLURM_CONF": str(conf), "PATH": PATH}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munged += [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
    munged.append(f"--socket={folder}/munge.sock")
    with ExitStack() as daemons:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            daemons.enter_context(_daemon(command, variables, folder))
        _until_idle(variables, folder)
        try:
            yield variables
        finally:
            _ask(variables, "scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            _ask(variables, "scancel", f"--user={getpass.getuser()}")
            _until_idle(variables, folder)


@contextmanager
def _daemon(command: list[str], variables: dict[str, str], folder: Path) -> Iterator[None]:
    with (
        (folder / f"{command[0]}.out").open("w") as out,
        subprocess.Popen(
            command, env=os.environ | variables, stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _until_idle(variables: dict[str, str], folder: Path) -> None:
    """Waits until the node has no job."""
    for _ in range(300):
        if _ask(variables, "sinfo", "--noheader", "--format=%t").split()[:1] == ["idle"]:
            return
        time.sleep(0.2)
    logs = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in folder.glob("*.out"))
    raise RuntimeError(f"Slurm's node is not idle after a minute\n{logs}")


def _ask(variables: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ).stdout


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
