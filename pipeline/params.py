"""A typed view of params.yaml, which refuses unknown keys and bad values and names the key.

Only the scripts in `stages/` read it. `python -m pipeline.params` checks the file.
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from pipeline.algorithms import NAMES, load_algorithm
from pipeline.environment.environment import EnvironmentSettings
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings
from pipeline.files import read_yaml
from pipeline.models.fetch import ModelSource
from pipeline.models.lora import LoraSettings, require_peft
from pipeline.models.machine import Machine
from pipeline.nested import put
from pipeline.tasks import RIGHT, Task, load_task, task_names
from pipeline.tools.wiki.corpus import CorpusSettings
from pipeline.training.algorithm import Algorithm
from pipeline.training.settings import TrainSettings, WarmStartSettings

PARAMS_FILE = Path("params.yaml")


def _each_once(values: list[Any]) -> list[Any]:
    """`values`, none of which may occur twice: DVC makes one stage of two, and a tracker would be told twice."""
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError(
                "occurs_twice", "Each may occur once, {value} is there twice", {"value": str(value)}
            )
    return values


class TaskParams(BaseModel):
    """A task's own section. `data` and `tools` have the types that the task declares.

    `train` may also have a section for an algorithm, with what differs from the file's for all tasks.
    DVC wants every key that a stage depends on to be there, so these lie in one that always is.
    """

    model_config = ConfigDict(extra="forbid")
    data: Any
    tools: Any
    environment: EnvironmentSettings
    warm_start: WarmStartSettings
    train: TrainSettings


class ModelParams(ModelSource):
    """Where the model comes from, and whether all of it is trained or an adapter."""

    lora: LoraSettings | None


class TrainParams(BaseModel):
    """How all tasks are trained."""

    model_config = ConfigDict(extra="forbid")
    algorithm: str


class Params(BaseModel):
    """The whole file, but for the sections of tasks and algorithms, which depend on those there are."""

    model_config = ConfigDict(extra="forbid")
    tasks: Annotated[list[str], Field(min_length=1), AfterValidator(_each_once)]
    seeds: Annotated[
        list[Annotated[StrictInt, Field(ge=0, lt=2**32)]],
        Field(min_length=1),
        AfterValidator(_each_once),
    ]
    tracking: Annotated[list[str], AfterValidator(_each_once)]
    snapshot_seconds: float = Field(ge=0, allow_inf_nan=False)
    model: ModelParams
    corpus: CorpusSettings
    machine: Machine
    evaluation: EvaluationSettings
    train: TrainParams

    def algorithm_of(self, task: str) -> Algorithm:
        """The algorithm, and its parameters for a task: its section, changed by the task's `train`."""
        name = self.train.algorithm
        config = getattr(self, name)
        changes = getattr(self.task(task).train, name)
        if changes is not None:
            config = config.model_copy(
                update={field: getattr(changes, field) for field in changes.model_fields_set}
            )
        return load_algorithm(name)(config)

    def task(self, name: str) -> TaskParams:
        """The section of one task. Raises PipelineError if the file has none."""
        section = getattr(self, name, None)
        if not isinstance(section, TaskParams):
            raise PipelineError(f"{PARAMS_FILE}: {name}: the task has no section of its own")
        return section


def load_params(path: Path = PARAMS_FILE, changes: Mapping[str, Any] | None = None) -> Params:
    """Reads and checks the file; raises PipelineError with one line for each thing wrong in it.

    Args:
        changes: values to take instead of the file's, by key, dots between its parts.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: expected `key: value` pairs, as in the committed file")
    for key, value in (changes or {}).items():
        put(content, key, value)
    model = _full_model()
    try:
        params = model.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {_explain(model, problem)}" for problem in error.errors()]
        raise PipelineError("\n".join(lines)) from None
    load_algorithm(params.train.algorithm)
    if params.model.lora:
        require_peft()
    for name in params.tasks:
        load_task(name)
        params.task(name)
    for name in task_names():
        if getattr(params, name) is not None:
            _check_reward(load_task(name), params.task(name))
    return params


def _check_reward(task: Task, section: TaskParams) -> None:
    """Raises PipelineError if the task has no measure of the name that its training is paid for."""
    known = [RIGHT, *task.measures]
    if section.train.reward not in known:
        raise PipelineError(
            f"{PARAMS_FILE}: {task.name}.train.reward: no such measure {section.train.reward!r}; "
            f"there is {', '.join(known)}"
        )


def _full_model() -> type[Params]:
    """`Params` with a section for every algorithm, and an optional one for every task, there is."""
    configs = {name: load_algorithm(name).Config for name in NAMES}
    overrides: dict[str, Any] = {name: (config | None, None) for name, config in configs.items()}
    train = create_model("TaskTrainSettings", __base__=TrainSettings, **overrides)
    algorithms: dict[str, Any] = {name: (config, ...) for name, config in configs.items()}
    tasks: dict[str, Any] = {}
    for name in task_names():
        task = load_task(name)
        section = create_model(
            f"{name}_params",
            __base__=TaskParams,
            data=(task.Data, ...),
            tools=(task.Tools, ...),
            train=(train, ...),
        )
        tasks[name] = (section | None, None)
    return create_model("AllParams", __base__=Params, **algorithms, **tasks)


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
