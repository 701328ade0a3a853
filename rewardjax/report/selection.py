"""A plot of what choosing among completions earns: lines with intervals over k, KL or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from rewardjax.metrics.bootstrap import Interval
from rewardjax.report.plots import _DASHES, _FAINT, _MARKERS, _SERIES, _STYLE, _errors, _svg


class Point(NamedTuple):
    """A place on the horizontal axis, and the reward there."""

    x: float
    reward: Interval


def reward_curves(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    prefix: str,
    ticks: Sequence[float] | None = None,
    level: tuple[str, Interval] | None = None,
    mark: tuple[str, float] | None = None,
) -> str:
    """Reward against a cost, a line per rule of choice; colours repeat after eight lines.

    Args:
      series: name → points in the order of x.
      ticks: values of a logarithmic axis; None: the axis is linear.
      level: name and reward of a horizontal line, its interval shaded.
      mark: name and place of a vertical line.
      prefix: of the ids inside the SVG.

    Returns:
      An `<svg>` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 4.4), layout="constrained")
        axes = figure.subplots()
        if level is not None:
            name, reward = level
            axes.axhspan(reward.low, reward.high, color=_FAINT, alpha=0.12, linewidth=0)
            axes.axhline(reward.value, color=_FAINT, linewidth=1.0, label=name)
        for i, (name, points) in enumerate(series.items()):
            rewards = [point.reward for point in points]
            axes.errorbar(
                [point.x for point in points],
                [reward.value for reward in rewards],
                yerr=_errors(rewards),
                color=_SERIES[i % len(_SERIES)],
                marker=_MARKERS[i % len(_MARKERS)],
                linestyle=_DASHES[i % len(_DASHES)],
                label=name,
                elinewidth=0.8,
                linewidth=1.6,
                alpha=0.9,
            )
        if mark is not None:
            name, x = mark
            axes.axvline(x, color=_FAINT, linewidth=1.0, linestyle=(0, (2, 2)), label=name)
        if ticks is not None:
            axes.set_xscale("log")
            axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return _svg(figure, title, prefix)
