"""The table of metrics: one row per file or setting."""

from __future__ import annotations

import dataclasses

from rewardjax.metrics.evaluation import Metric
from rewardjax.report.table import Cell, Table, interval

_IN_JSON_ONLY = ("neutral rate", "reward of the last token")


def metrics_table(results: dict[str, dict[str, Metric]], *, counts: dict[str, str]) -> Table:
    """One row per name of `results`; scorers in the headings, versions and losses underneath.

    Args:
      results: name of a file or setting → its metrics.
      counts: the same names → how many prompts and samples, as shown.
    """
    shown: dict[str, Metric] = {}
    for metrics in results.values():
        for key, metric in metrics.items():
            detail = metric.name.startswith(_IN_JSON_ONLY) or metric.name.endswith("]")
            judged = metric.name == "mean score" and f"{metric.scorer}.toxic_rate" in metrics
            if not detail and not judged:
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
    versions = {f"{m.scorer}: {m.version}" for m in shown.values() if m.scorer != "rewardjax"}
    notes = ["; ".join(sorted(versions))] if versions else []
    for name, metrics in results.items():
        for metric in metrics.values():
            if any(metric.left_out.values()):
                lost = ", ".join(f"{n} {why}" for why, n in metric.left_out.items() if n)
                notes.append(f"{name}: {metric.name} leaves out {lost}")
    return Table(tuple(columns), tuple(rows), caption=". ".join(notes))
