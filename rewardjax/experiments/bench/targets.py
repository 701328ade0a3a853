"""The numbers of a benchmark: medians over rounds of ratios within a round, and the targets."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

Results = dict[str, Any]
Row = dict[str, Any]


def find(results: Results, system: str, batch: int) -> Row | None:
    """The row of a system at a batch size."""
    for row in results["rows"]:
        if (row["system"], row["batch"]) == (system, batch):
            return row
    return None


def step_seconds(row: Row) -> list[float]:
    """Of each round, the mean step."""
    return [one["steps"] / one["count"] for one in row["rounds"]]


def rates(row: Row) -> list[float]:
    """Of each round, tokens per second of the whole batch, reading the prompts included."""
    tokens = row["batch"] * row["new_tokens"]
    return [tokens / (one["prompt"] + one["steps"]) for one in row["rounds"]]


def share(row: Row) -> float | None:
    """Floor over measured step."""
    if row["floors"] is None:
        return None
    pairs = zip(row["floors"], step_seconds(row), strict=True)
    return statistics.median(least / seconds for least, seconds in pairs)


def bandwidth_share(results: Results, row: Row) -> float | None:
    """Bytes that a step must move, per second of it, over the memory's measured speed."""
    if row["floors"] is None:
        return None
    moved = sum(part["bytes"] for part in row["parts"].values())
    ceilings = results["rounds"][str(row["batch"])]
    pairs = zip(ceilings, step_seconds(row), strict=True)
    return statistics.median(moved / seconds / speed for (_, speed), seconds in pairs)


def rate_ratio(results: Results, batch: int, system: str, other: str) -> float | None:
    """Tokens per second of one system over another's, each round's by itself."""
    return _ratio(results, batch, system, other, rates)


def step_ratio(results: Results, batch: int, system: str, other: str) -> float | None:
    """Steps per second of one system over another's, each round's by itself."""
    return _ratio(results, batch, other, system, step_seconds)


def _ratio(results: Results, batch: int, system: str, other: str, of: Any) -> float | None:
    rows = find(results, system, batch), find(results, other, batch)
    if rows[0] is None or rows[1] is None:
        return None
    return statistics.median(a / b for a, b in zip(of(rows[0]), of(rows[1]), strict=True))


class Target(NamedTuple):
    """What is to be reached at some batch sizes."""

    words: str
    systems: tuple[str, ...]
    kind: str
    """rate: tokens/s of the first over the second; step: the same of steps/s; share; bandwidth"""
    least: dict[int, float]


def _at(value: float, *batches: int) -> dict[int, float]:
    return dict.fromkeys(batches, value)


CPU_TARGETS = (
    Target(
        "ours unguided / HF torch float32 unguided, tokens/s",
        ("unguided", "torch-unguided"),
        "rate",
        {1: 2.2, 8: 1.8, 32: 1.8},
    ),
    Target("ours unguided, share of the floor", ("unguided",), "share", {1: 0.8, 8: 0.7, 32: 0.7}),
    Target(
        "ARM on the LM's hidden states / ours unguided, steps/s",
        ("arm-base", "unguided"),
        "step",
        _at(0.97, 1, 8, 32),
    ),
    Target(
        "ARM, own reward model, share of the two-model floor",
        ("arm-own",),
        "share",
        {1: 0.8, 8: 0.7, 32: 0.7},
    ),
    Target("RAD, own reward model, share of its floor", ("rad-own",), "share", _at(0.7, 1, 8, 32)),
    Target(
        "ARM on the LM's hidden states, k = |V| / k as set, steps/s",
        ("arm-base-all", "arm-base"),
        "step",
        _at(0.95, 1, 8, 32),
    ),
)
"""On 2 CPU cores, SmolLM2-135M, k = 20, 64 new tokens."""

GPU_TARGETS = (
    Target("ours unguided, share of memory bandwidth", ("unguided",), "bandwidth", _at(0.6, 1, 32)),
    Target(
        "ARM, own reward model, share of memory bandwidth",
        ("arm-own",),
        "bandwidth",
        _at(0.6, 1, 32),
    ),
)


def targets(results: Results) -> tuple[Target, ...]:
    """Those of the machine that was measured."""
    return CPU_TARGETS if results["machine"]["backend"] == "cpu" else GPU_TARGETS


def reached(results: Results, target: Target, batch: int) -> float | None:
    """The measured value of a target; None where it is not measured."""
    if target.kind == "rate":
        return rate_ratio(results, batch, target.systems[0], target.systems[1])
    if target.kind == "step":
        return step_ratio(results, batch, target.systems[0], target.systems[1])
    row = find(results, target.systems[0], batch)
    if row is None:
        return None
    return share(row) if target.kind == "share" else bandwidth_share(results, row)
