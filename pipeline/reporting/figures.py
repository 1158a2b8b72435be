"""Figures as SVG text: small, sharp in print, and the same to the byte from the same data."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pandas as pd
from rich.console import Console

from pipeline.environment.history import coloured_text

CURVES = {
    "env/reward_mean": "mean reward of a step's episodes",
    "objective/kl": "KL from the start, nats per episode",
}

STYLE: Any = {"svg.hashsalt": "learning-tools", "svg.fonttype": "none", "font.size": 10}
COLOURS = {"before": "#9aa5ae", "warm_start": "#e08a2e", "after": "#1f6fb2"}

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def learning_curves(curves: Mapping[int, pd.DataFrame]) -> str:
    """Reward and KL against steps and episodes: a line for each seed, and their mean if several.

    Args:
        curves: for each seed its training's statistics, one row a step.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(CURVES), figsize=(9, 3.2), layout="constrained")
        for axis, (column, label) in zip(axes, CURVES.items()):
            for seed, curve in curves.items():
                axis.plot(
                    curve["step"],
                    curve[column],
                    marker="o" if len(curves) == 1 else None,
                    markersize=4,
                    color="#1f6fb2",
                    alpha=1 if len(curves) == 1 else 0.35,
                    label=f"seed {seed}",
                )
            if len(curves) > 1:
                mean = pd.concat(curves.values()).groupby("step")[column].mean()
                axis.plot(mean.index, mean, color="#12344d", linewidth=2, label="mean")
            axis.set_xlabel("step")
            axis.set_title(label, fontsize=10)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            per_step = next(iter(curves.values()))["episodes"].iloc[0]
            top = axis.secondary_xaxis(
                -0.28, functions=(lambda x, n=per_step: x * n, lambda x, n=per_step: x / n)
            )
            top.set_xlabel("episodes")
        axes[0].set_ylim(0, 1.02)
        return _svg(figure)


def correct_rates(
    metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
    titles: Mapping[str, str],
) -> str:
    """Correct rates with their intervals, a line for each task and way of playing.

    Args:
        metrics: rates by task, column ("before", "warm_start", "after") and row, as in metrics.json.
        titles: the columns' titles, by column.
    """
    lines = [(task, row) for task, columns in metrics.items() for row in columns["after"]]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 0.6 + 0.32 * len(lines)), layout="constrained")
        for column, title in titles.items():
            places = [i for i, (task, _) in enumerate(lines) if column in metrics[task]]
            found = [metrics[lines[i][0]][column][lines[i][1]] for i in places]
            rates = [rate["correct_rate"] for rate in found]
            errors = [
                [rate["correct_rate"] - rate["low"] for rate in found],
                [rate["high"] - rate["correct_rate"] for rate in found],
            ]
            axis.errorbar(
                rates, places, xerr=errors, fmt="o", color=COLOURS[column], capsize=3, label=title
            )
        axis.set_yticks(range(len(lines)), [f"{task}, {row}" for task, row in lines])
        axis.invert_yaxis()
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel("share of test problems answered correctly, with its 95% interval")
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
