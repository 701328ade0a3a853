"""Decoding speed of every reward model, measured side by side in one run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import rewardjax as rj
from rewardjax.experiments.compare.programs import program_of
from rewardjax.experiments.compare.steps import Steps
from rewardjax.experiments.prompts import PROMPTS
from rewardjax.progress import bar

ROWS = 64
REPEATS = 3


def measure(steps: Steps) -> dict[str, Any]:
    """Tokens per second of plain and guided decoding with every listed model: medians of
    interleaved repeats. A sweep's models cost what the others of their kind do.

    The first call of each, which compiles, is left out; reading the prompts is in. Rows may end
    early, so tokens are counted.
    """
    config = steps.config
    lm = rj.load_lm(config.lm, dtype=config.dtype)
    candidates: dict[str, Any] = {"unguided": None}
    for model in config.models:
        if model.decode and not program_of(model).makes_lm:
            made = (seed for seed in config.seeds if steps.trained(model, seed).exists())
            seed = next(made, config.seeds[0])  # which one changes no speed
            steps.train(model, seed)
            candidates[model.name] = rj.load_reward_model(steps.trained(model, seed))
    settings: dict[str, Any] = {
        "num_samples": -(-ROWS // len(PROMPTS[:16])),
        "max_new_tokens": config.protocol.max_new_tokens,
        "top_k": config.top_k,
        "batch_size": ROWS,
    }
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    with bar("speed", (REPEATS + 1) * len(candidates)) as advance:
        for repeat in range(REPEATS + 1):
            for name, reward_model in candidates.items():
                beta = 0.0 if reward_model is None else max(config.betas)
                began = time.perf_counter()
                found = rj.generate(
                    lm, PROMPTS[:16], reward_model=reward_model, beta=beta, seed=repeat, **settings
                )
                seconds = time.perf_counter() - began
                tokens = sum(len(g.token_ids) for samples in found for g in samples)
                if repeat:
                    rates[name].append(tokens / seconds)
                advance(1)
    return {
        "rows": ROWS,
        "max_new_tokens": config.protocol.max_new_tokens,
        "repeats": REPEATS,
        "tokens_per_second": {
            name: {"median": statistics.median(values), "all": values}
            for name, values in rates.items()
        },
    }
