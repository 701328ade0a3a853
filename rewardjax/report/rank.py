"""Figures and tables of rank analyses; several reward models or texts overlaid by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rewardjax.metrics.rank_result import Part, RankResult
from rewardjax.report.plots import _DASHES, _FAINT, _MARKERS, _SERIES, _STYLE, _svg
from rewardjax.report.table import Cell, Table, number

SMALLEST = 1e-9
"""Singular values are drawn down to this share of the largest: float32 rewards end before."""
CUTOFF_NOTE = (
    "Cut-offs are relative to the largest singular value: float32 and float64 are NumPy's"
    " max(N, vocabulary)·eps, bfloat16 its eps alone, 2⁻⁷. Rewards are float32, so float64's"
    " cut-off counts their rounding too"
)


def rank_figure(
    parts: Mapping[str, Part],
    *,
    share: str = "0.99",
    cutoff: str = "0.001",
    bounds: Mapping[str, int | None] | None = None,
    prefix: str = "rank",
) -> str:
    """Spectrum, energy left out and growth with N: one series per name, at most eight.

    Args:
        parts: name → raw or centred part of an analysis.
        share: the energy whose rank is drawn against N, a key of `Part.energy_rank`.
        cutoff: the relative cut-off whose rank is drawn against N, faint.
        bounds: name → rank that the parametrization allows, drawn as a vertical line.
        prefix: of the ids inside the SVG; different for every plot of a page.

    Returns:
        An `<svg>` element.
    """
    if not 1 <= len(parts) <= len(_SERIES):
        raise ValueError(f"{len(parts)} spectra in one plot; expected 1 to {len(_SERIES)}")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
        spectrum, energy, growth = figure.subplots(1, 3)
        for i, (name, part) in enumerate(parts.items()):
            s = part.singular_values
            style = {"color": _SERIES[i], "linestyle": _DASHES[i]}
            if s[0] > 0:
                relative = np.maximum(s / s[0], 1e-300)
                index, shown = _thin(np.where(relative >= SMALLEST, relative, np.nan))
                spectrum.plot(index, shown, **style, label=name)
                left = 1 - np.minimum(np.cumsum(s**2) / np.sum(s**2), 1)
                index, shown = _thin(np.where(left >= 1e-9, left, np.nan))
                energy.plot(index, shown, **style)
            else:  # nothing to draw, but a name for the legend
                spectrum.plot([], [], **style, label=name)
            rows = [step["rows"] for step in part.growth]
            values = [step["energy_rank"][share] for step in part.growth]
            growth.plot(rows, values, **style, marker=_MARKERS[i])
            values = [step["numerical_rank"][cutoff] for step in part.growth]
            growth.plot(rows, values, color=_SERIES[i], alpha=0.4, linewidth=1.2, linestyle="-")
            bound = (bounds or {}).get(name)
            if bound is not None and bound < len(s):
                spectrum.axvline(bound + 0.5, color=_SERIES[i], linewidth=0.9, alpha=0.6)
        _axes(spectrum, "singular values", "i", "sᵢ / s₁")
        spectrum.set_yscale("log")
        _axes(energy, "energy left out", "first r directions", "1 − Σ sᵢ² / Σ s²")
        energy.set_yscale("log")
        for value in (0.1, 0.01, 0.001):
            energy.axhline(value, color=_FAINT, linewidth=0.7, linestyle=(0, (2, 3)))
        _axes(growth, "growth with N", "N prefixes", "rank")
        growth.set_yscale("log", base=2)
        growth.set_xscale("log", base=2)
        sizes = sorted({step["rows"] for part in parts.values() for step in part.growth})
        growth.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        growth.minorticks_off()
        growth.plot(sizes, sizes, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
        low, high = growth.get_ylim()
        ticks = [2**k for k in range(20) if low <= 2**k <= high]
        growth.set_yticks(ticks, [str(tick) for tick in ticks])
        figure.legend(*spectrum.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return _svg(figure, "Singular values, energy and growth of the rank with N", prefix)


def controls_figure(
    n: int,
    ranked: Mapping[str, Sequence[tuple[int, float]]],
    others: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    prefix: str = "controls",
) -> str:
    """Error over that of predicting 0 against r, both controls; the floor as a line.

    Args:
        n: size of the matrix.
        ranked: task → (r, relative error) of every seed.
        others: task → name of a model without r → relative error of every seed.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.0, 3.9), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
        panels = figure.subplots(1, len(ranked), squeeze=False)[0]
        for axes, (task, points) in zip(panels, ranked.items(), strict=True):
            r = [rank for rank, _ in points]
            if task == "identity":
                line = np.arange(0, n)
                floor = (n - line - 1) / n
                axes.fill_between(line, 0, floor, color=_FAINT, alpha=0.12, linewidth=0)
                axes.plot(line, floor, color=_FAINT, linewidth=1.2, label="floor (n−r−1)/n")
            shown = [(name, list(values)) for name, values in others[task].items()]
            for i, (name, values) in enumerate(shown, 1):
                level = _at_least(float(np.mean(values)), task)
                label = name if task == "identity" else "_"
                axes.axhline(
                    level, color=_SERIES[i], linestyle=_DASHES[i], label=label, linewidth=1.6
                )
            values = [_at_least(value, task) for _, value in points]
            label = "ARM of rank r, each seed" if task == "identity" else "_"
            axes.plot(r, values, _MARKERS[0], color=_SERIES[0], alpha=0.75, label=label)
            axes.set_title(f"{task}: {'all' if task == 'identity' else 'x ≤ y'} observed")
            axes.set_xlabel("r")
            axes.set_ylabel("squared error / predicting 0")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if task != "identity":
                axes.set_yscale("log")
                axes.set_ylim(_EDGE / 2, 2)
        figure.legend(loc="outside lower center", ncols=4)
        return _svg(figure, "Error of each control against the rank", prefix)


_EDGE = 1e-8


def _at_least(value: float, task: str) -> float:
    """Where a logarithmic axis ends, smaller values lie on its edge."""
    return value if task == "identity" else max(value, _EDGE)


def rank_table(results: Mapping[str, RankResult], *, part: str = "raw", title: str = "") -> Table:
    """One row per name: numerical ranks at every cut-off, energy ranks at every share."""
    parts = {name: getattr(result.analysis, part) for name, result in results.items()}
    return parts_table(
        parts,
        {name: f"{result.prefixes} × {result.columns:,}" for name, result in results.items()},
        title=title,
    )


def parts_table(parts: Mapping[str, Part], sizes: Mapping[str, str], *, title: str = "") -> Table:
    """As `rank_table`, of matrices; `sizes` stand in their own column."""
    first = next(iter(parts.values()))
    columns = [Cell(""), Cell("N × columns")]
    columns += [Cell(f"rank, {name}", "cut-off") for name in first.numerical_rank]
    columns += [Cell(f"{100 * float(share):g}%", "energy") for share in first.energy_rank]
    rows = tuple(
        (
            Cell(name),
            Cell(sizes[name]),
            *(Cell(str(rank)) for rank in part.numerical_rank.values()),
            *(Cell(str(rank)) for rank in part.energy_rank.values()),
        )
        for name, part in parts.items()
    )
    return Table(tuple(columns), rows, title=title, caption=CUTOFF_NOTE)


def growth_table(parts: Mapping[str, Part], *, title: str = "") -> Table:
    """One row per N; energy rank 99% with the rank at the cut-off 1e-3 under it."""
    sizes = sorted({step["rows"] for part in parts.values() for step in part.growth})
    rows = []
    for size in sizes:
        cells = [Cell(str(size))]
        for part in parts.values():
            step = next((step for step in part.growth if step["rows"] == size), None)
            cells.append(
                Cell("–")
                if step is None
                else Cell(
                    str(step["energy_rank"]["0.99"]), f"{step['numerical_rank']['0.001']} at 1e-3"
                )
            )
        rows.append(tuple(cells))
    columns = (Cell("N"), *(Cell(name, "energy rank 99%") for name in parts))
    return Table(columns, tuple(rows), title=title)


def ratio(value: float) -> str:
    """A share as people read it: decimals where it has some, else a power of ten."""
    if value == 0:
        return "0"
    return number(value, 4) if value >= 1e-3 else f"{value:.0e}"


def _thin(values: np.ndarray, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(index from 1, value) of at most `most` points, dense at the start: a small SVG."""
    count = len(values)
    places = np.unique(np.geomspace(1, count, most).round().astype(int)) if count > most else None
    index = np.arange(1, count + 1) if places is None else places
    return index, values[index - 1]


def _axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xscale("log")
