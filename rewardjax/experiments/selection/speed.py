"""What choosing costs beside sampling: completions drawn and chosen among, against drawn alone."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import numpy as np

import rewardjax as rj
from rewardjax.experiments.selection.pools import Pool
from rewardjax.experiments.selection.settings import TaskConfig, VariantConfig
from rewardjax.experiments.selection.steps import Steps
from rewardjax.probe_fit import fit
from rewardjax.probes import TrainedProbe
from rewardjax.progress import bar
from rewardjax.sequence import ProbeReward

PROMPTS = 12
REPEATS = 5


def measure(steps: Steps, task: TaskConfig, variant: VariantConfig) -> dict[str, Any]:
    """Tokens per second of `rj.select` by a probe and of `rj.generate` of the same completions.

    Repeats are interleaved; the first of each, which compiles, is left out. The probe is the
    variant's, of all training completions and of the middle one of the layers.
    """
    lm, k = steps.lm, min(steps.config.sweep_k, task.samples)
    prompts = [row.text for row in steps.prompt_rows(Pool(task))[0][:PROMPTS]]
    settings: dict[str, Any] = {
        "num_samples": k,
        "max_new_tokens": task.max_new_tokens,
        "temperature": task.temperature,
        "top_k": task.top_k,
        "stop": task.stop,
        "chat": task.chat,
        "batch_size": steps.config.batch_size,
    }
    probe = _probe(steps, task, variant)
    ways = {
        "sampling": lambda seed: rj.generate(lm, prompts, seed=seed, **settings),
        "choosing": lambda seed: [
            one.candidates for one in rj.select(lm, prompts, probe, seed=seed, **settings)
        ],
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with bar("speed", (REPEATS + 1) * len(ways)) as advance:
        for repeat in range(REPEATS + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                found = way(repeat)
                seconds = time.perf_counter() - began
                tokens = sum(len(one.token_ids) for group in found for one in group)
                if repeat:
                    rates[name].append(tokens / seconds)
                advance(1)
    pairs = zip(rates["choosing"], rates["sampling"], strict=True)
    return {
        "task": task.name,
        "probe": variant.name,
        "layer": probe.probe.config.layer,
        "k": k,
        "prompts": len(prompts),
        "batch_size": steps.config.batch_size,
        "tokens_per_second": rates,
        "ratio": statistics.median(choosing / sampling for choosing, sampling in pairs),
    }


def _probe(steps: Steps, task: TaskConfig, variant: VariantConfig) -> ProbeReward:
    how, pool = steps.fit_config(variant), Pool(task, "train")
    rewards = steps.values(pool, task.train_reward)
    every = np.arange(rewards.size)
    place = len(steps.layers) // 2
    states = steps.states(pool, how.probe.pooling)[:, place : place + 1]
    groups = every // rewards.shape[1]
    none = every[:0]
    fitted = fit(states, rewards.reshape(-1), groups, how, 0, train=every, held_out=none)
    config = dataclasses.replace(how.probe, layer=steps.layers[place])
    lm = steps.lm
    params = fitted.layer(0)
    trained = TrainedProbe(config, lm.source, lm.fingerprint, variant.loss, params)
    return ProbeReward(variant.name, trained, lm, is_base=True)
