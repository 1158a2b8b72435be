"""Writes the report that compares two runs: revisions or experiments, or what is here now.

Not a stage: `make compare A=<revision> B=<revision>`. What DVC keeps of a run is enough, nothing is run.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.nested import differing, flatten
from pipeline.reporting.report import figures, render
from pipeline.reporting.results import TaskResults, read_results
from pipeline.workspace import REPORTS, analysis_path, setup_path, training_path
from stages.common import run_script

WORKSPACE = "workspace"
"""Stands for the files as they are now, in place of a revision."""

PAGE = REPORTS / "comparison.html"


def main(a: str, b: str) -> None:
    """Writes reports/comparison.html: the policies of run A and run B on the same test problems."""
    if a == b:
        raise PipelineError(f"A and B are both {a}: there is nothing to compare")
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name, revision in (("first", a), ("second", b)):
            root = Path(folder) / name if revision != WORKSPACE else Path()
            params = _fetch(revision, root)
            runs[name] = (root, params)
        tasks = [t for t in runs["second"][1]["tasks"] if t in runs["first"][1]["tasks"]]
        if not tasks:
            raise PipelineError(f"{a} and {b} have no task in common")
        results = [
            _side_by_side(
                *(read_results(root, task, params["seeds"]) for root, params in runs.values())
            )
            for task in tasks
        ]
        titles = {"first": a, "second": b}
        differences = _differences(*(params for _, params in runs.values()))
        page = render(results, titles, figures(results, titles), differences)
    with replacing(PAGE) as beside:
        beside.write_text(page)
    for result in results:
        for row, compared in result.compared_rows():
            low, high = compared.interval
            print(
                f"{result.name}, {row}: {b} less {a} {100 * compared.difference:+.1f} points "
                f"({100 * low:+.1f} to {100 * high:+.1f}), p = {compared.p_value:.2g}, n = {compared.n}"
            )
    print(f"Open {PAGE}")


def _fetch(revision: str, root: Path) -> dict[str, Any]:
    """Copies what the report needs of a revision into the folder; returns its params."""
    if revision == WORKSPACE:
        return yaml.safe_load(Path("params.yaml").read_text())
    try:
        files = DVCFileSystem(rev=revision)
        params = yaml.safe_load(files.read_text("params.yaml"))
        for task in params["tasks"]:
            places = [analysis_path(task), setup_path(task)]
            places += [training_path(task, seed) for seed in params["seeds"]]
            for place in places:
                (root / place.parent).mkdir(parents=True, exist_ok=True)
                files.get(str(place), str(root / place), recursive=True)
    except (DvcException, SCMError, OSError) as error:
        shutil.rmtree(root, ignore_errors=True)
        raise PipelineError(
            f"cannot read the results of {revision!r} ({error}): is it a revision or an experiment "
            "(`dvc exp show`) whose results are in DVC's cache (`dvc pull`, or run it again)?"
        ) from error
    return params


def _side_by_side(first: TaskResults, second: TaskResults) -> TaskResults:
    """What the policies of two runs did."""
    runs = {"first": first, "second": second}
    return TaskResults(
        name=second.name,
        columns={name: run.columns["rl"] for name, run in runs.items()},
        curves={name: run.curves["rl"] for name, run in runs.items()},
        records={name: run.records["rl"] for name, run in runs.items()},
        prompt=second.prompt,
        find=second.find,
        measures=second.measures,
        diagnoses=second.diagnoses,
    )


def _differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The params that differ, keys with dots."""
    one, other = flatten(first), flatten(second)
    return {key: (one.get(key, "none"), other.get(key, "none")) for key in differing(first, second)}


if __name__ == "__main__":
    run_script(main, a=str, b=str)
