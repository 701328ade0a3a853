"""Plots that compare reward models: trade-off curves and sweeps over one setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from rewardjax.metrics.bootstrap import Interval
from rewardjax.report.plots import _DASHES, _FAINT, _MARKERS, _SERIES, _STYLE, _errors, _svg

MOST = len(_SERIES)


@dataclasses.dataclass(frozen=True)
class Point:
    """One strength on a trade-off curve."""

    beta: float
    perplexity: Interval
    attribute: Interval


def tradeoff_curves(
    series: Mapping[str, Sequence[Point]],
    *,
    attribute: str,
    perplexity: str,
    title: str,
    prefix: str,
    limit: float | None = None,
) -> str:
    """Attribute against perplexity, a line per reward model, with the intervals of both.

    Args:
      series: name → points in the order of β, the unguided one first; at most `MOST` lines. One
        without points is not drawn, but keeps its colour and marker for itself.
      limit: a perplexity that is marked with a vertical line.
      prefix: of the ids inside the SVG.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        axes = figure.subplots()
        for i, (name, points) in enumerate(series.items()):
            if not points:
                continue
            x, y = [p.perplexity for p in points], [p.attribute for p in points]
            axes.errorbar(
                [v.value for v in x],
                [v.value for v in y],
                xerr=_errors(x),
                yerr=_errors(y),
                color=_SERIES[i],
                marker=_MARKERS[i],
                linestyle=_DASHES[i],
                label=name,
                elinewidth=0.8,
                linewidth=1.6,
                alpha=0.9,
            )
        if limit is not None:
            axes.axvline(limit, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_xscale("log")
        low = min(p.perplexity.low for points in series.values() for p in points)
        high = max(p.perplexity.high for points in series.values() for p in points)
        ticks = _round_ticks(low, high)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel(f"{perplexity} (log scale)")
        axes.set_ylabel(attribute)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return _svg(figure, title, prefix)


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, for a logarithmic axis."""
    steps = [m * 10**e for e in range(-1, 6) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    inside = [step for step in steps if 0.95 * low <= step <= 1.05 * high]
    while len(inside) > 9:
        inside = inside[::2]
    return inside


def sweep(
    values: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]],
    *,
    x_label: str,
    title: str,
    prefix: str,
    log: bool = True,
) -> str:
    """What a setting changes: a panel per quantity, each with lines of means and every seed's dot.

    Args:
      values: the setting's values, in order.
      panels: quantity → line's name → for each value the numbers of all seeds (None: unknown).
      log: logarithmic axis of the values; a value of 0 then stands a step left of the smallest.
    """
    positive = sorted(v for v in values if v > 0)
    shift = log and len(positive) < len(values) and positive
    places = [v if v > 0 or not shift else positive[0] / 3 for v in values]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(min(10.0, 3.4 * len(panels) + 0.6), 3.4), layout="constrained")
        for axes, (quantity, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for i, (name, numbers) in enumerate(lines.items()):
                known = [[n for n in seeds if n is not None] for seeds in numbers]
                shown = [(x, ns) for x, ns in zip(places, known, strict=True) if ns]
                for x, ns in shown:
                    axes.plot([x] * len(ns), ns, color=_SERIES[i], marker=".", linestyle="")
                means = [sum(ns) / len(ns) for _, ns in shown]
                axes.plot(
                    [x for x, _ in shown],
                    means,
                    color=_SERIES[i],
                    linestyle=_DASHES[i],
                    marker=_MARKERS[i],
                    label=name,
                )
            axes.set_title(quantity.replace(" (", "\n("))
            axes.set_xlabel(x_label)
            if log:
                axes.set_xscale("log")
            turned = 45 if len(values) > 5 else 0
            axes.set_xticks(places, [f"{value:g}" for value in values], rotation=turned)
            axes.minorticks_off()
            if len(lines) > 1:
                axes.legend(loc="best")
        return _svg(figure, title, prefix)
