"""Medians of interleaved repeats: a busy moment of the machine meets every system alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rewardjax.experiments.bench.cases import Sample, System
from rewardjax.experiments.bench.machine import Ceilings


class Timed(NamedTuple):
    """What rounds of measuring gave."""

    first: dict[str, Sample]
    """each system's first run, which compiles or warms up, apart"""
    rounds: dict[str, list[Sample]]
    ceilings: list[tuple[float, float]]
    """(FLOP/s, bytes/s) of each round"""


def interleaved(
    systems: Mapping[str, System],
    ceilings: Ceilings,
    repeats: int,
    done: Callable[..., Any] = lambda n=1: None,
) -> Timed:
    """Runs every system once per round, after the ceilings; first runs are kept apart."""
    first = {}
    for name, system in systems.items():
        first[name] = system.measure()
        done(1)
    timed = Timed(first, {name: [] for name in systems}, [])
    for _ in range(repeats):
        timed.ceilings.append(ceilings.measure())
        for name, system in systems.items():
            timed.rounds[name].append(system.measure())
            done(1)
    return timed
