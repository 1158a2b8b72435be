"""The report: one self-contained page that opens offline."""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from pipeline.environment.history import STYLES
from pipeline.evaluation.evaluate import MODES
from pipeline.evaluation.labels import Label
from pipeline.evaluation.metrics import EXACT_MATCH, PAID_INEXACT
from pipeline.reporting.figures import accuracies, label_shares, learning_curves, lengths
from pipeline.reporting.results import TaskResults
from pipeline.tasks import problem_of
from pipeline.tools.protocol import RESPONSE

COLUMNS = {"base": "base", "sft": "after the warm start (sft)", "rl": "after training (rl)"}
"""The report's columns, a checkpoint each, and their titles."""

PRINTED = 1
"""How many pairs of episodes for each label are printed on paper."""


def figures(results: Sequence[TaskResults], titles: Mapping[str, str]) -> dict[str, str]:
    """The report's figures as SVG files, by name: `accuracy`, and `<task>-curve`, `-labels`, `-lengths`."""
    drawn = {"accuracy": accuracies({task.name: task.metrics() for task in results}, titles)}
    for task in results:
        drawn[f"{task.name}-curve"] = learning_curves(
            {titles[column]: seeds for column, seeds in task.curves.items()}
        )
        drawn[f"{task.name}-labels"] = label_shares(task.label_shares("sampled"), titles)
        sampled = {
            column: pd.concat(tables.values()).query("mode == 'sampled'")
            for column, tables in task.columns.items()
        }
        drawn[f"{task.name}-lengths"] = lengths(sampled, titles)
    return drawn


def render(
    results: Sequence[TaskResults],
    titles: Mapping[str, str],
    drawn: Mapping[str, str],
    differences: Mapping[str, tuple[Any, Any]] | None = None,
) -> str:
    """The page's HTML.

    Args:
        results: of the tasks, with the same columns.
        titles: the columns' titles.
        drawn: the figures.
        differences: if the page compares two runs, the params that differ, with the value of each.
    """
    template = templates().get_template("report.html")
    return template.render(
        results=results,
        titles=titles,
        differences=differences,
        modes=MODES,
        labels={str(each): each for each in Label},
        printed=PRINTED,
        exact_match=EXACT_MATCH,
        paid_inexact=PAID_INEXACT,
        response_tag=RESPONSE,
        marked=_marked,
        colours={author: style.rpartition(" ")[2] for author, style in STYLES.items()},
        figure=lambda name: inline(drawn[name]),
    )


def templates() -> jinja2.Environment:
    """Where the pages' templates are found, and what they share."""
    shared = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    shared.filters["points"] = lambda share: f"{100 * share:+.1f}"
    return shared


def _marked(task: TaskResults, row: Mapping[str, Any], text: str) -> Markup:
    """A tool's text with the answer marked where it stands in it."""
    plain = text.removesuffix(RESPONSE)
    span = task.find(plain, problem_of(row))
    if span is None:
        return Markup.escape(text)
    start, end = span
    return Markup("{}<mark>{}</mark>{}").format(text[:start], text[start:end], text[end:])


def inline(svg: str) -> Markup:
    """The `<svg>` element of an SVG file, with ids of its own so that several fit in one page."""
    element = svg[svg.index("<svg") :]
    root = ElementTree.fromstring(element)
    prefix = "f" + hashlib.md5(element.encode()).hexdigest()[:6]
    for name in {e.get("id") for e in root.iter() if e.get("id")}:
        element = element.replace(f'id="{name}"', f'id="{prefix}{name}"')
        element = element.replace(f'"#{name}"', f'"#{prefix}{name}"')
        element = element.replace(f"url(#{name})", f"url(#{prefix}{name})")
    return Markup(element)
