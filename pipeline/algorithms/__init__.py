"""The algorithms that a policy can learn by: each is a way to give credit, on one shared trainer.

`pipeline/training/algorithm.py` says what an algorithm is; `rloo` is the shortest. A new one is a package
here, its name in `names.py`, and a section of that name in params.yaml. A task's `train` section may have
one of that name, too, of what differs there. Each is a package because a training depends on the folder of
its own algorithm only.
"""

import importlib

from pipeline.algorithms.names import NAMES
from pipeline.errors import PipelineError
from pipeline.training.algorithm import Algorithm


def load_algorithm(name: str) -> type[Algorithm]:
    """The algorithm of that name. Raises PipelineError if there is none."""
    if name not in NAMES:
        raise PipelineError(f"no algorithm {name!r}; there is {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}").ALGORITHM
