"""A stage by `dvc repro`, inside a job of Slurm: what scripts/slurm.sbatch runs, `python -m scripts.slurm_job STAGE`.

SIGTERM, when Slurm preempts or cancels the job, comes to all its processes. The stage saves its state and
ends. DVC waits for that, and gives its locks back. SIGUSR1 comes to this process alone when the job's time
is nearly up: the stage is stopped likewise, and the job waits for another turn.
"""

import os
import signal
import sys


def main(stage: str) -> None:
    """Runs the stage. Ends with DVC's status, or by putting the job back into the queue."""
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        os.killpg(0, signal.SIGTERM)

    # A handler is not inherited, unlike SIG_IGN: the stage is stopped by what does nothing here.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGUSR1, stop)
    from dvc.cli import main as dvc  # takes a second, in which a signal may come

    status = dvc(["--wait-for-lock", "repro", "--single-item", stage])
    if status and asked:
        os.execlp("scontrol", "scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
