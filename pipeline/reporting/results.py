"""What the report knows of a task: episodes by column, what is compared, and what can be counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.evaluation.comparison import PairedComparison
from pipeline.evaluation.evaluate import MODES
from pipeline.evaluation.labels import Label
from pipeline.evaluation.metrics import accuracies, in_part, parts
from pipeline.files import broken
from pipeline.tasks import RIGHT, Problem, load_task
from pipeline.workspace import (
    EPISODE_COLUMNS,
    analysis_path,
    read_prompt,
    read_table,
    read_training,
    training_path,
)

PER_CELL = 6
"""How many pairs of episodes the page shows of those that went from one label to another."""

UNTRAINED = -1  # no training has that
"""What stands for a seed where nothing was trained."""

Tables = Mapping[int, pd.DataFrame]
"""Episodes by the seed of the training, `UNTRAINED` where there was none."""


@dataclass(frozen=True)
class TaskResults:
    """One task's episodes in columns, of which the last two are compared.

    Every table has a row for each test problem and mode, as the stage `analyse` writes them.
    """

    name: str
    columns: Mapping[str, Tables]
    curves: Mapping[str, Mapping[int, pd.DataFrame]]  # of the columns with trainings, by seed
    records: Mapping[str, Mapping[int, dict[str, Any]]]  # what those were run with
    prompt: str  # what every episode begins with
    find: Callable[[str, Problem], tuple[int, int] | None]  # as `Task.find`
    measures: Mapping[str, str]  # the titles of `Task.measures`, by name
    diagnoses: Mapping[str, str]  # as `Task.diagnoses`
    groups: Mapping[str, str] = field(default_factory=dict)  # as `Task.groups`

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Accuracies by column and by the rows of `accuracies`."""
        return {
            column: accuracies(list(tables.values()), list(self.measures), list(self.groups))
            for column, tables in self.columns.items()
        }

    def label_shares(self, mode: str) -> pd.DataFrame:
        """The share of a column's episodes that have a label: a row each label, a column each column."""
        shares = {}
        for column, tables in self.columns.items():
            table = pd.concat(tables.values())
            shares[column] = table.loc[table["mode"] == mode, "label"].value_counts(normalize=True)
        return _in_order(pd.DataFrame(shares).fillna(0.0))

    def diagnosis(self, mode: str) -> dict[str, dict[str, int]]:
        """For each column: how many episodes were diagnosed, `count`, and for how many of them each of
        `diagnoses` holds. Columns without such episodes are left out."""
        found = {}
        for column, tables in self.columns.items():
            table = pd.concat(tables.values())
            values = table.loc[table["mode"] == mode, list(self.diagnoses)]
            asked = values[values.notna().any(axis=1)]
            if len(asked):
                held = {name: sum(map(_holds, asked[name])) for name in self.diagnoses}
                found[column] = {"count": len(asked), **held}
        return found

    def flow(self, mode: str) -> pd.DataFrame:
        """How many episodes went from a label (row) to a label (column), between the compared columns."""
        pairs = self._pairs[self._pairs["mode"] == mode]
        table = pd.crosstab(pairs["label_first"], pairs["label_second"])
        return _in_order(_in_order(table).T).T

    def comparison(self, mode: str, subset: str = "") -> PairedComparison:
        """The compared columns' rewards in a subset or group, paired by problem, and by seed if there are several."""
        pairs = self._pairs[
            (self._pairs["mode"] == mode)
            & in_part(self._pairs, subset, list(self.groups), "_second")
        ]
        keys = [f"{seed} {problem}" for seed, problem in zip(pairs["seed"], pairs["id"])]
        return PairedComparison.of(
            dict(zip(keys, pairs["reward_first"])), dict(zip(keys, pairs["reward_second"]))
        )

    def compared_rows(self) -> Iterator[tuple[str, PairedComparison]]:
        """The comparison for each of the rows of `accuracies`."""
        for subset in parts(self._any_table, list(self.groups)):
            for mode in MODES:
                yield f"{subset} {mode}".strip(), self.comparison(mode, subset)

    def shown_pairs(self) -> list[dict[str, Any]]:
        """Some pairs of episodes for each mode, label in the first column and in the second, the wrong ones first.

        Each has `mode`, `change` ("fixed", "broken", "still wrong" or "still right"), and
        the episodes `first` and `second`.
        """
        order = [
            *(each for each in Label if not each.right),
            *(each for each in Label if each.right),
        ]
        pairs = self._pairs.assign(
            rank_first=[order.index(Label.of(name)) for name in self._pairs["label_first"]],
            rank_second=[order.index(Label.of(name)) for name in self._pairs["label_second"]],
        ).sort_values(["rank_second", "rank_first"], kind="stable")
        cells = pairs.groupby(["mode", "label_first", "label_second"], sort=False)
        chosen = pairs[cells.cumcount() < PER_CELL]
        return [_pair(dict(row)) for row in chosen.to_dict("records")]

    @property
    def compared(self) -> tuple[str, str]:
        """The names of the two columns that are compared."""
        *_, first, second = self.columns
        return first, second

    @property
    def paid(self) -> list[str]:
        """The titles of the measures that trainings were paid for; none where that was `RIGHT`."""
        names = {
            record.get(self.name, {}).get("train", {}).get("reward", RIGHT)
            for runs in self.records.values()
            for record in runs.values()
        }
        return [self.measures[name] for name in sorted(names - {RIGHT})]

    @property
    def _any_table(self) -> pd.DataFrame:
        return next(iter(next(iter(self.columns.values())).values()))

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        """The compared columns' episodes side by side, the second's seed by seed.

        Raises PipelineError where they are not of the same problems.
        """
        first, second = (self.columns[name] for name in self.compared)
        common = list(second) if list(first) == [UNTRAINED] else [s for s in second if s in first]
        if not common:
            raise PipelineError(
                f"{self.name}: no seed in common: {_listed(first)} there and {_listed(second)} here"
            )
        tables = []
        for seed in common:
            one, other = first[seed if seed in first else UNTRAINED], second[seed]
            pair = one.merge(other, on=["mode", "id"], suffixes=("_first", "_second"))
            if not len(pair) == len(one) == len(other):
                raise PipelineError(
                    f"{self.name}: the test problems are not the same: {len(pair)} episodes in "
                    f"common of {len(one)} and {len(other)}; were data or evaluation params changed?"
                )
            tables.append(pair.assign(seed=seed))
        return pd.concat(tables, ignore_index=True)


def columns_of(episodes: pd.DataFrame) -> dict[str, dict[int, pd.DataFrame]]:
    """The stage `analyse`'s table by checkpoint, "base", "sft" (if any) and "rl", and seed."""
    columns: dict[str, dict[int, pd.DataFrame]] = {}
    seeds = episodes["training_seed"].fillna(UNTRAINED)
    for (checkpoint, seed), table in episodes.groupby(["checkpoint", seeds], sort=False):
        columns.setdefault(str(checkpoint), {})[int(cast(int, seed))] = table.reset_index(drop=True)
    return columns


def read_results(root: Path, task: str, seeds: Sequence[int]) -> TaskResults:
    """What the report shows of a task, from the project or a copy of its data in the folder `root`."""
    made_by = f"analyse@{task}"
    path = root / analysis_path(task)
    known = load_task(task)
    told = [*EPISODE_COLUMNS, "label", *known.measures, *known.groups, *known.diagnoses]
    episodes = read_table(path, told, made_by)
    if episodes.empty:
        raise broken(path, "no episodes in it", made_by)
    columns = columns_of(episodes)
    if absent := sorted(set(seeds) - set(columns.get("rl", {}))):
        raise PipelineError(
            f"{path} has no episodes of seed {absent[0]}: run `dvc repro {made_by}`"
        )
    runs = {
        seed: read_training(root / training_path(task, seed), f"train@{task}-{seed}")
        for seed in seeds
    }
    return TaskResults(
        name=task,
        columns={**columns, "rl": {seed: columns["rl"][seed] for seed in seeds}},
        curves={"rl": {seed: curve for seed, (curve, _) in runs.items()}},
        records={"rl": {seed: record for seed, (_, record) in runs.items()}},
        prompt=read_prompt(task, root),
        find=known.find,
        measures={name: measure.title for name, measure in known.measures.items()},
        diagnoses=known.diagnoses,
        groups=known.groups,
    )


def _holds(value: Any) -> bool:
    """Whether a diagnosis says yes: true, or a number, as a rank is one."""
    return not pd.isna(value) and bool(value)


def _pair(row: Mapping[Any, Any]) -> dict[str, Any]:
    episodes = {
        side: {
            name.removesuffix(f"_{side}"): value
            for name, value in row.items()
            if name.endswith(f"_{side}")
        }
        for side in ("first", "second")
    }
    was, became = (bool(episode["reward"]) for episode in episodes.values())
    change = {
        (False, True): "fixed",
        (True, False): "broken",
        (False, False): "still wrong",
        (True, True): "still right",
    }[was, became]
    for episode in episodes.values():
        episode["id"] = row["id"]
    return {"mode": row["mode"], "change": change, **episodes}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows, named by labels, in the order of `Label`."""
    return table.reindex([str(each) for each in Label if str(each) in table.index])


def _listed(tables: Tables) -> str:
    return ", ".join(map(str, tables))
