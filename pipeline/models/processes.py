"""Several processes that learn as one. `accelerate launch` or `torchrun` starts them, torch.distributed joins them.

Each holds the whole policy and does its share of the work. What they have found is then brought together, so
that all go on with the same. One process alone has a share of everything, and waits for nobody.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.errors import PipelineError

T = TypeVar("T")


def join(on_cpu: bool) -> None:
    """Meets the other processes of this run, if a launcher has started any; each gets a GPU of its own."""
    from accelerate import PartialState

    PartialState(cpu=on_cpu)


def count() -> int:
    """How many processes there are."""
    # Who has not imported it, which takes seconds, has joined nobody.
    distributed: Any = sys.modules.get("torch.distributed")
    joined = distributed and distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's: of neighbours, and as many as any other has, or one less or more."""
    if (processes := count()) == 1:
        return items
    from torch import distributed

    rank = distributed.get_rank()
    first, end = (len(items) * place // processes for place in (rank, rank + 1))
    return items[first:end]


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the processes' order. What is in them must be on no GPU."""
    if (processes := count()) == 1:
        return list(items)
    from torch import distributed

    each: list[list[T]] = [[] for _ in range(processes)]
    distributed.all_gather_object(each, list(items))
    return [item for one in each for item in one]


def add_up(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sums of numbers by their names, over the mappings of all processes."""
    sums: dict[str, float] = {}
    for numbers in gathered(shares):
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0.0) + number
    return sums


def add_up_gradients(parameters: Iterable) -> None:
    """Leaves at each parameter that learns the sum of its gradients in all processes."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    sums = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:  # this process had nothing to learn from
                parameter.grad = torch.zeros_like(parameter)
            sums.append(distributed.all_reduce(parameter.grad, async_op=True))
    for one in sums:
        one.wait()


def require_work(episodes: int, key: str) -> None:
    """Raises PipelineError if there are more processes than episodes at a time; `key` says how many these are."""
    if (processes := count()) > episodes:
        raise PipelineError(
            f"machine.launcher: {processes} processes for {episodes} episodes at a time: "
            f"start at most {episodes}, or make {key} larger"
        )


def require_same(state: int, what: str) -> None:
    """Raises PipelineError if the processes do not have the same, as without a common folder."""
    if len(found := set(gathered([state]))) > 1:
        raise PipelineError(
            f"{what} differs between processes: {', '.join(map(str, sorted(found)))}. They must see the same folder, "
            "and run the same code"
        )
