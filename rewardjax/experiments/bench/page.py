"""The benchmark's pages, made from its results (and OUT/notes.md, if somebody wrote one)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rewardjax.experiments.bench import tables
from rewardjax.experiments.bench.profile import PROFILE
from rewardjax.experiments.bench.targets import find, step_seconds
from rewardjax.report import html
from rewardjax.report.cost import Line, cost_figure
from rewardjax.report.table import to_html, to_markdown
from rewardjax.report.write import write_text

Results = dict[str, Any]
NOTES = "notes.md"
FIGURE = "cost.svg"
CAPTION = (
    "Milliseconds of a step. Left: over the batch, with the floor that the machine's ceilings give"
    " (dotted). Middle and right: over candidates and over the tokens of a text, at one batch size."
)
LEAD = (
    "Decoding speed beside the machine's limits: what a step must move and do, what the machine can"
    " do at best, what was measured, and the same decoding in PyTorch in the same run."
)


def write(results: Results, folder: Path) -> Path:
    """Writes report.html, README.md and cost.svg; returns the page's path."""
    path = folder / NOTES
    notes = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    found = folder / PROFILE
    profile = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else None
    svg = figure(results)
    standalone = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    write_text(folder / FIGURE, standalone + "\n")
    write_text(folder / "README.md", readme(results, notes, profile))
    return html.write_page(page(results, svg, notes, profile), folder / "report.html")


def figure(results: Results) -> str:
    """Cost of a step over B, k and T."""
    batches = sorted(results["settings"]["batch_sizes"])
    by_batch = []
    for name in results["settings"]["cases"]:
        found = [row for batch in batches if (row := find(results, name, batch)) is not None]
        milliseconds = [[1e3 * x for x in step_seconds(row)] for row in found]
        floors = [1e3 * statistics.median(row["floors"]) for row in found]
        by_batch.append(Line(tables.words(name), batches, milliseconds, floors))
    panels = {"batch size": by_batch}
    for axis, label in (("k", "candidates k"), ("T", "tokens of a prompt")):
        if swept := results["sweeps"].get(axis):
            panels[f"{label}, batch {swept['batch']}"] = [
                Line(tables.words(name), swept["values"], _milliseconds(rounds))
                for name, rounds in swept["lines"].items()
            ]
    return cost_figure(panels, title="Cost of a step", prefix="cost")


def _milliseconds(rounds: list[list[float]]) -> list[list[float]]:
    return [[1e3 * x for x in each] for each in rounds]


def page(
    results: Results, svg: str, notes: str = "", profile: dict[str, Any] | None = None
) -> html.Page:
    """The self-contained page."""
    sections = [
        ("Targets", to_html(tables.of_targets(results))),
        ("Speed", "".join(map(to_html, tables.of_speed(results)))),
        ("Cost of a step", html.figure(svg, CAPTION)),
        ("Counters", to_html(tables.of_counters(results))),
        ("The machine", to_html(tables.of_machine(results))),
        ("What a step must do", to_html(tables.of_limits(results))),
    ]
    if profile:
        sections.append(("Where a step's time goes", to_html(tables.of_profile(profile))))
    if notes:
        sections.append(("Notes", html.code(notes)))
    made = html.paragraph(_protocol(results)) + html.code(results["command"])
    sections.append(("How it was made", made + _facts(results)))
    return html.Page(_title(results), LEAD, sections=sections, footer=_footer(results))


def readme(results: Results, notes: str = "", profile: dict[str, Any] | None = None) -> str:
    """The page's tables in Markdown."""
    parts = [f"# {_title(results)}", LEAD, _footer(results)]
    parts += [to_markdown(tables.of_targets(results)), "## Speed"]
    parts += map(to_markdown, tables.of_speed(results))
    parts += ["## Cost of a step", f"![Cost of a step over B, k and T]({FIGURE})", CAPTION]
    parts += ["## Counters", to_markdown(tables.of_counters(results))]
    parts += ["## The machine", to_markdown(tables.of_machine(results))]
    parts += ["## What a step must do", to_markdown(tables.of_limits(results))]
    if profile:
        parts += ["## Where a step's time goes", to_markdown(tables.of_profile(profile))]
    parts += [notes] if notes else []
    parts += ["## How it was made", f"    {results['command']}", _protocol(results)]
    parts.append("`results.json` holds every round; these pages are made from it.")
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _title(results: Results) -> str:
    return f"Decoding speed: {results['name']}"


def _protocol(results: Results) -> str:
    """What was done, in sentences."""
    s, machine = results["settings"], results["machine"]
    text = (
        f"{s['new_tokens']} tokens after prompts of {s['prompt_tokens']} random ids, EOS off,"
        f" k = {s['candidates']}, weights and caches in {s['dtype']}. {s['repeats']} rounds, in"
        " each of which every system runs once and the ceilings are measured; first calls, which"
        " compile, are apart. A step's time is that of the steps alone, tokens/s count the prompts'"
        f" reading too. XLA uses {machine['xla_threads']} threads"
    )
    if "torch_threads" in machine:
        worst = max(results["parity"].values(), default=0.0)
        text += (
            f", PyTorch {machine['torch_threads']}. Before the timing PyTorch's guided logits were"
            f" compared with ours in float32: they differ by {worst:.1g} at most"
        )
    return f"{text}. The machine's load average was {machine['load']:g} before the run."


def _facts(results: Results) -> str:
    machine = results["machine"]
    run = {
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "devices": ", ".join(machine["devices"]),
        "time": f"{results['seconds'] / 60:.0f} min",
        "commit": results["commit"] or "unknown",
    }
    models = {
        name.replace("_", " "): ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in size.items())
        for name, size in results["models"].items()
    }
    return html.facts({"Run": run, "Models": models, "Versions": results["versions"]})


def _footer(results: Results) -> str:
    machine = results["machine"]
    where = machine["cpu"] if machine["backend"] == "cpu" else ", ".join(machine["devices"])
    return (
        f"Made by rewardjax {results['versions']['rewardjax']}, commit {results['commit']}, on"
        f" {where} ({machine['cores']} cores) in {results['seconds'] / 60:.0f} min."
    )
