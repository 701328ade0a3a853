"""The table of metrics: one row per file or setting."""

from __future__ import annotations

import dataclasses

from rewardjax.metrics.evaluation import Metric
from rewardjax.report.table import Cell, Table, interval

_IN_JSON_ONLY = ("neutral rate", "reward of the last token")


def _shown(metric: Metric, metrics: dict[str, Metric]) -> bool:
    """Whether a metric has a column: details stand in the JSON file only."""
    if metric.name == "mean score":  # of a scorer with a statistic of its own
        return not any(
            f"{metric.scorer}.{rate}" in metrics for rate in ("positive_rate", "toxic_rate")
        )
    further_output = metric.name.endswith("]") and not metric.name.endswith("[0]")
    return not further_output and not metric.name.startswith(_IN_JSON_ONLY)


def metrics_table(
    results: dict[str, dict[str, Metric]], *, counts: dict[str, str], level: float = 0.95
) -> Table:
    """One row per name of `results`; scorers in the headings, versions and losses underneath.

    Args:
      results: name of a file or setting → its metrics.
      counts: the same names → how many prompts and samples, as shown.
      level: coverage of the intervals, for the caption.
    """
    shown: dict[str, Metric] = {}
    for metrics in results.values():
        for key, metric in metrics.items():
            if _shown(metric, metrics):
                shown.setdefault(key, metric)
    columns = [Cell("texts", "prompts × samples")]
    for metric in shown.values():
        columns.append(Cell(metric.name, "" if metric.scorer == "rewardjax" else metric.scorer))
    rows = []
    for name, metrics in results.items():
        cells = [Cell(name, counts[name])]
        for key in shown:
            metric = metrics.get(key)
            cells.append(
                interval(*dataclasses.astuple(metric.interval)[:3]) if metric else Cell("–")
            )
        rows.append(tuple(cells))
    # A version says what package it is of: the scorer's name is added where it is another one.
    versions = {
        m.version if m.version.lower().startswith(m.scorer.lower()) else f"{m.scorer}: {m.version}"
        for m in shown.values()
        if m.scorer != "rewardjax"
    }
    notes = [f"{100 * level:g}% bootstrap intervals over prompts"]
    if versions:
        notes.append("; ".join(sorted(versions)))
    notes += sorted({f"{m.scorer}: {m.note}" for m in shown.values() if m.note})
    for name, metrics in results.items():
        for metric in metrics.values():
            if any(metric.left_out.values()):
                lost = ", ".join(f"{n} {why}" for why, n in metric.left_out.items() if n)
                notes.append(f"{name}: {metric.name} leaves out {lost}")
    return Table(tuple(columns), tuple(rows), caption=". ".join(notes))
