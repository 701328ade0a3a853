"""The comparison's tables of its reward models, their ranks and the controls, from its results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from rewardjax.experiments.compare.tables import spread
from rewardjax.metrics.rank_result import BOUND_CUTOFF, Part
from rewardjax.report.rank import parts_table
from rewardjax.report.table import Cell, Table, number

Results = dict[str, Any]


def of_models(results: Results) -> Table:
    """Size, cost, held-out error and speed of every reward model."""
    heads = [
        Cell("reward model"),
        Cell("trainable parameters"),
        Cell("training", "CPU seconds"),
        Cell("held-out squared error", "mean of seeds"),
        Cell("AUC or Spearman", "mean of seeds"),
        Cell("rank", "99% energy"),
        Cell("calls per token"),
        Cell("tokens/s", "/ unguided"),
    ]
    speeds = (results["speed"] or {}).get("tokens_per_second", {})
    plain = speeds.get("unguided", {}).get("median")
    rows = []
    for model in results["models"]:
        if model["program"] == "attribute":
            continue
        first = model["seeds"][0]
        done = [s for s in model["seeds"] if s["finished"]]
        errors = known(done, "eval/squared_error")
        scores = known(done, "eval/auc") or known(done, "eval/spearman")
        speed = speeds.get(model["name"], {}).get("median")
        size = first["metrics"].get("model/trainable_parameters")
        rank = energy_rank(first["rank"], 0.99)
        rows.append(
            (
                Cell(model["name"], f"teacher: {model['teacher']}" if model["teacher"] else ""),
                Cell(f"{size:,.0f}" if size else "–"),
                Cell(number(first["cpu_seconds"], 0)),
                spread(errors, 4),
                spread(scores),
                Cell("–" if rank is None else str(rank)),
                Cell(str(model["reads_per_token"])),
                Cell(number(speed, 0), f"{speed / plain:.2f}" if speed and plain else ""),
            )
        )
    caption = (
        "CPU seconds and rank: first seed. Calls: rows the reward model's own transformer reads."
        " Below a mean: the seeds' range."
    )
    if any(model["program"] == "nado" for model in results["models"]):
        caption += (
            " What a NADO holds out are samples of its last round, as they were drawn: its errors"
            " compare with those of the same samples alone. NADOs of the same samples share them"
            " and their states, made once: their training times do not compare."
        )
    if results["settings"]["training"].get("data", {}).get("split_seed") is not None:
        caption += " All seeds and students hold out the same texts."
    elif any(model["teacher"] for model in results["models"]):
        caption += (
            " Each seed draws its own training and held-out texts."
            " A student's teacher is of the first seed, so it may have been trained on texts that"
            " a later seed holds out."
        )
    return Table(tuple(heads), tuple(rows), caption=caption)


def known(seeds: list[dict[str, Any]], name: str) -> list[float]:
    return [s["metrics"][name] for s in seeds if s["metrics"].get(name) is not None]


_AGREEMENT = (
    ("candidates", "distillation_error", "squared error", "candidates"),
    ("candidates", "distillation_pearson", "Pearson", "candidates"),
    ("candidates", "delta_pearson", "Pearson", "candidates, minus each position's mean"),
    ("observed", "distillation_error", "squared error", "observed tokens"),
    ("observed", "distillation_pearson", "Pearson", "observed tokens"),
)


def of_agreement(results: Results) -> Table | None:
    """Every other model beside the first one on the same tokens; None where none was measured."""
    rows = []
    count = 0
    for model in results["models"]:
        found = [seed["agreement"] for seed in model["seeds"] if seed.get("agreement")]
        if found:
            count = found[0]["texts"]
            name = Cell(model["name"], f"{len(found)} seed{'s' * (len(found) > 1)}")
            columns = [_known_of(found, tokens, key) for tokens, key, *_ in _AGREEMENT]
            rows.append((name, *(spread(values, 4) for values in columns)))
    if not rows:
        return None
    reference = results["models"][0]["name"]
    caption = (
        f"Raw rewards beside those of {reference}, first seed, of {count} texts at every position:"
        " the token that stands there, and the LM's candidates with it. Means of the seeds, their"
        " ranges below. Rewards of a cross-entropy model are logits: only its correlations count."
    )
    heads = (Cell("reward model"), *(Cell(name, note) for *_, name, note in _AGREEMENT))
    return Table(heads, tuple(rows), caption=caption)


def _known_of(found: list[dict[str, Any]], tokens: str, key: str) -> list[float]:
    values = [one[tokens].get(f"eval/{key}") for one in found]
    return [value for value in values if value is not None]


def energy_rank(rank: dict[str, Any] | None, share: float, part: str = "raw") -> int | None:
    """Rank that holds a share of the energy, of the first set of prefixes."""
    if not rank:
        return None
    return _first_set(rank)["analysis"][part]["growth"][-1]["energy_rank"][f"{share:g}"]


def spectra(results: Results, part: str = "raw") -> dict[str, Part]:
    """Model → its spectrum on the first set of prefixes, first seed."""
    found = {}
    for model in results["models"]:
        rank = model["seeds"][0]["rank"]
        if rank:
            found[model["name"]] = Part.from_dict(_first_set(rank)["analysis"][part])
    return found


_CUTOFFS = ("float32", "0.001", BOUND_CUTOFF)
_CHECKS = (("whole vocabulary", "check_full"), ("the same sample", "check_sample"))
_SHARES = ("0.9", "0.95", "0.99", "0.999")


TITLES = {"raw": "Raw rewards", "centered": "Minus each row's mean, which cancels in the softmax"}


def of_ranks(results: Results, part: str = "raw") -> Table:
    """Ranks of every model and set of prefixes: means and ranges of the seeds."""
    heads = [Cell("reward model, prefixes"), Cell("N × columns"), Cell("bound")]
    rows = []
    for model in results["models"]:
        found = [seed["rank"]["sets"] for seed in model["seeds"] if seed["rank"]]
        for name in found[0] if found else ():
            sets = [one[name] for one in found if name in one]
            parts = [Part.from_dict(one["analysis"][part]) for one in sets]
            size = Cell(_size(sets[0]), _drawn(sets))
            rows.append((Cell(model["name"], name), size, _bound(sets), *_ranks(parts)))
            for what, key in _CHECKS:
                if sets[0][key]:
                    one = Part.from_dict(sets[0][key][part])
                    label = Cell(f"{model['name']}, check", f"{name}, {what}")
                    rows.append((label, Cell(_shape(one.shape)), Cell("–"), *_ranks([one])))
    heads += [Cell(cut, "cut-off") for cut in _CUTOFFS]
    heads += [Cell(f"{100 * float(share):g}%", "energy") for share in _SHARES]
    caption = (
        "Means of the seeds, their ranges below. Cut-offs are relative to the largest singular"
        " value (float32: NumPy's, max(N, vocabulary)·eps), energies are shares of the squared sum."
        " Bound: of the parametrization, on the raw rank at 1e-6; ≥ N: these rows cannot break it."
    )
    return Table(tuple(heads), tuple(rows), TITLES[part], caption)


def of_growth(results: Results, part: str = "raw") -> Table:
    """Ranks of the first 8, 16 … N prefixes of every listed model and set, first seed."""
    swept = {f"{s['name']} {value:g}" for s in results["sweeps"] for value in s["values"]}
    rows, sizes = [], []
    for model in results["models"]:
        rank = model["seeds"][0]["rank"]
        if not rank or model["name"] in swept:
            continue
        for name, found in rank["sets"].items():
            growth = found["analysis"][part]["growth"]
            sizes = max(sizes, [step["rows"] for step in growth], key=len)
            cells = (
                Cell(str(step["energy_rank"]["0.99"]), str(step["numerical_rank"]["0.001"]))
                for step in growth
            )
            rows.append((Cell(model["name"], name), *cells))
    heads = (Cell("reward model, prefixes"), *(Cell(f"N = {size}", "99% energy") for size in sizes))
    caption = "First seed. Beside it: how many singular values are over 1e-3 of the largest."
    return Table(heads, tuple(rows), f"Growth with N: {TITLES[part].lower()}", caption)


def _bound(sets: list[dict[str, Any]]) -> Cell:
    bound = sets[0]["bound"]
    if bound is None:
        return Cell("–")
    within = {one["within_bound"] for one in sets}
    kept = "BROKEN" if False in within else "kept" if True in within else "≥ N"
    return Cell(str(bound), kept)


def of_every_rank(results: Results, part: str = "raw") -> Table:
    """Ranks at every cut-off and share, of every model, seed and set of prefixes."""
    parts, sizes = {}, {}
    for model, seed, name, found in _analyses(results):
        label = f"{model}, {name} prefixes, seed {seed}"
        parts[label] = Part.from_dict(found["analysis"][part])
        sizes[label] = _size(found) + " sampled" * found["sampled"]
        if found["check_full"]:
            for what, key in _CHECKS:
                one = Part.from_dict(found[key][part])
                parts[f"{label}: check, {what}"] = one
                sizes[f"{label}: check, {what}"] = _shape(one.shape)
    return parts_table(parts, sizes)


def _analyses(results: Results) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    for model in results["models"]:
        for seed in model["seeds"]:
            for name, found in (seed["rank"] or {"sets": {}})["sets"].items():
                yield model["name"], seed["seed"], name, found


def _ranks(parts: list[Part]) -> list[Cell]:
    ranks = [spread([part.numerical_rank[cut] for part in parts], 1) for cut in _CUTOFFS]
    return ranks + [spread([part.energy_rank[share] for part in parts], 1) for share in _SHARES]


def _size(found: dict[str, Any]) -> str:
    return _shape((found["prefixes"], found["columns"]))


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{shape[1]:,}"


def _drawn(sets: list[dict[str, Any]]) -> str:
    seeds = f"{len(sets)} seed{'s' * (len(sets) > 1)}"
    return f"sampled, {seeds}" if sets[0]["sampled"] else seeds


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
        floor = None if rank is None else _floor(task, n, rank)
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
    claims = (f"{c}: {'holds' if ok else 'DOES NOT HOLD'}" for c, ok in controls["checks"].items())
    caption = ". ".join((f"n = {n}", *claims)) + (
        ". The triangle's floor is 0 from rank 1 on, which no finite matrix reaches: it shows how"
        " far training comes, not that low rank must fail."
    )
    return Table(tuple(map(Cell, heads)), tuple(rows), caption=caption)


def _floor(task: str, n: int, rank: int) -> float:
    """Infimum of the error over that of predicting 0: of the triangle 0, by R = a^(y−x), a → 0."""
    return max(0.0, (n - rank - 1) / n) if task == "identity" else 0.0


def _scientific(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"
