"""A plot of what something costs as settings grow: measured lines, and the least that it can be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from rewardjax.report.plots import _DASHES, _MARKERS, _SERIES, _STYLE, _svg


class Line(NamedTuple):
    """One line: for each value the costs of all rounds, and, if known, the floor."""

    name: str
    values: Sequence[float]
    costs: Sequence[Sequence[float]]
    floors: Sequence[float] | None = None


def cost_figure(panels: Mapping[str, Sequence[Line]], *, title: str, prefix: str) -> str:
    """A panel per setting, both axes logarithmic: medians, ranges of the rounds, floors dotted.

    A line looks alike in every panel, by its name. At most eight different lines.

    Args:
      panels: label of the horizontal axis → lines; costs in milliseconds.
      prefix: of the ids inside the SVG.

    Returns:
      An `<svg>` element.
    """
    names = list(dict.fromkeys(line.name for lines in panels.values() for line in lines))
    if len(names) > len(_SERIES):
        raise ValueError(f"{len(names)} lines in one plot; expected at most {len(_SERIES)}")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.5 * len(panels) + 0.6, 4.2), layout="constrained")
        handles = {}
        for axes, (label, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for line in lines:
                i = names.index(line.name)
                middle = [statistics.median(costs) for costs in line.costs]
                below = [m - min(costs) for m, costs in zip(middle, line.costs, strict=True)]
                above = [max(costs) - m for m, costs in zip(middle, line.costs, strict=True)]
                handles[line.name] = axes.errorbar(
                    line.values,
                    middle,
                    yerr=(below, above),
                    color=_SERIES[i],
                    marker=_MARKERS[i],
                    linestyle=_DASHES[i],
                    elinewidth=1.0,
                    linewidth=1.6,
                )
                if line.floors is not None:
                    axes.plot(line.values, line.floors, color=_SERIES[i], linestyle=":",
                              linewidth=1.2)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            ticks = sorted({value for line in lines for value in line.values})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.minorticks_off()
            axes.set_xlabel(label)
            axes.set_ylabel("ms per step")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
        return _svg(figure, title, prefix)
