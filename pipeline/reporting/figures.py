"""Figures as SVG text: small, sharp in print, and the same to the byte from the same data."""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.environment.history import coloured_text
from pipeline.evaluation.intervals import student
from pipeline.evaluation.labels import Label

CURVES = {
    "env/reward_mean": "mean reward of a step's episodes",
    "objective/kl": "KL from the start, nats per episode",
}

STYLE: Any = {"svg.hashsalt": "learning-tools", "svg.fonttype": "none", "font.size": 10}
LINES = ("#1f6fb2", "#e08a2e", "#b0413e", "#4c8c4a", "#7a5ea8")
COLOURS = {
    "base": "#9aa5ae",
    "sft": LINES[1],
    "rl": LINES[0],
    "first": LINES[1],  # of a comparison
    "second": LINES[0],
}
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def learning_curves(curves: Mapping[str, Mapping[int, pd.DataFrame]]) -> str:
    """Reward and KL against steps and episodes: a line for each seed, and where there are several
    their mean with the 95% interval of it.

    Args:
        curves: for each title (a single one has none to show) and seed a training's statistics, one
            row a step.
    """
    # Episodes in a step: where they differ, steps and episodes have no common axis.
    sizes = {curve["episodes"].iloc[0] for seeds in curves.values() for curve in seeds.values()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(CURVES), figsize=(9, 3.2), layout="constrained")
        for axis, (column, label) in zip(axes, CURVES.items()):
            for colour, (title, seeds) in zip(itertools.cycle(LINES), curves.items()):
                _lines(
                    axis,
                    [curve.set_index("step")[column] for curve in seeds.values()],
                    colour,
                    title,
                )
            axis.set_xlabel("step")
            axis.locator_params(axis="x", integer=True)
            axis.set_title(label, fontsize=10)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if len(sizes) == 1:
                (size,) = sizes
                below = axis.secondary_xaxis(
                    -0.28, functions=(lambda x, n=size: x * n, lambda x, n=size: x / n)
                )
                below.set_xlabel("episodes")
        axes[0].set_ylim(0, 1.02)
        if len(curves) > 1:
            axes[0].legend(frameon=False)
        return _svg(figure)


def _lines(axis: Any, seeds: Sequence[pd.Series], colour: str, title: str) -> None:
    """Values by step, of one or several seeds."""
    if len(seeds) == 1:
        axis.plot(seeds[0].index, seeds[0], marker="o", markersize=4, color=colour, label=title)
        return
    for values in seeds:
        axis.plot(values.index, values, color=colour, alpha=0.35, linewidth=1)
    together = pd.concat(seeds, axis=1)
    mean = together.mean(axis=1)
    low, high = student(mean, together.sem(axis=1), len(seeds))
    axis.plot(mean.index, mean, color=colour, linewidth=2.2, label=title)
    axis.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)


def label_shares(shares: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """What became of the episodes: a bar for each column, divided by labels.

    Args:
        shares: a row for each label, a column for each column of the report; see `TaskResults`.
        titles: the columns' titles.
    """
    with plt.rc_context(STYLE):
        height = 1.3 + 0.34 * len(shares.columns)
        figure, axis = plt.subplots(figsize=(9, height), layout="constrained")
        for place, column in enumerate(shares.columns):
            left = 0.0
            for label, share in (100 * shares[column]).items():
                colour = Label.of(str(label)).colour
                name = label if place == 0 else None
                axis.barh(place, share, left=left, height=0.7, color=colour, label=name)
                if share >= 4:
                    middle = left + share / 2
                    axis.text(middle, place, f"{share:.0f}", ha="center", va="center", fontsize=8)
                left += share
        axis.set_yticks(range(len(shares.columns)), [titles[column] for column in shares.columns])
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel("percent of the episodes")
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8)
        return _svg(figure)


def lengths(columns: Mapping[str, pd.DataFrame], titles: Mapping[str, str]) -> str:
    """How many tokens the model and the tools wrote in an episode: a histogram for each column.

    Args:
        columns: the episodes of each column of the report.
        titles: the columns' titles.
    """
    parts = {"model_tokens": "the model's tokens", "tool_tokens": "the tools' tokens"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
        for axis, (part, label) in zip(axes, parts.items()):
            longest = max(int(table[part].max()) for table in columns.values())
            bins = np.linspace(-0.5, longest + 0.5, min(longest + 2, 41))
            for column, table in columns.items():
                weights = np.full(len(table), 100 / len(table))
                axis.hist(
                    table[part],
                    bins=bins,
                    weights=weights,
                    histtype="step",
                    linewidth=1.6,
                    color=COLOURS[column],
                    label=titles[column],
                )
            axis.set_xlabel(f"{label} in an episode")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("percent of the episodes")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False
        )
        return _svg(figure)


def accuracies(
    metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
    titles: Mapping[str, str],
) -> str:
    """Accuracies with their intervals in percent, a line for each task and row of the report.

    Args:
        metrics: accuracies by task, column and row, as in metrics.json.
        titles: the columns' titles, by column.
    """
    lines = [
        (task, row) for task, columns in metrics.items() for row in next(iter(columns.values()))
    ]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 0.6 + 0.32 * len(lines)), layout="constrained")
        for column, title in titles.items():
            places = [i for i, (task, _) in enumerate(lines) if column in metrics[task]]
            if not places:
                continue  # no task had a warm start
            found = [metrics[lines[i][0]][column][lines[i][1]] for i in places]
            middles = [100 * each["accuracy"] for each in found]
            errors = [
                [100 * (each["accuracy"] - each["low"]) for each in found],
                [100 * (each["high"] - each["accuracy"]) for each in found],
            ]
            axis.errorbar(
                middles, places, xerr=errors, fmt="o", color=COLOURS[column], capsize=3, label=title
            )
        axis.set_yticks(range(len(lines)), [f"{task}, {row}" for task, row in lines])
        axis.invert_yaxis()
        axis.set_xlim(-2, 102)
        axis.set_xlabel("accuracy: test problems answered right, in percent, with its 95% interval")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=len(titles), frameon=False)
        return _svg(figure)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()


def episode_picture(parts: Sequence[tuple[str, str]], title: str) -> str:
    """An episode as a picture of a terminal; `parts` are (author, text) as in `coloured_text`."""
    console = Console(record=True, width=72, file=io.StringIO())
    # A model may write characters that XML, and so SVG, forbids.
    console.print(coloured_text((who, NOT_XML.sub("\ufffd", text)) for who, text in parts))
    svg = console.export_svg(title=title, unique_id="episode")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # they would load from the net
