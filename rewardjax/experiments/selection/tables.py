"""The selection experiment's tables, from its results."""

from __future__ import annotations

import statistics
from typing import Any

from rewardjax.report.table import Cell, Table, interval, number

Results = dict[str, Any]
Task = dict[str, Any]


def of_task(results: Results, task: Task) -> list[Table]:
    """Every table of one task, the main one first."""
    found = [rewards(results, task), differences(results, task), best(results, task)]
    found += [other_judges(results, task), training(results, task), guided(results, task)]
    return [table for table in found if table is not None and table.rows]


def losses(results: Results, task: Task) -> list[dict[str, Any]]:
    """The plain probe of each loss."""
    return [rule for rule in task["rules"] if rule["name"] in results["settings"]["losses"]]


def rewards(results: Results, task: Task) -> Table:
    """Expected reward of every rule at each k, by the first judge."""
    ks = results["settings"]["ks"]
    base = _cell(task["base"][0])
    rows = [(Cell("random (base rate)"), *[base] * len(ks))]
    for rule in task["rules"]:
        cells = (_cell(one["reward"]) for one in rule["judges"][0])
        rows.append((Cell(rule["name"], _chosen(rule)), *cells))
    for skyline in task["skylines"]:
        cells = (_cell(one["reward"]) for one in skyline["judges"][0])
        rows.append((Cell(f"best of k by {skyline['name']}", skyline["version"]), *cells))
    seeds = len(results["settings"]["seeds"])
    title = f"{task['name']}: expected reward ({task['judges'][0]['name']}) of choosing among k"
    caption = (
        f"{task['test']['prompts']} test prompts × {task['test']['samples']} completions, chunks of"
        f" k of 8 shuffles, each choice's expectation exact; probes of {seeds} seeds, averaged for"
        " each prompt; 95% bootstrap intervals over prompts. Under a probe: layer and τ (in"
        " deviations of Q within a prompt) that earned most on held-out training prompts, of each"
        " seed. Best of k by the judge itself is the most that any choice can earn."
    )
    return Table(_heads("choice", ks), tuple(rows), title, caption)


def differences(results: Results, task: Task) -> Table | None:
    """Every probe less the reference, prompt by prompt."""
    if not task["differences"]:
        return None
    ks = results["settings"]["ks"]
    rows = [
        (Cell(f"{one['name']} − {one['reference']}"), *map(_cell, one["by_k"]))
        for one in task["differences"]
    ]
    title = f"{task['name']}: difference of expected rewards, prompt by prompt"
    return Table(_heads("probes", ks), tuple(rows), title, _count(task))


def best(results: Results, task: Task) -> Table:
    """The probes at τ = 0."""
    ks = results["settings"]["ks"]
    rows = [
        (Cell(rule["name"]), *(_cell(one["best"]) for one in rule["judges"][0]))
        for rule in task["rules"]
    ]
    title = f"{task['name']}: the same at τ = 0, the completion of the largest Q"
    return Table(_heads("probe", ks), tuple(rows), title, _count(task))


def other_judges(results: Results, task: Task) -> Table:
    """The largest k under every judge."""
    columns = [Cell("choice", f"k = {results['settings']['ks'][-1]}")]
    columns += [Cell(judge["name"], judge["version"]) for judge in task["judges"]]
    rows = [(Cell("random"), *map(_cell, task["base"]))]
    rules = {rule["name"]: rule for rule in task["rules"]}
    rules |= {f"best of k by {rule['name']}": rule for rule in task["skylines"]}
    rows += [
        (Cell(name), *(_cell(judge[-1]["reward"]) for judge in rule["judges"]))
        for name, rule in rules.items()
    ]
    learned = task["train_reward"]
    notes = [f"{judge['name']}: {judge['note']}" for judge in task["judges"] if judge["note"]]
    caption = f"The probes learned {learned['name']} ({learned['version']})"
    caption += ", which also judges. " if task["seen_in_training"] else ", not the first judge. "
    caption += "; ".join(notes) + "." * bool(notes)
    return Table(tuple(columns), tuple(rows), f"{task['name']}: every judge", caption)


def training(results: Results, task: Task) -> Table:
    """Seconds of training from cached states, and what was chosen."""
    heads = ("probe", "seconds, median", "range", "held-out reward", "layers", "τ")
    rows = []
    for rule in task["rules"]:
        seconds = rule["seconds"]
        rows.append(
            (
                Cell(rule["name"]),
                Cell(number(statistics.median(seconds), 1)),
                Cell(f"{number(min(seconds), 1)} to {number(max(seconds), 1)}"),
                Cell(number(statistics.mean(rule["held_out"]))),
                Cell(", ".join(map(str, rule["layers"]))),
                Cell(", ".join(f"{tau:g}" for tau in rule["taus"])),
            )
        )
    caption = (
        f"Training of the probes of {len(results['layers'])} layers side by side from cached"
        f" states of {task['train']['prompts']} × {task['train']['samples']} completions; the first"
        " of a kind compiles. Held-out reward: the training reward of the layer and τ that were"
        " chosen by it, and so too high; mean of the seeds."
    )
    title = f"{task['name']}: training from cached states"
    return Table(tuple(map(Cell, heads)), tuple(rows), title, caption)


def speed(results: Results) -> Table | None:
    """Choosing beside sampling the same completions."""
    found = results["speed"]
    if not found:
        return None
    rows = [
        (
            Cell(name),
            Cell(number(statistics.median(rates), 0)),
            Cell(f"{number(min(rates), 0)} to {number(max(rates), 0)}"),
        )
        for name, rates in found["tokens_per_second"].items()
    ]
    heads = ("", "tokens/s, median", "range")
    caption = (
        f"{found['prompts']} prompts × {found['k']} completions in batches of"
        f" {found['batch_size']}, chosen among by a probe ({found['probe']}) on layer"
        f" {found['layer']}; repeats in turn, the first of each, which compiles, left out."
        f" Choosing runs at {number(found['ratio'], 2)} of the speed of sampling alone (median of"
        " pairs)."
    )
    return Table(tuple(map(Cell, heads)), tuple(rows), "What choosing costs", caption)


def guided(results: Results, task: Task) -> Table | None:
    """Choosing beside guided decoding, by LM tokens per token of output."""
    if not task["guided"]:
        return None
    first = losses(results, task)[:1]
    heads = [Cell("how"), Cell("LM tokens", "per token of output")]
    heads += [Cell(judge["name"]) for judge in task["judges"]]
    heads += [Cell(f"{rule['name']} earns as much", "from k =") for rule in first]
    none = [Cell("")] * len(first)
    rows = [(Cell("the LM alone"), Cell("1"), *map(_cell, task["base"]), *none)]
    for rule in first:
        rows += [(*row, *none) for row in _by_k(f"{rule['name']} among k", rule["judges"])]
    for one in task["guided"]:
        name = f"{one['name']}, β = {one['beta']:g}"
        equal = [Cell(_equal(rule, one["judges"][0])) for rule in first]
        rows.append((Cell(name), Cell("1"), *map(_cell, one["judges"]), *equal))
        if one["chosen"]:
            chosen = _by_k(f"{name}, then {one['chooser']} among k", one["chosen"])
            rows += [(*row, *none) for row in chosen]
    samples = task["guided"][0]["samples"]
    caption = (
        f"Guided: {task['test']['prompts']} prompts × {samples} completions. A guide also runs its"
        " own layers or head once for each token. Re-reading the prompt is not counted: the states"
        " that a probe needs come with decoding."
    )
    title = f"{task['name']}: choosing beside guided decoding"
    return Table(tuple(heads), tuple(rows), title, caption)


def _equal(rule: dict[str, Any], guided: dict[str, Any]) -> str:
    """The least k at which choosing earns what guidance does, by the first judge."""
    enough = [one["k"] for one in rule["judges"][0] if one["reward"]["value"] >= guided["value"]]
    return str(enough[0]) if enough else f"above {rule['judges'][0][-1]['k']}"


def _by_k(name: str, judges: list[list[dict[str, Any]]]) -> list[tuple[Cell, ...]]:
    return [
        (Cell(name), Cell(str(one["k"])), *(_cell(judge[i]["reward"]) for judge in judges))
        for i, one in enumerate(judges[0])
        if one["k"] > 1
    ]


def _heads(first: str, ks: list[int]) -> tuple[Cell, ...]:
    return (Cell(first), *(Cell(f"k = {k}") for k in ks))


def _cell(found: dict[str, Any]) -> Cell:
    return interval(found["value"], found["low"], found["high"])


def _chosen(rule: dict[str, Any]) -> str:
    """Layers and τ, each once."""
    layers = ", ".join(map(str, sorted(set(rule["layers"]))))
    taus = ", ".join(f"{tau:g}" for tau in sorted(set(rule["taus"])))
    return f"layer {layers}; τ {taus}"


def _count(task: Task) -> str:
    return f"{task['test']['prompts']} test prompts; 95% bootstrap intervals over them."
