"""The benchmark's tables, from its results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rewardjax.experiments.bench import targets as numbers
from rewardjax.experiments.bench.cases import CASES, PEERS
from rewardjax.report.table import Cell, Table, number

Results = dict[str, Any]
_NONE = Cell("–")


def of_results(results: Results) -> list[Table]:
    """What is printed: targets, speed at each batch size, counters."""
    return [of_targets(results), *of_speed(results), of_counters(results)]


def words(system: str) -> str:
    """A system as people call it."""
    if system in CASES:
        return CASES[system].words
    what = "unguided" if system.startswith("torch-unguided") else CASES[PEERS[system]].words
    return f"PyTorch: {what}" + ", bfloat16" * system.endswith("bfloat16")


def of_targets(results: Results) -> Table:
    """Each target beside what was measured."""
    batches = results["settings"]["batch_sizes"]
    rows = []
    for target in numbers.targets(results):
        cells = [Cell(target.words)]
        for batch in batches:
            value, least = numbers.reached(results, target, batch), target.least.get(batch)
            if value is None:
                cells.append(_NONE)
            elif least is None:
                cells.append(Cell(number(value, 2)))
            else:
                verdict = "met" if value >= least else "NOT met"
                cells.append(Cell(number(value, 2), f"≥ {least:g}: {verdict}"))
        rows.append(tuple(cells))
    columns = (Cell("target"), *(Cell(f"batch {batch}") for batch in batches))
    caption = "Medians over rounds of the ratio within a round."
    return Table(columns, tuple(rows), caption=caption)


def of_profile(profile: dict[str, Any]) -> Table:
    """Parts of an unguided step, each timed by itself."""
    columns = (
        Cell("part of a step"),
        *(Cell(f"batch {row['batch']}", "ms; its floor") for row in profile["rows"]),
    )
    names = ("products of the layers", "LM layers", "LM logits", "step")
    rows = []
    for name in names:
        cells = [Cell("whole step" if name == "step" else name)]
        for row in profile["rows"]:
            value, least = statistics.median(row["seconds"][name]), row["floors"].get(name)
            note = f"floor {number(1e3 * least, 2)}" if least else ""
            cells.append(Cell(number(1e3 * value, 2), note))
        rows.append(tuple(cells))
    caption = (
        f"Unguided, {profile['dtype']}, texts of {profile['tokens']} tokens; medians of interleaved"
        " rounds. The first row is the layers' matrix products and nothing else."
    )
    return Table(columns, tuple(rows), caption=caption)


def of_speed(results: Results) -> list[Table]:
    """A table per batch size: every system's speed, floor, and ratios."""
    tables = []
    for batch in results["settings"]["batch_sizes"]:
        rows = [row for row in results["rows"] if row["batch"] == batch]
        columns = (
            Cell("system", f"batch {batch}"),
            Cell("tokens/s", "with prompts"),
            Cell("ms per step", "median, range"),
            Cell("floor", "ms"),
            Cell("share of the floor", "of bandwidth"),
            Cell("tokens/s", "× unguided"),
            Cell("tokens/s", "× PyTorch"),
            Cell("first call", "s more"),
        )
        tables.append(Table(columns, tuple(_speed(results, row) for row in rows)))
    return tables


def _speed(results: Results, row: dict[str, Any]) -> tuple[Cell, ...]:
    batch, system = row["batch"], row["system"]
    steps = [1e3 * x for x in numbers.step_seconds(row)]
    rates = numbers.rates(row)
    totals = [one["prompt"] + one["steps"] for one in row["rounds"]]
    peers = [name for name, case in PEERS.items() if case == system]
    ratios = [numbers.rate_ratio(results, batch, system, name) for name in ("unguided", *peers[:1])]
    first = max(0.0, row["first_call"] - statistics.median(totals))
    return (
        Cell(words(system), row["dtype"]),
        Cell(number(statistics.median(rates), 1), _range(rates, 1)),
        Cell(number(statistics.median(steps), 2), _range(steps, 2)),
        _floor(results, row),
        Cell(number(numbers.share(row), 2), number(numbers.bandwidth_share(results, row), 2)),
        Cell(number(ratios[0], 2)),
        Cell(number(ratios[1], 2)) if len(ratios) > 1 else _NONE,
        Cell(number(first, 1)),
    )


def _floor(results: Results, row: dict[str, Any]) -> Cell:
    if row["floors"] is None:
        return _NONE
    return Cell(number(1e3 * statistics.median(row["floors"]), 2))


def of_limits(results: Results) -> Table:
    """What a step of each case must move and do, part by part."""
    flops, speed = (
        results["ceilings"][name]["median"] for name in ("flops_per_second", "bytes_per_second")
    )
    rows = []
    for row in results["rows"]:
        if row["system"] not in CASES:
            continue
        for part, work in row["parts"].items():
            by = work["bytes"] / speed, work["flops"] / flops
            rows.append(
                (
                    Cell(words(row["system"])),
                    Cell(str(row["batch"])),
                    Cell(part),
                    Cell(number(work["bytes"] / 1e6, 2)),
                    Cell(number(work["flops"] / 1e6, 2)),
                    Cell(number(1e3 * max(by), 3), "memory" if by[0] >= by[1] else "products"),
                )
            )
    heads = ("case", "batch", "part", "MB", "MFLOP", "floor, ms")
    caption = (
        "Weights once a step, the KV cache up to the newest token, logits written and read once;"
        " at the mean length of a text. The floor is the larger of bytes and FLOPs over the"
        " machine's medians."
    )
    return Table(tuple(map(Cell, heads)), tuple(rows), caption=caption)


def of_machine(results: Results) -> Table:
    """The ceilings."""
    rows = []
    for name, what, unit in (
        ("flops_per_second", "a large matrix product", "GFLOP/s"),
        ("bytes_per_second", "a matrix–vector product larger than the caches", "GB/s"),
    ):
        found = {key: value / 1e9 for key, value in results["ceilings"][name].items()}
        ends = f"{number(found['min'], 1)} to {number(found['max'], 1)}"
        rows.append((Cell(what), Cell(number(found["median"], 1)), Cell(ends), Cell(unit)))
    return Table(tuple(map(Cell, ("ceiling", "median", "range", "unit"))), tuple(rows))


COUNTERS = {
    "lm_tokens": "LM tokens read per generated token",
    "rm_tokens": "reward-model tokens read per generated token",
    "compilations": "programs compiled by the first requests",
    "compilations_other_settings": "programs compiled by other settings and seeds",
    "transfers_per_block": "arrays fetched by the host per block of steps",
    "transfers_per_batch": "arrays fetched per batch besides",
}


def of_counters(results: Results) -> Table:
    """Exact counts, one row a case."""
    rows = [
        (Cell(words(name)), *(Cell(f"{found[key]:g}") for key in COUNTERS))
        for name, found in results["counters"].items()
    ]
    columns = (Cell("counters"), *map(Cell, COUNTERS.values()))
    return Table(columns, tuple(rows))


def _range(values: Sequence[float], digits: int) -> str:
    return f"{number(min(values), digits)} to {number(max(values), digits)}"
