"""The comparison's trade-off curves and sweeps, from its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewardjax.experiments.compare import model_tables, tables
from rewardjax.experiments.compare.tables import PERPLEXITY
from rewardjax.experiments.settings import slug
from rewardjax.metrics.bootstrap import Interval
from rewardjax.report.comparison import MOST, Point, sweep, tradeoff_curves

Results = dict[str, Any]
Figure = tuple[str, str]
"""(SVG, caption)"""


def curves(results: Results, arm: dict[str, Any]) -> Iterator[Figure]:
    """Trade-off curves of the first seed, at most `MOST` a figure; the reference is in each."""
    metric, seed = arm["metric"], results["settings"]["seeds"][0]
    lines: dict[str, list[Point]] = {}
    plain = tables.cell(results, arm["name"], None, seed)
    if plain is None or PERPLEXITY not in plain["metrics"]:
        return
    start = Point(0.0, _interval(plain, PERPLEXITY), _interval(plain, metric))
    for model in results["models"]:
        cells = [
            c
            for c in results["cells"]
            if (c["arm"], c["model"], c["seed"]) == (arm["name"], model["name"], seed)
            and not c["full"]
        ]
        if cells:
            points = [
                Point(c["beta"], _interval(c, PERPLEXITY), _interval(c, metric))
                for c in sorted(cells, key=lambda c: c["beta"])
            ]
            tuned = model["program"] == "attribute"  # one point, which no β leads to
            lines[model["name"]] = points if tuned else [start, *points]
    if not any(len(points) > 2 for points in lines.values()):
        return
    limit = arm["most_perplexity"] * start.perplexity.value
    decoded = {c["model"] for c in results["cells"]}
    names = [m["name"] for m in results["models"] if m["name"] in decoded]
    grids = {tuple(point.beta for point in points[1:]) for points in lines.values()} - {()}
    alike = ", ".join(f"{beta:g}" for beta in grids.pop()) if len(grids) == 1 else "rising"
    others = lines.keys() - {names[0]}
    for part, chunk in enumerate(chunks(names[1:], MOST - 1)):
        if others.isdisjoint(chunk) and (others or part):
            continue
        # Models that this arm leaves out keep their place: each has one colour on the whole page.
        shown = {name: lines.get(name, []) for name in [names[0], *chunk]}
        svg = tradeoff_curves(
            shown,
            attribute=tables.words(metric),
            perplexity=f"perplexity under {results['settings']['perplexity_lm']}",
            title=arm["name"],
            prefix=f"{slug(arm['name'])}-{part}",
            limit=limit,
        )
        caption = (
            f"β = 0, {alike} along each line; {plain['prompts']} prompts ×"
            f" {results['settings']['protocol']['samples']} samples, seed {seed}. Bars: 95%"
            f" bootstrap intervals over prompts. Dotted: {arm['most_perplexity']:g} × the unguided"
            " perplexity."
        )
        yield svg, caption


def sweep_figure(results: Results, found: dict[str, Any]) -> Figure:
    """Held-out error, rank and, where decoded, attribute and perplexity over a setting."""
    names = [f"{found['name']} {value:g}" for value in found["values"]]
    by_name = {model["name"]: model for model in results["models"]}
    rows = [by_name[name]["seeds"] for name in names]
    panels: dict[str, dict[str, list[list[float | None]]]] = {
        "held-out squared error": {
            "": [[s["metrics"].get("eval/squared_error") for s in seeds] for seeds in rows]
        }
    }
    if any(s["rank"] for seeds in rows for s in seeds):
        panels["rank (99% of energy)"] = {
            name: [
                [model_tables.energy_rank(s["rank"], 0.99, part) for s in seeds] for seeds in rows
            ]
            for name, part in (("raw", "raw"), ("minus row means", "centered"))
        }
    for metric_of in (lambda arm: arm["metric"], lambda _: PERPLEXITY):
        lines = {}
        for arm in results["arms"]:
            metric = metric_of(arm)
            numbers = [_at_chosen(results, arm, name, metric) for name in names]
            if any(any(x is not None for x in seeds) for seeds in numbers):
                lines[arm["name"]] = numbers
        if lines:
            name = tables.words(metric_of(results["arms"][0]))
            panels[name] = lines
    svg = sweep(
        found["values"],
        panels,
        x_label=found["field"],
        title=f"sweep over {found['field']}",
        prefix=f"sweep-{slug(found['name'])}",
    )
    seeds = len(results["settings"]["seeds"])
    others = all(arm["other_seeds"] for arm in results["arms"])
    caption = f"Dots: each of {seeds} training seeds; lines: their means."
    return svg, caption + ("" if others else " Texts are of the first seed's models.")


def _at_chosen(
    results: Results, arm: dict[str, Any], model: str, metric: str
) -> list[float | None]:
    beta = arm["chosen_beta"].get(model)
    found = []
    for seed in results["settings"]["seeds"]:
        one = tables.cell(results, arm["name"], model, seed, beta)
        found.append(one["metrics"].get(metric, {}).get("value") if one else None)
    return found


def chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, max(1, len(names)), size):
        yield names[start : start + size]


def _interval(cell: dict[str, Any], key: str) -> Interval:
    metric = cell["metrics"][key]
    return Interval(metric["value"], metric["low"], metric["high"], metric["prompts"])
