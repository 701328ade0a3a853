"""`rewardjax bench decode`: how fast decoding is, beside what the machine allows and PyTorch.

Each step's bytes and FLOPs, the machine's ceilings and the floor they give, the measured step and
its share of the floor; exact counters; the same decoding in PyTorch, in the same run.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rewardjax.config import parse
from rewardjax.errors import RewardJaxError, nearest

RESULTS = "results.json"
CASE_NAMES = ("unguided", "arm-base", "arm-base-all", "arm-own", "arm-own-all", "rad-own")


@dataclass(frozen=True)
class BenchConfig:
    """What is timed, and where the results go."""

    out: str
    """folder for README.md, results.json, report.html and cost.svg; notes.md there is put in"""
    lm: str = "smollm2-135m"
    """language model; reward models of their own start from it"""
    shape: Literal["gpt2-large", "llama-7b"] | None = None
    """random weights of a known shape in place of --lm, with a smaller reward model beside it"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of both models' weights"""
    reward_layers: int | None = None
    """keep only the first n layers of reward models of their own; unset: all"""
    scan_layers: bool = False
    """run the LM's layers with one scan in place of unrolled"""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    candidates: int = 20
    """k, of the cases that do not take the whole vocabulary"""
    new_tokens: int = 64
    """tokens generated in each row; EOS is off"""
    prompt_tokens: int = 16
    """random tokens of each row's prompt"""
    repeats: int = 5
    """timed rounds; in each every case runs once, and the ceilings are measured"""
    cases: tuple[str, ...] = CASE_NAMES
    """which of unguided, arm-base, arm-base-all, arm-own, arm-own-all, rad-own"""
    peers: bool = True
    """time PyTorch beside ours (needs the `test` extra)"""
    sweeps: bool = True
    """time a step over k and T as well, for the figure"""
    threads: int | None = None
    """PyTorch's threads; unset: as many as there are cores for us. XLA takes these by itself"""
    page_only: bool = False
    """measure nothing: write the pages again from OUT/results.json (after notes.md changed)"""
    overwrite: bool = False
    """measure again where OUT holds results"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; raises RewardJaxError on bad input."""
    config = parse(
        BenchConfig,
        argv,
        prog="rewardjax bench decode",
        description="Decoding speed beside the machine's limits and PyTorch.",
    )
    check(config)
    # Before JAX starts: PyTorch needs room on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from rewardjax.experiments.bench import page
    from rewardjax.experiments.bench.tables import of_results
    from rewardjax.report.table import print_table
    from rewardjax.report.write import write_text

    folder = Path(config.out)
    if config.page_only:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    else:
        from rewardjax.experiments.bench.results import collect

        folder.mkdir(parents=True, exist_ok=True)
        results = collect(config, " ".join(["rewardjax bench decode", *map(shlex.quote, argv)]))
        text = json.dumps(results, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        write_text(folder / RESULTS, text)
    for table in of_results(results):
        print_table(table)
    print(f"wrote {page.write(results, folder)}")
    return 0


def check(config: BenchConfig) -> None:
    """Refuse what cannot mean anything, before any work.

    Raises:
      RewardJaxError: naming the setting.
    """
    for name in ("candidates", "prompt_tokens", "repeats", "threads", "reward_layers"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise RewardJaxError(f"{name} is {value}; expected at least 1")
    if config.new_tokens < 2:
        raise RewardJaxError(f"new_tokens is {config.new_tokens}; expected at least 2")
    sizes = config.batch_sizes
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise RewardJaxError(f"batch_sizes is {list(sizes)}; expected different integers from 1 on")
    for name in config.cases:
        if name not in CASE_NAMES:
            hint = nearest(name, CASE_NAMES)
            raise RewardJaxError(
                f"cases: {name!r} is unknown; expected some of {', '.join(CASE_NAMES)}{hint}"
            )
    if not config.cases or len(set(config.cases)) < len(config.cases):
        raise RewardJaxError(f"cases is {list(config.cases)}; expected different names")
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise RewardJaxError(f"--out {config.out!r} is a file; expected a folder")
    there = (out / RESULTS).is_file()
    if config.page_only and not there:
        raise RewardJaxError(f"{config.out!r} holds no {RESULTS}; run without --page-only first")
    if there and not (config.overwrite or config.page_only):
        raise RewardJaxError(
            f"{config.out!r} holds results; pass --overwrite to measure again, or --page-only to"
            " write the pages again"
        )


__all__ = ["BenchConfig", "main"]
