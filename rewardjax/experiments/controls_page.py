"""The table and the page of `rewardjax analyze controls`."""

from __future__ import annotations

from pathlib import Path

from rewardjax.experiments.control_fits import TASKS, Fit, Task, zero_mse
from rewardjax.experiments.controls import Outcome
from rewardjax.report import html
from rewardjax.report.rank import controls_figure, ratio
from rewardjax.report.table import Cell, Table

NAMES = {"rad": "RAD", "arm": "ARM, full rank"}


def controls_table(outcome: Outcome, task: Task) -> Table:
    """One row per model: error over the zero predictor's, its floor, rank of what was learned."""
    n = outcome.config.n
    groups: dict[str, list[Fit]] = {}
    for found in outcome.fits:
        if found.task == task:
            name = NAMES.get(found.model, f"ARM, r = {found.rank}")
            groups.setdefault(name, []).append(found)
    rows = []
    for name, fits in groups.items():
        values = [found.relative for found in fits]
        floor = fits[0].floor
        over = [found.mse / floor - 1 for found in fits] if floor else None
        ranks = sorted({found.matrix_rank for found in fits})
        rows.append(
            (
                Cell(name),
                Cell(ratio(sum(values) / len(values)), f"{ratio(min(values))} to "
                     f"{ratio(max(values))}"),
                Cell("–" if floor is None else ratio(floor / zero_mse(task, n))),
                Cell("–")
                if over is None
                else Cell(f"{max(over, key=abs):+.0e}"),
                Cell(" to ".join(dict.fromkeys((str(ranks[0]), str(ranks[-1]))))),
            )
        )  # fmt: skip
    columns = (
        Cell("model"),
        Cell("error / predicting 0", f"mean and range of {len(outcome.config.seeds)} seeds"),
        Cell("floor / predicting 0"),
        Cell("error / floor − 1", "seed farthest from 0"),
        Cell("rank of the matrix", "of n"),
    )
    title = f"{task}, n = {n}"
    caption = (
        f"Predicting 0 leaves {zero_mse(task, n):.4g}; the floor is (n−r−1)/n². The matrix is"
        " float32, so its error may differ from the floor by 1e-7 or so of it, below it too"
    )
    if task == "triangle":  # nothing bounds any rank: no column for it
        columns = (*columns[:2], columns[4])
        rows = [(*row[:2], row[4]) for row in rows]
        caption = f"Predicting 0 leaves {zero_mse(task, n):.4g}; no rank has a floor above 0"
    return Table(columns, tuple(rows), title=title, caption=caption)


def write(outcome: Outcome, path: Path) -> Path:
    """Writes the page and returns its path."""
    config, n = outcome.config, outcome.config.n
    ranked = {
        task: [
            (found.rank, found.relative)
            for found in outcome.fits
            if found.task == task and found.rank is not None
        ]
        for task in TASKS
    }
    others = {
        task: {
            name: [f.relative for f in outcome.fits if (f.task, f.model) == (task, model)]
            for model, name in NAMES.items()
        }
        for task in TASKS
    }
    figure = controls_figure(n, ranked, others)
    caption = (
        f"{len(config.seeds)} seeds each. In the shaded area no matrix of rank r plus a baseline"
        " can lie. On the right values under 1e-8 lie on the edge; there is no floor."
    )
    powers = "; ".join(
        f"a = {a:g} leaves {ratio(mse / zero_mse('triangle', n))} of predicting 0"
        for a, mse in outcome.powers.items()
    )
    sections = [
        ("What each rank can fit", html.figure(figure, caption)),
        (
            "Identity: every entry observed",
            html.paragraph(
                f"Texts are all {n * n} pairs (x, y) of {n} tokens; the label 1[x = y] is the"
                " reward of the second token. The best matrix of rank r plus a baseline of the"
                " prefix leaves (n−r−1)/n², so this error is a statement about rank, not about"
                " training. RAD runs on the pair itself and has no such floor."
            )
            + html.table(controls_table(outcome, "identity")),
        ),
        (
            "Triangle: x ≤ y observed",
            html.paragraph(
                "Every matrix that agrees with all observed entries has ones on its diagonal and"
                " zeros above it, hence full rank. This does not make a low rank fail: the rank-1"
                f" matrix R[x, y] = a^(y−x) comes as near as wished when a falls ({powers}). The"
                " infimum of the loss is 0 at rank 1 already. What the trained ranks leave below"
                " shows how far gradient descent with weights of ordinary size gets, and that RAD"
                " fits without effort; it is no proof that ARM must fail."
            )
            + html.table(controls_table(outcome, "triangle")),
        ),
        (
            "What must hold",
            html.facts(
                {"Checks": {name: "yes" if ok else "NO" for name, ok in outcome.checks.items()}}
            ),
        ),
        (
            "Settings and versions",
            html.facts(
                {
                    "Run": {
                        "models": "a random two-layer transformer each, width "
                        f"{config.width}, trained with its head",
                        "training": f"{config.steps} full-batch steps of Adam, rate "
                        f"{config.learning_rate:g} falling to 0 as a cosine, float32",
                        "seeds": ", ".join(map(str, config.seeds)),
                        "time": f"{outcome.seconds:.0f} s",
                    },
                    "Versions": outcome.versions,
                }
            )
            + html.code(outcome.command),
        ),
    ]
    page = html.Page(
        "Two reward matrices of known rank",
        "What a reward model that runs on each candidate (RAD) and low-rank models (ARM) can fit"
        " on two small matrices whose best low-rank fit is known exactly.",
        _numbers(outcome),
        sections,
        f"Made by rewardjax {outcome.versions['rewardjax']}.",
    )
    return html.write_page(page, path)


def _numbers(outcome: Outcome) -> list[html.KeyNumber]:
    def worst(task: Task, model: str) -> str:
        found = [f.relative for f in outcome.fits if (f.task, f.model) == (task, model)]
        return ratio(max(found))

    bounded = [f for f in outcome.fits if f.model == "arm_rank" and f.floor]
    over = max((f.mse / f.floor - 1 for f in bounded if f.floor), default=0.0, key=abs)
    return [
        html.KeyNumber("identity, RAD: error over predicting 0", worst("identity", "rad"), "worst"),
        html.KeyNumber("identity, ARM of full rank", worst("identity", "arm"), "worst seed"),
        html.KeyNumber(
            "identity, ARM of rank r against its floor", f"{over:+.0e}", "error / floor − 1, worst"
        ),
        html.KeyNumber("triangle, RAD", worst("triangle", "rad"), "worst seed"),
    ]
