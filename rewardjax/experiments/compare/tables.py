"""The comparison's tables, from its results."""

from __future__ import annotations

import statistics
from typing import Any

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
    """Tables of one arm: the full protocol and the curves' cells, both at the chosen β."""
    return [*_at_chosen(results, arm, full=True), *_at_chosen(results, arm, full=False)]


def _at_chosen(results: Results, arm: dict[str, Any], *, full: bool) -> list[Table]:
    """Unguided and every model at its β: what the arm is about, and the other metrics."""
    first = results["settings"]["seeds"][0]
    plain = cell(results, arm["name"], None, first, full=full)
    if plain is None:
        return []
    shown = {"unguided": plain}
    for model, beta in arm["chosen_beta"].items():
        one = cell(results, arm["name"], model, first, beta, full=full)
        if one is not None:
            shown[model] = one
    main = _main(results, arm, shown, full=full)
    keys = _others(results, arm, shown)
    columns = [_corner(plain), *(_heading(results, key) for key in keys)]
    tuned = {model["name"] for model in results["models"] if model["program"] == "attribute"}
    rows = []
    for name, one in shown.items():  # a fine-tuned LM's KL is to itself
        cells = (Cell("–") if key == "kl" and name in tuned else _metric(one, key) for key in keys)
        rows.append((Cell(_label(name, one)), *cells))
    floor = (
        "KL per token: to the LM over its whole vocabulary, so that of the unguided texts is what"
        " drawing among the top candidates alone costs"
    )
    caption = _sentences(*([floor] if "kl" in keys else []), *_notes(results, keys))
    return [main, Table(tuple(columns), tuple(rows), f"{_title(full)}, other metrics", caption)]


def _main(
    results: Results, arm: dict[str, Any], shown: dict[str, dict[str, Any]], *, full: bool
) -> Table:
    metric, plain = arm["metric"], shown["unguided"]
    measured = PERPLEXITY in plain["metrics"]
    lower = not arm["higher_is_better"]
    times = lower or metric.endswith(".satisfied_rate")  # what claims are about
    columns = [_corner(plain), _heading(results, metric)]
    columns += [Cell(_heading(results, metric).value, "× unguided")] if times else []
    columns += [_heading(results, PERPLEXITY), Cell(PERPLEXITY, "× unguided")] if measured else []
    if not full:
        columns.append(Cell(words(metric), "mean of seeds, range"))
        columns.append(Cell("area between curves", f"against {results['models'][0]['name']}"))
    rows = []
    for name, one in shown.items():
        row = [Cell(_label(name, one)), _metric(one, metric)]
        row += [_ratio(one, plain, metric)] if times else []
        row += [_metric(one, PERPLEXITY), _ratio(one, plain, PERPLEXITY)] if measured else []
        if not full:
            row += [_of_seeds(results, arm, name), _area(results, arm["name"], name)]
        rows.append(tuple(row))
    notes = ["95% bootstrap intervals over prompts"]
    if full:
        notes.append("Prompts that β was not chosen on")
    else:
        notes.append(
            f"β: the best {words(metric)} with at most {arm['most_perplexity']:g} × the unguided"
            " perplexity on these prompts, the weakest where none has that"
        )
        better = "below" if lower else "above"
        notes.append(f"Area: mean difference at equal perplexity, better {better} 0")
    dropped = sum(one["metrics"].get(PERPLEXITY, {}).get("dropped", 0) for one in shown.values())
    notes += [f"Perplexities of 1e5 and more left out: {dropped} in all"] if measured else []
    caption = _sentences(*notes, *_notes(results, [metric]))
    return Table(tuple(columns), tuple(rows), _title(full), caption)


def of_cells(results: Results, arm: dict[str, Any]) -> Table | None:
    """All cells of the curves, briefly."""
    metric, rows = arm["metric"], []
    for one in results["cells"]:
        if one["arm"] == arm["name"] and not one["full"]:
            name = one["model"] or "unguided"
            cells = (Cell(name), Cell(f"{one['beta']:g}"), Cell(str(one["seed"])))
            rows.append((*cells, _metric(one, metric), _metric(one, PERPLEXITY)))
    if len(rows) < 2:
        return None
    heads = ("reward model", "β", "seed", words(metric), PERPLEXITY)
    return Table(tuple(map(Cell, heads)), tuple(rows))


def spread(values: list[float], digits: int = 3) -> Cell:
    """Mean, with the lowest and highest where they differ."""
    if not values:
        return Cell("–")
    if min(values) == max(values):
        return Cell(_whole(values[0], digits))
    ends = f"{_whole(min(values), digits)} to {_whole(max(values), digits)}"
    return Cell(number(statistics.fmean(values), digits), ends)


def _whole(value: float, digits: int) -> str:
    return str(value) if isinstance(value, int) else number(value, digits)


def _others(results: Results, arm: dict[str, Any], shown: dict[str, dict[str, Any]]) -> list[str]:
    """Metric keys worth a column besides the arm's own and perplexity."""
    ends = (".positive_rate", ".toxic_rate", ".average_max_toxicity", ".satisfied_rate")
    judged = [key for key in results["measures"] if key.endswith(ends) and key != arm["metric"]]
    keys = [*judged, "dist-2", "dist-3", "kl", "clipped"]
    return [key for key in keys if any(key in one["metrics"] for one in shown.values())]


def _title(full: bool) -> str:
    return "Full protocol" if full else "At the chosen β"


def _label(name: str, one: dict[str, Any]) -> str:
    if not one["beta"]:  # unguided, or a fine-tuned LM
        return name
    return f"{name}, β\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{one['beta']:g}"


def _corner(plain: dict[str, Any]) -> Cell:
    return Cell("texts", f"{plain['prompts']} prompts × {plain['texts'] // plain['prompts']}")


def _heading(results: Results, key: str) -> Cell:
    names = {"kl": "KL per token", "clipped": "clipped share"}
    if key == PERPLEXITY:
        return Cell(key, str(results["settings"]["perplexity_lm"]))
    return Cell(names.get(key, words(key)))


def _metric(one: dict[str, Any], key: str) -> Cell:
    metric = one["metrics"].get(key)
    return interval(metric["value"], metric["low"], metric["high"]) if metric else Cell("–")


def _ratio(one: dict[str, Any], plain: dict[str, Any], key: str) -> Cell:
    values = [each["metrics"].get(key, {}).get("value") for each in (one, plain)]
    if values[0] is None or not values[1]:
        return Cell("–")
    return Cell(number(values[0] / values[1], 2))


def _of_seeds(results: Results, arm: dict[str, Any], model: str) -> Cell:
    beta = arm["chosen_beta"].get(model)
    if beta is None:  # the unguided texts know no training seed
        return Cell("–")
    seeds = results["settings"]["seeds"]
    found = [cell(results, arm["name"], model, seed, beta) for seed in seeds]
    values = [one["metrics"][arm["metric"]]["value"] for one in found if one]
    values = [value for value in values if value is not None]
    shown = spread(values)
    count = f"{len(values)} seed{'s' * (len(values) > 1)}"
    return Cell(shown.value, f"{shown.note}, {count}" if shown.note else count)


def _area(results: Results, arm: str, model: str) -> Cell:
    for area in results["areas"]:
        if (area["arm"], area["model"]) == (arm, model):
            return interval(area["value"], area["low"], area["high"])
    return Cell("–")


def _notes(results: Results, keys: list[str]) -> list[str]:
    """What the judges of these metrics were fitted on."""
    measures = [results["measures"][key] for key in keys if key in results["measures"]]
    return sorted({f"{m['scorer']}: {m['note']}" for m in measures if m.get("note")})


def _sentences(*parts: str) -> str:
    return ". ".join(parts) + "." if parts else ""
