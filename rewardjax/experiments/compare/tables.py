"""The comparison's tables, from its results."""

from __future__ import annotations

import statistics
from typing import Any

from rewardjax.metrics.rank_result import Part
from rewardjax.report.rank import parts_table
from rewardjax.report.table import Cell, Table, interval, number

PERPLEXITY = "perplexity"
Results = dict[str, Any]


def cell(
    results: Results,
    arm: str,
    model: str | None,
    seed: int,
    beta: float | None = 0.0,
    *,
    full: bool = False,
) -> dict[str, Any] | None:
    """One cell of the results, or None where it is not measured."""
    wanted = (arm, model, seed, beta, full)
    for one in results["cells"]:
        if (one["arm"], one["model"], one["seed"], one["beta"], one["full"]) == wanted:
            return one
    return None


def words(metric: str) -> str:
    """`vader.positive_rate` as people say it."""
    scorer, _, name = metric.rpartition(".")
    name = name.replace("_", " ")
    return f"{name} ({scorer.rstrip('/').split('/')[-1]})" if scorer else name


def of_arm(results: Results, arm: dict[str, Any]) -> list[Table]:
    """Tables of one arm: the full protocol, the curves' cells at the chosen β, and all cells."""
    full = _at_chosen(results, arm, full=True)
    found = [full] if full else []
    chosen = _at_chosen(results, arm, full=False)
    return [*found, *([chosen] if chosen else []), *_every(results, arm)]


def _metrics(results: Results, arm: dict[str, Any]) -> list[str]:
    """Metric keys worth a column, the arm's own first."""
    first = results["settings"]["seeds"][0]
    plain = cell(results, arm["name"], None, first)
    keys = list(plain["metrics"]) if plain else []
    ends = (".positive_rate", ".toxic_rate", ".average_max_toxicity")
    judged = [key for key in keys if key.endswith(ends) and key != arm["metric"]]
    return [arm["metric"], *judged, PERPLEXITY, "dist-1", "dist-2", "dist-3", "kl", "clipped"]


def _at_chosen(results: Results, arm: dict[str, Any], *, full: bool) -> Table | None:
    """Unguided and every model at its β: each with its interval over prompts, and its seeds."""
    first, *others = results["settings"]["seeds"]
    plain = cell(results, arm["name"], None, first, full=full)
    if plain is None:
        return None
    keys = [key for key in _metrics(results, arm) if key in plain["metrics"] or key == "kl"]
    keys += ["clipped"]
    rows = [_row("unguided", plain, keys)]
    for model, beta in arm["chosen_beta"].items():
        one = cell(results, arm["name"], model, first, beta, full=full)
        if one is None:
            continue
        row = list(_row(f"{model}, β = {beta:g}", one, keys))
        if not full:
            found = [one, *(cell(results, arm["name"], model, s, beta) for s in others)]
            values = [c["metrics"][arm["metric"]]["value"] for c in found if c]
            row.append(Cell(_spread(values), f"{len(values)} seeds"))
            area = _area(results, arm["name"], model)
            row.append(interval(area["value"], area["low"], area["high"]) if area else Cell("–"))
        rows.append(tuple(row))
    columns = [Cell("texts", f"{plain['prompts']} prompts × {plain['texts'] // plain['prompts']}")]
    columns += [_heading(plain, rows, key, results, arm) for key in keys]
    if not full:
        rows[0] += (Cell("–"), Cell("–"))
        reference = results["models"][0]["name"]
        columns.append(Cell(words(arm["metric"]), "mean of seeds (lowest to highest)"))
        columns.append(Cell("area between curves", f"against {reference}"))
    title = "Full protocol" if full else "At the chosen β"
    notes = ["95% bootstrap intervals over prompts"]
    if full:
        notes.append("prompts that β was not chosen on")
    else:
        notes.append(
            "β: the best attribute with at most "
            f"{arm['most_perplexity']:g} × the unguided perplexity, on these prompts"
        )
        notes.append("area: mean difference in the attribute at equal perplexity")
    notes += sorted(
        {
            f"{m['scorer'].rstrip('/').split('/')[-1]}: {m['note']}"
            for m in plain["metrics"].values()
            if m.get("note")
        }
    )
    dropped = sum(m.get("dropped", 0) for m in plain["metrics"].values())
    notes.append(f"perplexities of 1e5 and more left out, unguided: {dropped}")
    return Table(tuple(columns), tuple(rows), title=title, caption=". ".join(notes))


def _heading(
    plain: dict[str, Any], rows: Any, key: str, results: Results, arm: dict[str, Any]
) -> Cell:
    names = {"kl": "KL per token", "clipped": "clipped share"}
    if key == PERPLEXITY:
        return Cell(key, str(results["settings"]["perplexity_lm"]))
    return Cell(names.get(key, words(key)))


def _row(name: str, one: dict[str, Any], keys: list[str]) -> tuple[Cell, ...]:
    cells = [Cell(name)]
    for key in keys:
        metric = one["metrics"].get(key)
        cells.append(
            interval(metric["value"], metric["low"], metric["high"]) if metric else Cell("–")
        )
    return tuple(cells)


def _every(results: Results, arm: dict[str, Any]) -> list[Table]:
    """All cells of the curves, briefly."""
    metric, rows = arm["metric"], []
    for one in results["cells"]:
        if one["arm"] == arm["name"] and not one["full"]:
            values = [one["metrics"].get(key) for key in (metric, PERPLEXITY)]
            shown = [interval(v["value"], v["low"], v["high"]) if v else Cell("–") for v in values]
            name = one["model"] or "unguided"
            rows.append((Cell(name), Cell(f"{one['beta']:g}"), Cell(str(one["seed"])), *shown))
    if len(rows) < 2:
        return []
    heads = ("reward model", "β", "seed", words(metric), PERPLEXITY)
    return [Table(tuple(map(Cell, heads)), tuple(rows), title="Every cell of the curves")]


def _area(results: Results, arm: str, model: str) -> dict[str, Any] | None:
    found = [a for a in results["areas"] if (a["arm"], a["model"]) == (arm, model)]
    return found[0] if found else None


def of_models(results: Results) -> Table:
    """Size, cost, held-out error and speed of every reward model."""
    heads = [
        Cell("reward model"),
        Cell("trainable parameters"),
        Cell("training", "seconds of CPU, first seed"),
        Cell("held-out squared error", "mean of seeds (lowest to highest)"),
        Cell("held-out AUC or Spearman"),
        Cell("rank", "99% of the energy, of N prefixes"),
        Cell("reads per token", "of the reward model"),
        Cell("tokens/s", "relative to unguided"),
    ]
    speeds = (results["speed"] or {}).get("tokens_per_second", {})
    plain = speeds.get("unguided", {}).get("median")
    rows = []
    for model in results["models"]:
        first = model["seeds"][0]
        done = [s for s in model["seeds"] if s["finished"]]
        errors = _known(done, "eval/squared_error")
        scores = _known(done, "eval/auc") or _known(done, "eval/spearman")
        speed = speeds.get(model["name"], {}).get("median")
        size = first["metrics"].get("model/trainable_parameters")
        rank = energy_rank(first["rank"], 0.99)
        rows.append(
            (
                Cell(model["name"], f"teacher: {model['teacher']}" if model["teacher"] else ""),
                Cell(f"{size:,.0f}" if size else "–"),
                Cell(number(first["cpu_seconds"], 0)),
                Cell(_spread(errors, 4)),
                Cell(_spread(scores)),
                Cell("–" if rank is None else str(rank)),
                Cell(str(model["reads_per_token"])),
                Cell(number(speed, 0), f"{speed / plain:.2f}" if speed and plain else ""),
            )
        )
    return Table(tuple(heads), tuple(rows))


def _known(seeds: list[dict[str, Any]], name: str) -> list[float]:
    return [s["metrics"][name] for s in seeds if s["metrics"].get(name) is not None]


def _spread(values: list[float], digits: int = 3) -> str:
    """Mean, and the lowest and highest where there are several."""
    if not values:
        return "–"
    text = number(statistics.fmean(values), digits)
    if len(values) == 1:
        return text
    return f"{text} ({number(min(values), digits)} to {number(max(values), digits)})"


def energy_rank(rank: dict[str, Any] | None, share: float) -> int | None:
    """Rank that holds a share of the energy, of the first set of prefixes."""
    if not rank:
        return None
    return _first_set(rank)["analysis"]["raw"]["growth"][-1]["energy_rank"][f"{share:g}"]


def spectra(results: Results, part: str = "raw") -> dict[str, Part]:
    """Model → its spectrum on the first set of prefixes, first seed."""
    found = {}
    for model in results["models"]:
        rank = model["seeds"][0]["rank"]
        if rank:
            found[model["name"]] = Part.from_dict(_first_set(rank)["analysis"][part])
    return found


def of_ranks(results: Results, part: str = "raw") -> Table:
    """Ranks at every cut-off and share, of every model, seed and set of prefixes."""
    parts, sizes = {}, {}
    for model in results["models"]:
        for seed in model["seeds"]:
            for name, found in (seed["rank"] or {"sets": {}})["sets"].items():
                label = f"{model['name']}, {name} prefixes, seed {seed['seed']}"
                parts[label] = Part.from_dict(found["analysis"][part])
                sampled = " sampled" if found["sampled"] else ""
                sizes[label] = f"{found['prefixes']} × {found['columns']:,}{sampled}"
                if found["check_full"]:
                    for what, key in (
                        ("whole vocabulary", "check_full"),
                        ("sample", "check_sample"),
                    ):
                        one = Part.from_dict(found[key][part])
                        parts[f"{label}: check, {what}"] = one
                        sizes[f"{label}: check, {what}"] = f"{one.shape[0]} × {one.shape[1]:,}"
    return parts_table(parts, sizes)


def _first_set(rank: dict[str, Any]) -> dict[str, Any]:
    return next(iter(rank["sets"].values()))


def of_controls(controls: dict[str, Any]) -> Table:
    """Error over the zero predictor's, of every model and seed, beside the floor."""
    n = controls["settings"]["n"]
    groups: dict[tuple[str, str, int | None], list[float]] = {}
    for fit in controls["fits"]:
        key = (fit["task"], fit["model"], fit["rank"])
        groups.setdefault(key, []).append(fit["mse"] / controls["zero_mse"][fit["task"]])
    rows = []
    for (task, model, rank), values in groups.items():
        floor = None if rank is None or task != "identity" else max(0.0, (n - rank - 1) / n)
        name = model if rank is None else f"{model}, r = {rank}"
        rows.append(
            (
                Cell(f"{task}: {name}"),
                Cell(_scientific(statistics.fmean(values))),
                Cell(f"{_scientific(min(values))} to {_scientific(max(values))}"),
                Cell("–" if floor is None else f"{floor:.4f}"),
                Cell(str(len(values))),
            )
        )
    heads = ("control", "error / predicting 0", "lowest to highest", "floor", "seeds")
    caption = f"n = {n}. " + ". ".join(
        f"{claim}: {'holds' if holds else 'DOES NOT HOLD'}"
        for claim, holds in controls["checks"].items()
    )
    return Table(tuple(map(Cell, heads)), tuple(rows), caption=caption)


def _scientific(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"
