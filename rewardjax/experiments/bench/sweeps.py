"""What a step costs as k and T grow (the cost over B is in the main rows)."""

from __future__ import annotations

from typing import Any

from rewardjax.experiments.bench import BenchConfig
from rewardjax.experiments.bench.cases import CASES, System, ours, prompts
from rewardjax.experiments.bench.machine import Ceilings
from rewardjax.experiments.bench.models import Models
from rewardjax.experiments.bench.timing import interleaved
from rewardjax.progress import bar

STEPS = 8
REPEATS = 3
CANDIDATES = (1, 5, 20, 50, 128)
LENGTHS = (16, 128, 512)
BY_CANDIDATES = ("arm-base", "arm-own", "rad-own")
BY_LENGTH = ("unguided", "arm-own", "rad-own")


def sweeps(config: BenchConfig, models: Models, ceilings: Ceilings) -> dict[str, Any]:
    """{"k": …, "T": …}: values, and for each case and value the seconds of a step in each round,
    at the middle one of the batch sizes."""
    batch = config.batch_sizes[len(config.batch_sizes) // 2]
    room = min(models.lm.max_position_embeddings, models.own.max_position_embeddings - 1) - STEPS
    counts = [k for k in CANDIDATES if k <= models.lm.vocab_size]
    lengths = [length for length in LENGTHS if length <= room]
    settings = {
        "k": [(k, k, config.prompt_tokens) for k in counts],
        "T": [(length, config.candidates, length) for length in lengths],
    }
    cases = {"k": BY_CANDIDATES, "T": BY_LENGTH}
    found = {}
    for axis, points in settings.items():
        names = [name for name in cases[axis] if name in config.cases]
        lines: dict[str, list[list[float]]] = {name: [] for name in names}
        with bar(f"sweep over {axis}", len(points)) as advance:
            for _, k, length in points:
                tokens = prompts(models.lm.vocab_size, batch, length)
                systems: dict[str, System] = {
                    name: ours(models, CASES[name], tokens, k, STEPS) for name in names
                }
                repeats = min(REPEATS, config.repeats)
                timed = interleaved(systems, ceilings, repeats)
                for name in names:
                    lines[name].append([s.steps / s.count for s in timed.rounds[name]])
                advance(1)
        found[axis] = {"batch": batch, "values": [p[0] for p in points], "lines": lines}
    return found
