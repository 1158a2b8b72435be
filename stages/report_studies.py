"""Writes what the studies found: a page, its figures, and the numbers."""

import json

from pipeline.errors import PipelineError
from pipeline.reporting.studies import TARGET, StudyRun, figures, render, summarize
from pipeline.workspace import ARMS, REPORTS, RUNS, read_arms, read_run
from stages.common import outputs, run_stage


def main() -> None:
    """Writes reports/studies from the runs there are in studies/runs."""
    with outputs(REPORTS / "studies", inputs=read_arms) as (beside,):
        changes = read_arms()
        tasks = _read(list(changes))
        if not tasks:
            raise PipelineError(f"{RUNS} holds no runs: run `make studies` first")
        drawn = figures(tasks)
        summaries = {task: summarize(arms) for task, arms in tasks.items()}
        beside.mkdir()
        (beside / "index.html").write_text(render(tasks, summaries, changes, drawn))
        (beside / "metrics.json").write_text(json.dumps(summaries, indent=2) + "\n")
        for name, svg in drawn.items():
            (beside / f"{name}.svg").write_text(svg)
    for task, arms in summaries.items():
        for arm, found in arms.items():
            accuracy = found["accuracies"]["sampled"]
            print(
                f"{task}, {arm}: sampled accuracy {accuracy['accuracy']:.1%} ({accuracy['low']:.1%} to "
                f"{accuracy['high']:.1%}), {found['reached']['sampled']} of {len(found['seeds'])} seeds at "
                f"{TARGET:.0%}, greedy {found['reached']['greedy']}"
            )


def _read(arms: list[str]) -> dict[str, dict[str, dict[int, StudyRun]]]:
    """The runs by task, arm (in the order of the file) and seed."""
    found: dict[str, dict[str, dict[int, StudyRun]]] = {}
    for folder in sorted(RUNS.glob("[!.]*-*-*")):  # not the half-written ones
        task, _, rest = folder.name.partition("-")
        arm, _, seed = rest.rpartition("-")
        if arm not in arms or not seed.isdigit():
            raise PipelineError(f"{folder} is of no arm in {ARMS}: remove the folder")
        found.setdefault(task, {}).setdefault(arm, {})[int(seed)] = StudyRun(*read_run(folder))
    return {
        task: {arm: dict(sorted(runs[arm].items())) for arm in arms if arm in runs}
        for task, runs in found.items()
    }


if __name__ == "__main__":
    run_stage(main)
