"""The selection experiment's page and README, made from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardjax.experiments.record import Results, footer
from rewardjax.experiments.record import readme as whole_readme
from rewardjax.experiments.record import sections as how_it_was_made
from rewardjax.experiments.selection import tables
from rewardjax.experiments.selection.figures import of_task as figures_of_task
from rewardjax.report import html
from rewardjax.report.table import number, to_html, to_markdown
from rewardjax.report.write import write_text


def write(results: Results, folder: Path) -> Path:
    """Writes report.html and README.md; returns the page's path."""
    write_text(folder / "README.md", readme(results))
    return html.write_page(page(results), folder / "report.html")


def page(results: Results) -> html.Page:
    """The self-contained page."""
    sections = []
    for task in results["tasks"]:
        parts = [html.paragraph(_what(task))]
        parts += [
            html.figure(svg, caption, narrow=narrow)
            for svg, caption, narrow in figures_of_task(results, task)
        ]
        parts += [to_html(table) for table in tables.of_task(results, task)]
        sections.append((task["name"], "".join(parts)))
    if table := tables.speed(results):
        sections.append(("Speed", to_html(table)))
    sections += how_it_was_made(results, _protocol(results), _facts(results))
    lead = results["question"] or "What choosing among k completions earns."
    if not results["finished"]:
        lead += f" {_unfinished(results)}"
    numbers = [number for task in results["tasks"] for number in _numbers(results, task)]
    return html.Page(results["name"], lead, numbers, sections, footer(results))


def readme(results: Results) -> str:
    """The page's tables in Markdown."""
    parts = []
    for task in results["tasks"]:
        parts += [f"## {task['name']}", _what(task)]
        parts += map(to_markdown, tables.of_task(results, task))
    if table := tables.speed(results):
        parts += ["## Speed", to_markdown(table)]
    return whole_readme(results, _unfinished(results), parts, _protocol(results))


def _numbers(results: Results, task: dict[str, Any]) -> Iterator[html.KeyNumber]:
    """The first loss at the largest k beside the base rate, and less the reference."""
    k = results["settings"]["ks"][-1]
    for rule in tables.losses(results, task)[:1]:
        earned, base = rule["judges"][0][-1]["reward"], task["base"][0]
        label = f"{task['name']}: {rule['name']} among {k}"
        yield html.KeyNumber(label, number(earned["value"]), f"base rate {number(base['value'])}")
        for one in task["differences"]:
            if one["name"] == rule["name"]:
                found = one["by_k"][-1]
                ends = f"{number(found['low'])} to {number(found['high'])}"
                label = f"{task['name']}: {one['name']} − {one['reference']} among {k}"
                yield html.KeyNumber(label, number(found["value"]), ends)


def _what(task: dict[str, Any]) -> str:
    """Base rate, judge and training reward in words."""
    base, judge, learned = task["base"][0], task["judges"][0], task["train_reward"]
    seen = "which is the judge too" if task["seen_in_training"] else "not the judge"
    return (
        f"Base rate (any completion, by {judge['name']}): {number(base['value'])}"
        f" ({number(base['low'])} to {number(base['high'])}, {base['n']} prompts). Trained on"
        f" {learned['name']}, {seen}: {task['train']['prompts']} prompts ×"
        f" {task['train']['samples']} completions with a mean reward of"
        f" {number(task['train_base']['value'])}. A completion has"
        f" {number(task['tokens_per_completion'], 1)} tokens on average."
    )


def _protocol(results: Results) -> str:
    settings = results["settings"]
    held = f"{100 * settings['held_out']:g}%"
    return (
        f"Seeds {', '.join(map(str, settings['seeds']))}. Probes read layers"
        f" {', '.join(map(str, results['layers']))} of {settings['lm']} at a completion's end;"
        f" layer and τ are chosen on the {held} of the training prompts that the seed holds out,"
        f" from τ = {', '.join(f'{tau:g}' for tau in settings['taus'])} deviations of Q within a"
        " prompt, by the training reward of choosing among all completions of a prompt."
        " Scores of sentiment, −1 to 1, count as (score + 1) / 2. Rewards of a choice are"
        " expectations, not draws: Σ softmax(Q/τ) r over shuffled chunks of k."
    )


def _unfinished(results: Results) -> str:
    return (
        f"UNFINISHED: {results['unfinished']['fits']} of the fits are not made, and what rests on"
        " them is missing."
    )


def _facts(results: Results) -> dict[str, str]:
    settings = results["settings"]
    return {"language model": f"{settings['lm']}, {settings['dtype']}"}
