"""The report: one self-contained page that opens offline."""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from pipeline.environment.history import STYLES
from pipeline.evaluation.metrics import rates

MEASURES = {
    "first_20_words": "answer in the first 20 words",
    "exact_match": "exact match",
    "f1": "F1",
}
"""Columns of some tasks' episode tables that are reported beside the correct rate, and their titles."""

COLUMNS = {"before": "pretrained", "warm_start": "warm start", "after": "after PPO"}
"""The report's columns and their titles."""

SHOWN = 3
"""How many episodes of a kind the page shows."""


@dataclass(frozen=True)
class TaskResults:
    """Everything the report knows of one task."""

    name: str
    before: pd.DataFrame  # the pretrained model's episodes, as `evaluate` yields them
    warm_start: pd.DataFrame | None  # the warm-started model's; None if there was no warm start
    after: Mapping[int, pd.DataFrame]  # by seed, the trained policies' episodes
    curves: Mapping[int, pd.DataFrame]  # by seed, the training's statistics, one row a step
    records: Mapping[int, dict[str, Any]]  # by seed, what the training was run with

    def tables(self) -> dict[str, list[pd.DataFrame]]:
        """The episodes by column: "before", "warm_start" (if there was one) and "after"."""
        warm = {} if self.warm_start is None else {"warm_start": [self.warm_start]}
        return {"before": [self.before], **warm, "after": list(self.after.values())}

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Correct rates by column, as `tables` names them, and by what `rates` returns."""
        measures = [name for name in MEASURES if name in self.before]
        return {column: rates(tables, measures) for column, tables in self.tables().items()}

    @property
    def start(self) -> tuple[str, pd.DataFrame]:
        """What PPO started from: the column's name and its episodes."""
        if self.warm_start is None:
            return "before", self.before
        return "warm_start", self.warm_start

    def examples(self) -> dict[str, list[dict[str, Any]]]:
        """A few sampled episodes: problems that PPO fixed, broke, or left wrong.

        Each has the `question`, the right `answer`, and the episodes `before` and `after` PPO.
        """
        after = next(iter(self.after.values()))
        before, after = (t[t["mode"] == "sampled"].set_index("id") for t in (self.start[1], after))
        kinds: dict[str, list[dict[str, Any]]] = {"fixed": [], "broken": [], "still wrong": []}
        for problem in after.index:
            old, new = before.loc[problem], after.loc[problem]
            if old["reward"] and new["reward"]:
                continue
            kind = "fixed" if new["reward"] else "broken" if old["reward"] else "still wrong"
            kinds[kind].append(
                {
                    "question": new["question"],
                    "answer": new["answer"],
                    "before": old.to_dict(),
                    "after": new.to_dict(),
                }
            )
        return {kind: found[:SHOWN] for kind, found in kinds.items()}


def render(results: list[TaskResults], overview: str, curves: Mapping[str, str]) -> str:
    """The page's HTML, with `correct_rates` as `overview` and each task's `learning_curves` by name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    return environment.get_template("report.html").render(
        results=results,
        titles=COLUMNS,
        measures=MEASURES,
        colours={author: style.rpartition(" ")[2] for author, style in STYLES.items()},
        overview=Markup(_inline(overview)),
        figure=lambda task: Markup(_inline(curves[task.name])),
    )


def _inline(svg: str) -> str:
    """The `<svg>` element of an SVG file, with ids of its own so that several fit in one page."""
    element = svg[svg.index("<svg") :]
    root = ElementTree.fromstring(element)
    prefix = "f" + hashlib.md5(element.encode()).hexdigest()[:6]
    for name in {e.get("id") for e in root.iter() if e.get("id")}:
        element = element.replace(f'id="{name}"', f'id="{prefix}{name}"')
        element = element.replace(f'"#{name}"', f'"#{prefix}{name}"')
        element = element.replace(f"url(#{name})", f"url(#{prefix}{name})")
    return element
