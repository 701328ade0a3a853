"""`rewardjax analyze controls`: what RAD and ARM of rank r can fit, beside what their rank allows.

The two matrices and the bound are in `control_fits.py`.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import Any

from rewardjax.config import parse, to_plain
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.control_fits import (
    TASKS,
    Fit,
    Task,
    Training,
    fit,
    power_mse,
    zero_mse,
)
from rewardjax.progress import bar
from rewardjax.provenance import versions
from rewardjax.report.table import print_table
from rewardjax.report.write import write_text

FITS = 0.01
"""Share of the zero predictor's error below which a model is said to fit."""
NEAR = 1.05
"""ARM of rank r must come within this factor of its floor …"""
ROUNDING = 1e-6
"""… and not below it, but for the float32 rounding of the matrix (relative)."""
POWERS = (0.5, 0.1, 0.01)
"""a of the rank-1 matrices a^(y - x)."""


@dataclasses.dataclass(frozen=True)
class ControlsConfig:
    """Settings of `rewardjax analyze controls`; the defaults take two minutes or so on two cores.

    Fewer steps may leave models short of what their rank allows.
    """

    out: str = "runs/controls"
    """folder for controls.json and controls.html"""
    n: int = 20
    """tokens of the vocabulary: the matrix is n x n"""
    ranks: tuple[int, ...] = ()
    """ranks of ARM; unset: 1, n/4, n/2, n-2, n-1, n and n+4"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """each trains every model once, from other random weights"""
    steps: int = 400
    """full-batch steps"""
    learning_rate: float = 3e-3
    """peak; it falls to 0"""
    width: int = 64
    """of the random two-layer transformer; at least the largest rank"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the page is made of."""

    config: ControlsConfig
    fits: list[Fit]
    powers: dict[float, float]
    """a → mse of the rank-1 matrix a^(y - x) on the triangle"""
    checks: dict[str, bool]
    """what must hold → whether it does"""
    seconds: float
    command: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """controls.json"""
        n = self.config.n
        return {
            "settings": to_plain(self.config),
            "command": self.command,
            "versions": self.versions,
            "seconds": self.seconds,
            "zero_mse": {task: zero_mse(task, n) for task in TASKS},
            "checks": self.checks,
            "fits": [dataclasses.asdict(found) for found in self.fits],
            "triangle_rank_1": [
                {"a": a, "mse": mse, "relative": mse / zero_mse("triangle", n)}
                for a, mse in self.powers.items()
            ],
        }


def main(argv: list[str]) -> int:
    """Run the command. Returns 0 when every check holds, 1 otherwise."""
    config = parse(
        ControlsConfig,
        argv,
        prog="rewardjax analyze controls",
        description="Train RAD and ARM of several ranks on two matrices of known rank.",
    )
    config = check(config)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = run(config, " ".join(["rewardjax analyze controls", *map(shlex.quote, argv)]))
    from rewardjax.experiments.controls_page import controls_table, write

    text = json.dumps(outcome.to_dict(), indent=1, allow_nan=False) + "\n"
    write_text(folder / "controls.json", text)
    for task in TASKS:
        print_table(controls_table(outcome, task))
    page = write(outcome, folder / "controls.html")
    for claim, holds in outcome.checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}")
    print(f"{outcome.seconds:.0f} s; report: {page}")
    return 0 if all(outcome.checks.values()) else 1


def check(config: ControlsConfig) -> ControlsConfig:
    """The settings with their ranks filled in.

    Raises:
        RewardJaxError: naming the setting.
    """
    n = config.n
    if n < 3:
        raise RewardJaxError(f"n is {n}; expected at least 3 tokens")
    if config.steps < 1:
        raise RewardJaxError(f"steps is {config.steps}; expected at least 1")
    if not 0 < config.learning_rate < 1:
        raise RewardJaxError(f"learning_rate is {config.learning_rate}; expected 0 < rate < 1")
    if config.width < 8 or config.width % 8:
        raise RewardJaxError(f"width is {config.width}; expected a multiple of 8")
    if config.width < n:
        raise RewardJaxError(
            f"width is {config.width}, less than n = {n}: ARM could not have full rank; raise it"
        )
    given = config.ranks or tuple(
        r for r in (1, n // 4, n // 2, n - 2, n - 1, n, n + 4) if r <= config.width
    )
    if bad := [r for r in given if not 1 <= r <= config.width]:
        raise RewardJaxError(f"ranks holds {bad[0]}; expected 1 to {config.width}, the width")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise RewardJaxError(f"seeds is {config.seeds}; expected different integers")
    if bad := [seed for seed in config.seeds if not 0 <= seed < 2**32]:
        raise RewardJaxError(f"seeds holds {bad[0]}; expected integers in 0 .. 2^32 - 1")
    return dataclasses.replace(config, ranks=tuple(sorted({r for r in given if r >= 1})))


def run(config: ControlsConfig, command: str = "") -> Outcome:
    """Trains everything; `config` as `check` returns it."""
    began = time.monotonic()
    training = Training(config.steps, config.learning_rate, width=config.width)
    models: list[tuple[str, int | None]] = [("rad", None), ("arm", None)]
    models += [("arm_rank", rank) for rank in config.ranks]
    fits: list[Fit] = []
    with bar("controls", len(TASKS) * len(models)) as advance:
        for task in TASKS:
            for name, rank in models:
                fits += fit(task, name, rank, config.n, config.seeds, training)
                advance(1)
    powers = {a: power_mse(config.n, a) for a in POWERS}
    seconds = time.monotonic() - began
    return Outcome(config, fits, powers, judge(fits, config), seconds, command, versions())


def judge(fits: list[Fit], config: ControlsConfig) -> dict[str, bool]:
    """What must hold of every seed, and whether it does."""
    n = config.n

    def of(task: Task, model: str) -> list[Fit]:
        return [found for found in fits if (found.task, found.model) == (task, model)]

    ranked = of("identity", "arm_rank")
    bounded = [found for found in ranked if found.floor]
    free = [found for found in ranked if not found.floor]
    checks = {
        f"identity: RAD leaves under {FITS:.0%} of the zero predictor's error": all(
            found.relative < FITS for found in of("identity", "rad")
        ),
        f"identity: ARM of full rank leaves under {FITS:.0%}": all(
            found.relative < FITS for found in of("identity", "arm")
        ),
    }
    if bounded:
        checks["identity: ARM of rank r is within 5% of its floor (n-r-1)/n²"] = all(
            found.mse <= NEAR * (found.floor or 0) for found in bounded
        )
        checks["identity: ARM of rank r is not below its floor"] = all(
            found.mse >= (1 - ROUNDING) * (found.floor or 0) for found in bounded
        )
    if free:
        checks[f"identity: ARM of rank r >= n-1 leaves under {FITS:.0%}"] = all(
            found.relative < FITS for found in free
        )
    checks["both: the trained matrix of ARM of rank r has numerical rank <= min(r+1, n)"] = all(
        found.matrix_rank <= min((found.rank or n) + 1, n)
        for found in fits
        if found.model == "arm_rank"
    )
    checks[f"triangle: RAD leaves under {FITS:.0%}"] = all(
        found.relative < FITS for found in of("triangle", "rad")
    )
    return checks
