"""The comparison's page and README, made from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardjax.experiments.compare import tables
from rewardjax.metrics.bootstrap import Interval
from rewardjax.report import html
from rewardjax.report.comparison import MOST, Point, sweep, tradeoff_curves
from rewardjax.report.table import to_markdown
from rewardjax.report.write import write_text

PERPLEXITY = "perplexity"
Results = dict[str, Any]
Figure = tuple[str, str, str]
"""(file name without suffix, SVG, caption)"""


def write(results: Results, folder: Path) -> Path:
    """Writes report.html and README.md; returns the page's path."""
    write_text(folder / "README.md", readme(results))
    return html.write_page(page(results), folder / "report.html")


def page(results: Results) -> html.Page:
    """The self-contained page."""
    sections = []
    for arm in results["arms"]:
        parts = [html.figure(svg, caption) for _, svg, caption in _curves(results, arm)]
        parts += [html.table(table) for table in tables.of_arm(results, arm)]
        if parts:
            sections.append((arm["name"], "".join(parts)))
    sections.append(("The reward models", html.table(tables.of_models(results))))
    for found in results["sweeps"]:
        svg, caption = _sweep(results, found)
        sections.append((f"Sweep: {found['name']}", html.figure(svg, caption)))
    if spectra := tables.spectra(results):
        from rewardjax.report.rank import rank_figure

        caption = "Singular values of the raw reward matrix, largest first, over its largest."
        sections.append(("Rank", html.figure(rank_figure(spectra), caption)))
        sections.append(("Rank in numbers", html.table(tables.of_ranks(results))))
    if results["controls"]:
        sections.append(("Two controls", html.table(tables.of_controls(results["controls"]))))
    sections += [("Samples", part) for part in _samples(results)]
    made = html.paragraph(_protocol(results)) + html.code(results["command"])
    sections.append(("How it was made", made + html.code("\n".join(results["commands"]))))
    sections.append(("Settings and versions", _facts(results)))
    lead = results["question"] or "Reward models trained alike, compared."
    if results["unfinished"]["cells"]:
        lead += f" UNFINISHED: {results['unfinished']['cells']} cells are not measured yet."
    return html.Page(results["name"], lead, sections=sections, footer=_footer(results))


def readme(results: Results) -> str:
    """The page's tables in Markdown."""
    parts = [f"# {results['name']}", results["question"], _footer(results)]
    if results["unfinished"]["cells"]:
        parts.append(f"**Unfinished: {results['unfinished']['cells']} cells are not measured.**")
    for arm in results["arms"]:
        found = tables.of_arm(results, arm)
        if found:
            parts += [f"## {arm['name']}", *map(to_markdown, found)]
    parts += ["## The reward models", to_markdown(tables.of_models(results))]
    if tables.spectra(results):
        parts += ["## Rank", to_markdown(tables.of_ranks(results))]
    if results["controls"]:
        parts += ["## Two controls", to_markdown(tables.of_controls(results["controls"]))]
    parts += ["## How it was made", f"    {results['command']}", _protocol(results)]
    parts += ["`report.html` has the figures, samples and every command; `results.json` every"
              " number, with its n, seed and interval."]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _protocol(results: Results) -> str:
    """n and seeds in a sentence."""
    settings = results["settings"]
    protocol = settings["protocol"]
    text = (
        f"Training seeds {', '.join(map(str, settings['seeds']))}. Curves:"
        f" {protocol['prompts']} prompts × {protocol['samples']} samples ×"
        f" {protocol['max_new_tokens']} tokens at β = {', '.join(map(str, settings['betas']))}"
        " with the first seed, the other seeds at the chosen β."
    )
    if protocol["full_prompts"]:
        text += (
            f" Full protocol: {protocol['full_prompts']} other prompts ×"
            f" {protocol['full_samples']} samples at the β chosen on the curves' prompts."
        )
    if settings["perplexity_lm"]:
        count = protocol["perplexity_samples"] or "all"
        text += f" Perplexity under {settings['perplexity_lm']}, {count} samples per prompt."
    return text


def _curves(results: Results, arm: dict[str, Any]) -> Iterator[Figure]:
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
            lines[model["name"]] = [start, *points]
    if not any(len(points) > 2 for points in lines.values()):
        return
    limit = arm["most_perplexity"] * start.perplexity.value
    names = list(lines)
    betas = ", ".join(f"{beta:g}" for beta in results["settings"]["betas"])
    for part, chunk in enumerate(_chunks(names[1:], MOST - 1)):
        shown = {name: lines[name] for name in [names[0], *chunk]}
        svg = tradeoff_curves(
            shown,
            attribute=tables.words(metric),
            perplexity=f"perplexity under {results['settings']['perplexity_lm']}",
            title=arm["name"],
            prefix=f"{arm['name'].replace(' ', '-')}-{part}",
            limit=limit,
        )
        caption = (
            f"β = 0, {betas} along each line; {plain['prompts']} prompts ×"
            f" {results['settings']['protocol']['samples']} samples, seed {seed}. Bars: 95%"
            f" bootstrap intervals over prompts. Dotted: {arm['most_perplexity']:g} × the unguided"
            " perplexity."
        )
        yield f"{arm['name']}-{part}", svg, caption


def _sweep(results: Results, found: dict[str, Any]) -> tuple[str, str]:
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
        panels["rank (99% of the energy)"] = {
            "": [[tables.energy_rank(s["rank"], 0.99) for s in seeds] for seeds in rows]
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
        prefix=f"sweep-{found['name'].replace(' ', '-')}",
    )
    seeds = len(results["settings"]["seeds"])
    return svg, f"Dots: each of {seeds} training seeds; lines: their means."


def _at_chosen(
    results: Results, arm: dict[str, Any], model: str, metric: str
) -> list[float | None]:
    beta = arm["chosen_beta"].get(model)
    found = []
    for seed in results["settings"]["seeds"]:
        one = tables.cell(results, arm["name"], model, seed, beta)
        found.append(one["metrics"].get(metric, {}).get("value") if one else None)
    return found


def _samples(results: Results) -> Iterator[str]:
    groups = []
    for sample in results["samples"]:
        columns = [html.Sample(c["label"], [(c["text"], None)]) for c in sample["columns"]]
        groups.append((f"{sample['arm']}: {sample['prompt']}", columns))
    if groups:
        yield html.paragraph(
            "The first sample of the first prompts, at the chosen β: none is picked."
        ) + html.samples(groups)


def _facts(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    protocol = settings["protocol"]
    return html.facts(
        {
            "Run": {
                "language model": settings["lm"],
                "perplexity": f"under {settings['perplexity_lm']}",
                "judges": ", ".join(settings["scorers"]),
                "candidates": f"top {settings['top_k']}",
                "tokens": str(protocol["max_new_tokens"]),
                "machine": f"{machine['cpu']}, {machine['cores']} cores",
                "time": f"{results['seconds'] / 3600:.1f} h ({results['cpu_seconds'] / 3600:.1f}"
                " h of CPU)",
                "commit": results["commit"] or "unknown",
            },
            "Versions": results["versions"],
        }
    )


def _footer(results: Results) -> str:
    return (
        f"Made by rewardjax {results['versions']['rewardjax']}, commit {results['commit']}, on"
        f" {results['machine']['cpu']} ({results['machine']['cores']} cores) in"
        f" {results['seconds'] / 3600:.1f} h; CPU time {results['cpu_seconds'] / 3600:.1f} h."
    )


def _interval(cell: dict[str, Any], key: str) -> Interval:
    metric = cell["metrics"][key]
    return Interval(metric["value"], metric["low"], metric["high"], metric["prompts"])


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, max(1, len(names)), size):
        yield names[start : start + size]
