"""What an experiment will cost, before it starts: its matrix products at this machine's speed."""

from __future__ import annotations

from collections.abc import Mapping

from rewardjax.data.hidden import layer_weights, machine_flops
from rewardjax.experiments.workspace import Workspace
from rewardjax.lm import LMConfig
from rewardjax.report.table import Cell, Table

EFFICIENCY = 0.4
"""Share of the matrix product's speed that whole steps reach, about."""


def speed() -> float:
    """Operations per second that a step reaches on this machine, about."""
    return EFFICIENCY * machine_flops()


def weights(config: LMConfig) -> int:
    """Weights of the layers' matrix products: each token meets every one once."""
    return config.num_hidden_layers * layer_weights(config)


def unembedding(config: LMConfig) -> int:
    """Weights between the last state and the logits."""
    return config.hidden_size * config.vocab_size


def table(work: Workspace, left: Mapping[tuple[str, str], list[float]], caption: str) -> Table:
    """Steps and hours of each kind: what was made, measured, and what is left, estimated.

    Args:
      left: (kind, its folder in the workspace) → seconds of each step that is left, about.
    """
    rows = [_row(kind, work.made(folder), seconds) for (kind, folder), seconds in left.items()]
    rows.append(_row("all", work.made(), [x for seconds in left.values() for x in seconds]))
    heads = ("steps", "made", "hours", "left", "hours, about")
    return Table(tuple(map(Cell, heads)), tuple(rows), caption=caption)


def _row(kind: str, done: list[float], left: list[float]) -> tuple[Cell, ...]:
    made, to_come = (f"{sum(values) / 3600:.1f}" for values in (done, left))
    return tuple(map(Cell, (kind, str(len(done)), made, str(len(left)), to_come)))
