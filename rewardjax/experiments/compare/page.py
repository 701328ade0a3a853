"""The comparison's page and README, made from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rewardjax.experiments.compare import lm_tables, model_tables, tables
from rewardjax.experiments.compare.figures import chunks, curves, sweep_figure
from rewardjax.experiments.record import Results, footer
from rewardjax.experiments.record import readme as whole_readme
from rewardjax.experiments.record import sections as how_it_was_made
from rewardjax.report import html
from rewardjax.report.comparison import MOST
from rewardjax.report.rank import rank_figure
from rewardjax.report.table import to_html, to_markdown
from rewardjax.report.write import write_text


def write(results: Results, folder: Path) -> Path:
    """Writes report.html and README.md; returns the page's path."""
    write_text(folder / "README.md", readme(results))
    return html.write_page(page(results), folder / "report.html")


def page(results: Results) -> html.Page:
    """The self-contained page."""
    sections = []
    for arm in results["arms"]:
        parts = [html.figure(svg, caption) for svg, caption in curves(results, arm)]
        parts += [to_html(table) for table in tables.of_arm(results, arm)]
        if every := tables.of_cells(results, arm):
            parts.append(html.details("Every cell of the curves", to_html(every)))
        if parts:
            sections.append((arm["name"], "".join(parts)))
    if (of_models := model_tables.of_models(results)).rows:
        sections.append(("The reward models", to_html(of_models)))
    if lms := lm_tables.of_lms(results):
        sections.append(("The fine-tuned LMs", to_html(lms)))
    if agreement := model_tables.of_agreement(results):
        title = f"Agreement with {results['models'][0]['name']}"
        sections.append((title, to_html(agreement)))
    for found in results["sweeps"]:
        svg, caption = sweep_figure(results, found)
        sections.append((f"Sweep: {found['name']}", html.figure(svg, caption)))
    if model_tables.spectra(results):
        sections.append(("Rank", _ranks(results)))
    if results["controls"]:
        controls = to_html(model_tables.of_controls(results["controls"]))
        sections.append(("Two controls", controls))
    sections += [("Samples", part) for part in _samples(results)]
    sections += how_it_was_made(results, _protocol(results), _facts(results))
    lead = results["question"] or "Reward models trained alike, compared."
    if not results["finished"]:
        lead += f" {_unfinished(results)}"
    return html.Page(results["name"], lead, sections=sections, footer=footer(results))


def readme(results: Results) -> str:
    """The page's tables in Markdown."""
    parts = []
    for arm in results["arms"]:
        found = tables.of_arm(results, arm)
        if found:
            parts += [f"## {arm['name']}", *map(to_markdown, found)]
    if (of_models := model_tables.of_models(results)).rows:
        parts += ["## The reward models", to_markdown(of_models)]
    if lms := lm_tables.of_lms(results):
        parts += ["## The fine-tuned LMs", to_markdown(lms)]
    if agreement := model_tables.of_agreement(results):
        title = f"## Agreement with {results['models'][0]['name']}"
        parts += [title, to_markdown(agreement)]
    if model_tables.spectra(results):
        ranks = [make(results, part) for make in _RANKS for part in model_tables.TITLES]
        parts += ["## Rank", *map(to_markdown, ranks)]
    if results["controls"]:
        parts += ["## Two controls", to_markdown(model_tables.of_controls(results["controls"]))]
    return whole_readme(results, _unfinished(results), parts, _protocol(results))


def _unfinished(results: Results) -> str:
    cells = results["unfinished"]["cells"]
    measured = (
        f"{cells} of the cells planned so far are not measured"
        if cells
        else "every cell is measured"
    )
    return f"UNFINISHED: {measured}; models, ranks, agreement or controls may be missing."


def _protocol(results: Results) -> str:
    """n and seeds in a sentence."""
    settings = results["settings"]
    protocol = settings["protocol"]
    grids = {", ".join(f"{beta:g}" for beta in arm["betas"]): None for arm in results["arms"]}
    own = " or a model's own" if any(model["betas"] for model in results["models"]) else ""
    text = (
        f"Training seeds {', '.join(map(str, settings['seeds']))}. Curves:"
        f" {protocol['prompts']} prompts × {protocol['samples']} samples ×"
        f" {protocol['max_new_tokens']} tokens at β = {' or '.join(grids)}{own}"
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


_RANKS = (model_tables.of_ranks, model_tables.of_growth)


def _ranks(results: Results) -> str:
    """Figures of at most `MOST` spectra, the reference in each; tables, and every number."""
    found = []
    for part, title in model_tables.TITLES.items():
        spectra = model_tables.spectra(results, part)
        first, *others = spectra
        for number, chunk in enumerate(chunks(others, MOST - 1)):
            shown = {name: spectra[name] for name in [first, *chunk]}
            figure = rank_figure(shown, prefix=f"rank-{part}-{number}")
            found.append(html.figure(figure, f"{title}. {_RANK_NOTE}"))
    found += [to_html(make(results, part)) for make in _RANKS for part in model_tables.TITLES]
    for part, title in model_tables.TITLES.items():
        every = to_html(model_tables.of_every_rank(results, part))
        found.append(html.details(f"Every rank: {title.lower()}", every))
    return "".join(found)


_RANK_NOTE = (
    "First seed, held-out prefixes. Left: singular values, largest first, over the largest."
    " Middle: energy that the first r leave out. Right: rank that holds 99% of the energy (dark)"
    " and rank at the cut-off 1e-3 (faint) of the first N prefixes."
)


def _samples(results: Results) -> Iterator[str]:
    groups = []
    for sample in results["samples"]:
        columns = [html.Sample(c["label"], [(c["text"], None)]) for c in sample["columns"]]
        groups.append((f"{sample['arm']}: {sample['prompt']}", columns))
    if groups:
        yield html.paragraph(
            "The first sample of the first prompts, at the chosen β: none is picked."
        ) + html.samples(groups, scale=None)


def _facts(results: Results) -> dict[str, str]:
    settings = results["settings"]
    return {
        "language model": settings["lm"],
        "perplexity": f"under {settings['perplexity_lm']}",
        "judges": ", ".join(settings["scorers"]),
        "candidates": f"top {settings['top_k']}",
        "tokens": str(settings["protocol"]["max_new_tokens"]),
    }
