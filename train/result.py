"""What a finished training run leaves behind, and what its command says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardjax import hosts
from rewardjax.export import TrainedRewardModel


@dataclass(frozen=True)
class Result:
    """What a finished run leaves behind."""

    run_dir: Path
    reward_model: TrainedRewardModel
    """as saved in run_dir/reward_model; `bind(lm)` makes it usable"""
    metrics: dict[str, Any]
    """the evaluation of what was exported: `eval/squared_error` …; empty without held-out texts,
    None where a metric is undefined"""
    history: list[dict[str, Any]]
    """the rows of metrics.jsonl"""
    step: int
    """number of updates made"""
    seconds: float
    """wall-clock seconds of these updates, compilation included, evaluation and saving not"""
    trainable_parameters: int
    """number of values that train"""
    skipped: tuple[str, ...]
    """texts left out, each with file, line and reason"""


def report(result: Result, names: tuple[str, ...]) -> None:
    """Print what a command says when it is done; `names` of the metrics `eval/…` to show."""
    if not hosts.is_first():
        return
    if result.skipped:
        print(f"left out {len(result.skipped)} texts, the first: {result.skipped[0]}")
    shown = [(name, result.metrics.get(f"eval/{name}")) for name in names]
    parts = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown if value is not None]
    print(f"{result.step} steps; held-out texts: {', '.join(parts) or 'none'}")
    print(f"wrote {result.run_dir / 'reward_model'}")
