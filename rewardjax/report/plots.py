"""Plots as inline SVG that follow the page's light or dark colours.

Matplotlib draws with stand-in colours, which become CSS variables in the SVG text; text stays
text, so it can be selected and read aloud. Nothing in the SVG points outside it.
"""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rewardjax.metrics.bootstrap import Interval

# Stand-in colour → (CSS variable, fallback). Series: Okabe and Ito's colours, which people with
# any common colour vision tell apart; markers and dashes differ too.
_INK, _FAINT, _GRID = "#010203", "#040506", "#070809"
_SERIES = (
    *("#0a0b0c", "#0d0e0f", "#101112", "#131415"),
    *("#161718", "#191a1b", "#1c1d1e", "#1f2021"),
)
_CSS = {
    _INK: "var(--ink, #1b1f24)",
    _FAINT: "var(--faint, #59636e)",
    _GRID: "var(--rule, #d5dae0)",
    _SERIES[0]: "var(--series-1, #0072b2)",
    _SERIES[1]: "var(--series-2, #d55e00)",
    _SERIES[2]: "var(--series-3, #009e73)",
    _SERIES[3]: "var(--series-4, #a8578c)",
    _SERIES[4]: "var(--series-5, #a67c00)",
    _SERIES[5]: "var(--series-6, #3d9bd9)",
    _SERIES[6]: "var(--series-7, #6e6e6e)",
    _SERIES[7]: "var(--series-8, #7a3b12)",
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = (
    *("-", (0, (5, 2)), (0, (1, 1.5)), "-."),
    *((0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)), (0, (6, 1, 1, 1))),
)

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rewardjax",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # for measuring; the page's font is put in its place
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _FAINT,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
}


@dataclasses.dataclass(frozen=True)
class TradeoffPoint:
    """One guidance strength: signed β (negative guides down) and what was measured there.

    `positive` maps a scorer's name to its positive rate; `perplexity` is None if not measured.
    """

    beta: float
    positive: Mapping[str, Interval]
    perplexity: Interval | None = None


def tradeoff(
    points: Sequence[TradeoffPoint],
    *,
    perplexity_name: str = "perplexity",
    prefix: str = "tradeoff",
) -> str:
    """β against positive rate and perplexity, and the one against the other, with intervals.

    Args:
      points: in any order, at least one.
      perplexity_name: axis label, such as "self-perplexity".
      prefix: of the ids inside the SVG; different for every plot of a page.

    Returns:
      An `<svg>` element.
    """
    points = sorted(points, key=lambda point: point.beta)
    scorers = list(points[0].positive)
    judged = [point for point in points if point.perplexity is not None]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.0, 3.5) if judged else (5.2, 3.5), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
        panels = figure.subplots(1, 3 if judged else 1, squeeze=False)[0]
        betas = [point.beta for point in points]
        panels[0].set_title("positive rate")
        panels[0].set_ylim(0, 1)
        for i, name in enumerate(scorers):
            _line(panels[0], betas, [point.positive[name] for point in points], i, name)
        _beta_axis(panels[0], betas)
        if len(scorers) > 1:
            panels[0].legend(loc="best")
        if judged:
            values = [point.perplexity for point in judged if point.perplexity is not None]
            panels[1].set_title(perplexity_name)
            betas = [point.beta for point in judged]
            _line(panels[1], betas, values, 0, "")
            _beta_axis(panels[1], betas)
            panels[1].set_ylim(bottom=0)
            _pareto(panels[2], judged, values, scorers, perplexity_name)
        title = f"Guidance strength against positive rate and {perplexity_name}"
        return _svg(figure, title if judged else "Guidance strength against positive rate", prefix)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    prefix: str = "curve",
) -> str:
    """Lines such as training and held-out loss: name → (x values, y values), at most eight.

    A noisy line (over 60 points) is drawn faint with its running mean on top.
    """
    if len(series) > len(_SERIES):
        raise ValueError(f"{len(series)} lines in one plot; expected at most {len(_SERIES)}")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.5), layout="constrained")
        axes = figure.subplots()
        for i, (name, (x, y)) in enumerate(series.items()):
            noisy = len(y) > 60
            if noisy:
                axes.plot(x, y, color=_SERIES[i], alpha=0.28, linewidth=1.0)
            shown = _running_mean(y, max(2, len(y) // 25)) if noisy else y
            marker = "" if len(y) > 25 else _MARKERS[i]
            axes.plot(x, shown, color=_SERIES[i], linestyle=_DASHES[i], marker=marker, label=name)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.02)
        if len(series) > 1:
            axes.legend(loc="best")
        return _svg(figure, title, prefix)


def _line(
    axes: Axes, x: Sequence[float], values: Sequence[Interval], series: int, label: str
) -> None:
    color = _SERIES[series % len(_SERIES)]
    low, high = [v.low for v in values], [v.high for v in values]
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.errorbar(
        x,
        [v.value for v in values],
        yerr=_errors(values),
        color=color,
        marker=_MARKERS[series % len(_MARKERS)],
        linestyle=_DASHES[series % len(_DASHES)],
        label=label,
        elinewidth=1.2,
        capsize=3,
    )


def _errors(values: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """Distances from the value to its interval's ends (never negative, by a rounding either)."""
    return (
        [max(0.0, v.value - v.low) for v in values],
        [max(0.0, v.high - v.value) for v in values],
    )


def _pareto(
    axes: Axes,
    points: Sequence[TradeoffPoint],
    perplexity: Sequence[Interval],
    scorers: Sequence[str],
    perplexity_name: str,
) -> None:
    """Positive rate of the first scorer against perplexity; every point is labelled with its β."""
    rates = [point.positive[scorers[0]] for point in points]
    x, y = [p.value for p in perplexity], [r.value for r in rates]
    axes.set_title("the trade-off")
    axes.errorbar(
        x,
        y,
        xerr=_errors(perplexity),
        yerr=_errors(rates),
        color=_SERIES[0],
        marker=_MARKERS[0],
        elinewidth=1.2,
        linewidth=1.2,
        alpha=0.9,
    )
    for point, a, b in zip(points, x, y, strict=True):
        label = f"β={point.beta:g}".replace("-", "−")
        axes.annotate(label, (a, b), xytext=(7, 6), textcoords="offset points", fontsize=9)
    axes.set_xlabel(perplexity_name)
    axes.set_ylabel(f"positive rate ({scorers[0]})")
    axes.set_ylim(0, 1)
    axes.margins(x=0.22)


def _beta_axis(axes: Axes, betas: Sequence[float]) -> None:
    signed = min(betas) < 0 < max(betas)
    axes.set_xlabel("β (guided down ← 0 → guided up)" if signed else "guidance strength β")
    if signed:
        axes.axvline(0, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    if len(betas) <= 7:
        axes.set_xticks(list(betas), [f"{beta:g}".replace("-", "−") for beta in betas])


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over a centred window, narrower at the ends."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _svg(figure: Figure, title: str, prefix: str) -> str:
    """The figure as one `<svg>` element with the page's colours and font, and a spoken title."""
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # The metadata names web addresses; the style would hold for the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # needless inside HTML
    text = text.replace("xlink:href", "href")
    for stand_in, css in _CSS.items():
        text = text.replace(stand_in, css)
    text = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans', sans-serif", r"\1inherit", text)
    text = re.sub(r"'?DejaVu Sans'?(, sans-serif)?", "system-ui, sans-serif", text)
    # Ids are unique in a page, not in a plot.
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = html.escape(title)
    style = 'style="stroke-linejoin: round; stroke-linecap: butt"'
    return f'{head} {style} role="img" aria-label="{label}"><title>{label}</title>{rest}'.rstrip()
