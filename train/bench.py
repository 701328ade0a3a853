"""`rewardjax bench train`: training steps beside the machine's ceiling and PyTorch.

Three kinds of training on the same texts: a head on the LM's hidden states, which were computed
before; adapters in a backbone of its own (LoRA); and all of that backbone. Losses of both systems
are compared before anything is timed.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rewardjax.config import parse
from rewardjax.errors import RewardJaxError

RESULTS = "results.json"
KINDS = ("head", "lora", "full")


@dataclass(frozen=True)
class TrainBenchConfig:
    """What is timed, and where the results go."""

    out: str
    """folder for README.md and results.json; notes.md there is put in"""
    lm: str = "smollm2-135m"
    """language model; backbones start from its first layers"""
    layers: int = 6
    """of a backbone"""
    lora_rank: int = 8
    """of the adapters"""
    batch_size: int = 32
    """texts in a step"""
    tokens: int = 64
    """of each text"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """that a backbone computes in, ours and PyTorch's"""
    repeats: int = 7
    """timed rounds, in each of which every system runs and the ceiling is measured"""
    steps: int = 3
    """in a round, one after the other; a head, which is fast, makes ten times as many"""
    peers: bool = True
    """time PyTorch beside ours (needs the `test` extra)"""
    overwrite: bool = False
    """measure again where OUT holds results"""
    page_only: bool = False
    """measure nothing: write the page again from OUT/results.json (after notes.md changed)"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        TrainBenchConfig,
        argv,
        prog="rewardjax bench train",
        description="Training speed beside the machine's ceiling and PyTorch.",
    )
    check(config)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room as well
    from rewardjax.report.table import print_table
    from rewardjax.report.write import write_text

    from . import bench_page
    from .bench_cases import collect

    folder = Path(config.out)
    if config.page_only:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        results = collect(config, shlex.join(["rewardjax", "bench", "train", *argv]))
        write_text(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    print_table(bench_page.table(results))
    print(f"wrote {bench_page.write(results, folder)}")
    return 0


def check(config: TrainBenchConfig) -> None:
    """Refuse what cannot mean anything, before any work.

    Raises:
      RewardJaxError: naming the setting.
    """
    for name in ("layers", "lora_rank", "batch_size", "repeats", "steps"):
        if getattr(config, name) < 1:
            raise RewardJaxError(f"{name} is {getattr(config, name)}; expected at least 1")
    if config.tokens < 2:
        raise RewardJaxError(f"tokens is {config.tokens}; expected at least 2")
    there = (Path(config.out) / RESULTS).is_file()
    if config.page_only and not there:
        raise RewardJaxError(f"{config.out!r} holds no {RESULTS}; run without --page-only first")
    if there and not (config.overwrite or config.page_only):
        raise RewardJaxError(f"{config.out!r} holds results; pass --overwrite to measure again")


def medians(rounds: list[dict[str, Any]], name: str) -> float:
    """Median over rounds of one system's seconds per step."""
    return statistics.median(row["seconds"][name] for row in rounds)
