"""The page of `rewardjax analyze rank`."""

from __future__ import annotations

from pathlib import Path

from rewardjax.experiments.rank import Outcome
from rewardjax.metrics.rank_result import Part, RankResult
from rewardjax.report import html
from rewardjax.report.rank import growth_table, parts_table, rank_figure, rank_table

FIGURE_NOTE = (
    "Left: singular values over the largest, down to 1e-9. Middle: share of the squared sum beyond"
    " the first r; the dotted lines are 90, 99 and 99.9%. Right: energy rank 99% (marked) and the"
    " number of singular values over 1e-3 of the largest (faint) of the first N prefixes; the"
    " dotted line is rank = N."
)


def write(outcome: Outcome, path: Path) -> Path:
    """Writes the page and returns its path."""
    results = outcome.results
    first = next(iter(results.values()))
    kind = outcome.reward_model["parametrization"]
    rank = outcome.reward_model["rank"]
    model = kind if rank is None else f"{kind}, r = {rank}"
    raw = {name: result.analysis.raw for name, result in results.items()}
    centered = {name: result.analysis.centered for name, result in results.items()}
    bounds = {name: result.bound for name, result in results.items()}
    sections = [
        (
            "Raw rewards",
            html.paragraph(
                "Rewards before any clipping. A baseline of the prefix alone, the same for every"
                " token, is one direction; where it is large it holds most of the energy."
            )
            + html.figure(rank_figure(raw, bounds=bounds, prefix="raw"), FIGURE_NOTE)
            + html.table(rank_table(results)),
        ),
        (
            "Minus each row's mean: what tells tokens apart",
            html.paragraph(
                "Each row's mean over its columns is subtracted: a baseline cancels in the softmax,"
                " and what is left is what can steer."
            )
            + html.figure(rank_figure(centered, prefix="centered"), FIGURE_NOTE)
            + html.table(rank_table(results, part="centered")),
        ),
        ("Growth with N", _growth(raw, centered)),
    ]
    if first.sampled:
        sections.append(("Sample against whole vocabulary", _check(results)))
    sections.append(("Settings and versions", _settings(outcome, model)))
    columns = f"{first.columns:,} random tokens" if first.sampled else "every token"
    page = html.Page(
        f"Rank of a reward model: {model}",
        f"Rows of its reward matrix after {first.prefixes:,} prefixes of each set of texts, for"
        f" {columns} of the vocabulary's {first.vocabulary:,}; singular values in {first.dtype}.",
        _numbers(results),
        sections,
        f"Made by rewardjax {outcome.versions['rewardjax']}.",
    )
    return html.write_page(page, path)


def _numbers(results: dict[str, RankResult]) -> list[html.KeyNumber]:
    out = []
    for name, result in list(results.items())[:2]:
        n = f"of {result.prefixes} rows"
        for words, part in (("raw", result.analysis.raw), ("centred", result.analysis.centered)):
            value = str(part.energy_rank["0.99"])
            out.append(html.KeyNumber(f"{name}, {words}: 99% of the energy", value, n))
    first = next(iter(results.values()))
    if first.bound is not None:
        within = {result.within_bound for result in results.values()}
        kept = "NOT kept" if False in within else "kept" if True in within else "no fewer than N"
        out.append(html.KeyNumber("bound of the parametrization", str(first.bound), kept))
    return out


def _growth(raw: dict[str, Part], centered: dict[str, Part]) -> str:
    parts = {f"{name}, raw": part for name, part in raw.items()}
    parts |= {f"{name}, centred": part for name, part in centered.items()}
    return html.table(growth_table(parts))


def _check(results: dict[str, RankResult]) -> str:
    parts: dict[str, Part] = {}
    for name, result in results.items():
        if result.check_full is None or result.check_sample is None:
            continue
        for words, kind in (("raw", "raw"), ("centred", "centered")):
            parts[f"{name}, {words}: whole vocabulary"] = getattr(result.check_full, kind)
            parts[f"{name}, {words}: sample"] = getattr(result.check_sample, kind)
    first = next(iter(results.values()))
    words = (
        f"The model runs on each candidate, so columns are {first.columns:,} of"
        f" {first.vocabulary:,} tokens, drawn by seed {first.seed}. A sample of at least 8 N"
        " columns keeps the directions of N rows up to sampling noise; the rank is at most N"
        " either way."
    )
    if not parts:
        return html.paragraph(words + " No check with the whole vocabulary was asked for.")
    sizes = {name: f"{part.shape[0]} × {part.shape[1]:,}" for name, part in parts.items()}
    few = dict(list(parts.items())[:8])
    return (
        html.paragraph(
            words + " The first prefixes with every token, beside the same in the sample:"
        )
        + html.figure(rank_figure(few, prefix="check"), FIGURE_NOTE)
        + html.table(parts_table(parts, sizes))
    )


def _settings(outcome: Outcome, model: str) -> str:
    config = outcome.config
    run = {
        "reward model": f"{model}, {outcome.reward_model['backbone']} backbone",
        "output": config.output,
        "language model": f"{outcome.lm['source']}, {outcome.lm['dtype']}",
        "fingerprint": outcome.lm["fingerprint"][:16],
        "prefixes": f"{config.num_prefixes} a set, texts cut to {config.max_tokens} tokens",
        "seed": config.seed,
        "time": f"{outcome.seconds:.0f} s",
    }
    run |= {f"texts in {name}": f"{count:,}" for name, count in outcome.texts.items()}
    return html.facts({"Run": run, "Versions": outcome.versions}) + html.code(outcome.command)
