"""A typed view of params.yaml, which refuses unknown keys and bad values and names the key.

Only the scripts in `stages/` read it. `python -m pipeline.params` checks the file.
"""

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, create_model

from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings
from pipeline.models import Machine, ModelSource
from pipeline.ppo import PPOConfig
from pipeline.search.corpus import CorpusSettings
from pipeline.tasks import EnvironmentSettings, load_task, task_names
from pipeline.training import TrainSettings
from pipeline.warm_start import WarmStartSettings

PARAMS_FILE = Path("params.yaml")


class TaskParams(BaseModel):
    """A task's own section. `data` and `tools` have the types that the task declares."""

    model_config = ConfigDict(extra="forbid")
    data: Any
    tools: Any
    environment: EnvironmentSettings
    warm_start: WarmStartSettings
    train: TrainSettings
    ppo: PPOConfig  # only what differs from the section `ppo` of the file


class Params(BaseModel):
    """The whole file, but for the tasks' sections, which depend on the tasks there are."""

    model_config = ConfigDict(extra="forbid")
    tasks: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    tracking: list[str]
    model: ModelSource
    corpus: CorpusSettings
    machine: Machine
    ppo: PPOConfig
    evaluation: EvaluationSettings

    def ppo_of(self, task: str) -> PPOConfig:
        """PPO's knobs for a task: the section `ppo`, changed by what the task's own section says."""
        changes = self.task(task).ppo
        return self.ppo.model_copy(
            update={name: getattr(changes, name) for name in changes.model_fields_set}
        )

    def task(self, name: str) -> TaskParams:
        """The section of one task. Raises PipelineError if the file has none."""
        section = getattr(self, name, None)
        if not isinstance(section, TaskParams):
            raise PipelineError(f"{PARAMS_FILE}: {name}: the task has no section of its own")
        return section


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks the file; raises PipelineError with one line for each thing wrong in it."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise PipelineError(f"{path}: {error.strerror}; run from the project's folder") from error
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: expected `key: value` pairs, as in the committed file")
    model = _full_model()
    try:
        params = model.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {_explain(model, problem)}" for problem in error.errors()]
        raise PipelineError("\n".join(lines)) from None
    for name in params.tasks:
        load_task(name)
        params.task(name)
    return params


def _full_model() -> type[Params]:
    """`Params` with an optional section for every task there is."""
    sections: dict[str, Any] = {
        name: (
            create_model(
                f"{name}_params",
                __base__=TaskParams,
                data=(task.Data, ...),
                tools=(task.Tools, ...),
            )
            | None,
            None,
        )
        for name, task in ((name, load_task(name)) for name in task_names())
    }
    return create_model("AllParams", __base__=Params, **sections)


def _explain(model: type[BaseModel], problem: Any) -> str:
    """One line on one of pydantic's findings: the key, what is wrong, what would be right."""
    keys = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        siblings = _keys_beside(model, keys)
        close = difflib.get_close_matches(keys[-1], siblings, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(siblings)}"
        return f"{'.'.join(keys)}: no such parameter; {hint}"
    got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
    return f"{'.'.join(keys)}: {problem['msg'][0].lower()}{problem['msg'][1:]}{got}"


def _keys_beside(model: Any, keys: list[str]) -> list[str]:
    """The keys known in the section that `keys` leads into."""
    for key in keys[:-1]:
        annotation = model.model_fields[key].annotation
        options = getattr(annotation, "__args__", (annotation,))  # `Section | None`
        model = next(option for option in options if hasattr(option, "model_fields"))
    return sorted(model.model_fields)


if __name__ == "__main__":
    try:
        load_params()
    except PipelineError as error:
        sys.exit(f"error: {error}")
