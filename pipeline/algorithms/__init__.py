"""The algorithms that a policy can learn by, one file each.

A new algorithm is a file `pipeline/algorithms/<name>.py` with `Config`, a pydantic model of its section
`<name>` in params.yaml, and `learn(run, config)`, which improves `run.policy`. A task's `train` section may
have a `<name>`, too, of what differs there. `train.algorithm` says which is used.
"""

import importlib
from typing import cast

from pipeline.errors import PipelineError
from pipeline.training.run import Algorithm

NAMES = ("grpo", "ppo")
"""The modules or packages here that are algorithms."""


def algorithm_names() -> list[str]:
    """The algorithms there are, in alphabetical order."""
    return list(NAMES)


def load_algorithm(name: str) -> Algorithm:
    """The algorithm in `pipeline/algorithms/<name>.py`. Raises PipelineError if there is none."""
    if name not in algorithm_names():
        raise PipelineError(f"no algorithm {name!r}; there is {', '.join(algorithm_names())}")
    return cast(Algorithm, importlib.import_module(f"{__name__}.{name}"))
