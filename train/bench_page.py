"""What `bench train` shows: one table, and the page around it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rewardjax.report.table import Cell, Table, number, to_markdown
from rewardjax.report.write import write_text

from .bench import KINDS, medians

WORDS = {
    "head": "a head on the LM's states (ARM)",
    "lora": "LoRA in a backbone (RAD)",
    "full": "all of a backbone (RAD)",
}


def table(results: dict[str, Any]) -> Table:
    """Each kind of training: tokens/s, its share of the machine's products, and PyTorch's."""
    settings, rounds = results["settings"], results["rounds"]
    count = settings["batch_size"] * settings["tokens"]
    peak = statistics.median(row["peak"] for row in rounds)
    full, rows = medians(rounds, "full"), []
    for kind in KINDS:
        seconds = medians(rounds, kind)
        cells = [
            Cell(WORDS[kind]),
            Cell(number(count / seconds, 0), f"{number(1000 * seconds, 1)} ms a step"),
            Cell(number(results["flops"][kind] / seconds / peak, 2)),
            Cell(number(full / seconds, 1)),
            Cell(number(results["first"][kind]["seconds"], 1)),
        ]
        if f"torch-{kind}" in rounds[0]["seconds"]:
            ratios = [row["seconds"][f"torch-{kind}"] / row["seconds"][kind] for row in rounds]
            theirs = count / medians(rounds, f"torch-{kind}")
            spread = f"{number(min(ratios), 2)} to {number(max(ratios), 2)}"
            cells += [Cell(number(theirs, 0)), Cell(number(statistics.median(ratios), 2), spread)]
        rows.append(tuple(cells))
    columns = [
        Cell("what trains"),
        Cell("tokens/s"),
        Cell("share of the ceiling", "MFU"),
        Cell("× full training"),
        Cell("first step, s", "with compilation"),
    ]
    if len(rows[0]) > len(columns):
        columns += [Cell("PyTorch, tokens/s"), Cell("ours / PyTorch", "median of rounds")]
    caption = (
        f"{settings['lm']}, {settings['layers']} layers, {settings['batch_size']} texts of"
        f" {settings['tokens']} tokens, {settings['dtype']}; medians of {len(rounds)} rounds. The"
        f" ceiling is a large float32 matrix product, {number(peak / 1e9, 0)} GFLOP/s, measured in"
        " each round."
    )
    return Table(tuple(columns), tuple(rows), caption=caption)


def write(results: dict[str, Any], folder: Path) -> Path:
    """README.md in the folder, with what notes.md says put in."""
    made, notes = results["made"], folder / "notes.md"
    where = made["machine"]
    text = f"""# Training speed

    {results["command"]}

{where["cores"]} cores of {where["cpu"]}; devices: {", ".join(where["devices"])}; commit \
{made["commit"]}; Python {made["versions"]["python"]}, JAX {made["versions"]["jax"]}. Both systems
give the same loss on the first step before anything is timed.

{to_markdown(table(results))}
"""
    if notes.is_file():
        text += f"\n{notes.read_text(encoding='utf-8').strip()}\n"
    path = folder / "README.md"
    write_text(path, text)
    return path
