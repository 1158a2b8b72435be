"""Trains and evaluates a task from one seed, as an arm of a study has it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.algorithms import NAMES
from pipeline.errors import PipelineError
from pipeline.evaluation.analysis import analyse
from pipeline.params import Params, load_params
from pipeline.tasks import load_task, task_names
from pipeline.workspace import ARMS, STUDY_COLUMNS, live_path, read_arms, read_setup, run_path
from stages.common import outputs, run_stage
from stages.evaluate import roll_out
from stages.train import inputs as training_inputs
from stages.train import train


def main(name: str, arm: str, seed: int) -> None:
    """Writes studies/runs/<task>-<arm>-<seed>: learning curve, record, and episodes with labels."""
    params = read_arm(arm)

    def inputs() -> dict[str, Any]:
        params = read_arm(arm)
        evaluation = params.evaluation.model_dump(mode="json")
        return {**training_inputs(params, name, seed), "evaluation": evaluation}

    # The policy is not kept: there are dozens, of half a gigabyte each.
    with (
        outputs(run_path(name, arm, seed), inputs=inputs) as (beside,),
        tempfile.TemporaryDirectory() as folder,
    ):
        policy = Path(folder) / "policy"
        live = live_path(f"{name}-{arm}", seed)
        train(params, name, seed, policy, beside, live, training_inputs(params, name, seed))
        episodes = roll_out(params, name, policy, f"rl-{seed}", run=live.name)
        task = load_task(name)
        _, resources = read_setup(name, task.resources)
        tools = task.tools(params.task(name).tools, resources)
        labelled = analyse(episodes, task, tools)
        labelled[STUDY_COLUMNS].to_csv(beside / "episodes.csv", index=False)


def read_arm(arm: str) -> Params:
    """The params as the arm of this name has them. Raises PipelineError if there is none."""
    arms = read_arms()
    if arm not in arms:
        raise PipelineError(f"{ARMS}: no arm {arm!r}; there is {', '.join(arms)}")
    return load_arm(arm, arms[arm])


def load_arm(arm: str, changes: Mapping[str, Any]) -> Params:
    """The params as an arm has them. Raises PipelineError for those that would change nothing."""
    for_all = {"evaluation", "machine", "model.lora", "train", *NAMES}
    of_a_task = {"environment", "tools", "train"}
    for key in changes:
        first, second = [*key.split("."), ""][:2]
        of_all = not for_all.isdisjoint((first, f"{first}.{second}"))
        if second not in of_a_task if first in task_names() else not of_all:
            raise PipelineError(
                f"{ARMS}: {arm}: {key} would change nothing: a run starts from the problems, prompt and "
                f"model that are there; an arm can change {', '.join(sorted(for_all))}, and a task's "
                f"{', '.join(sorted(of_a_task))}"
            )
    try:
        return load_params(changes=changes)
    except PipelineError as error:
        raise PipelineError(f"{ARMS}: {arm}: {error}") from None


if __name__ == "__main__":
    run_stage(main, task=str, arm=str, seed=int)
