"""A case's counters: what it reads, compiles and fetches. Exact, and the same on every machine."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from rewardjax.decoding.loop import run
from rewardjax.decoding.runner import SamplingConfig, decode_rows
from rewardjax.decoding.slots import BLOCK
from rewardjax.experiments.bench.cases import Case, Ours, ours
from rewardjax.experiments.bench.counters import compilations, products, transfers
from rewardjax.experiments.bench.models import Models

BATCH = 2
SHORT, LONG = 2, 4
"""Blocks of steps that are decoded."""


def of_case(models: Models, case: Case, tokens: np.ndarray, candidates: int) -> dict[str, float]:
    """Counters of one case on the prompts `tokens` [BATCH, P].

    LM and reward-model tokens read for one generated token, from the step's trace. Of whole runs
    through `decode_rows`: programs compiled for the first requests, and for as many with other
    settings and seeds; arrays that the host fetches for each further block of steps, and besides.
    """
    system = ours(models, case, tokens, candidates, LONG * BLOCK)
    sampling = system.sampling
    other = dataclasses.replace(
        sampling, beta=0.5, temperature=0.7, top_p=0.9, seed=7, top_k=max(1, candidates - 1)
    )
    jax.clear_caches()  # what this process has compiled for other purposes does not count
    with compilations() as first:
        _decode(system, sampling)
    with compilations() as again:
        _decode(system, other)
    fetched = []
    for blocks in (SHORT, LONG):
        with transfers() as count:
            _decode(system, dataclasses.replace(sampling, max_new_tokens=blocks * BLOCK))
        fetched.append(count.value)
    traced = products(
        lambda lm_params, reward_params, state: run(
            system.program, lm_params, reward_params, state, 1
        ),
        system.lm_params,
        system.reward_params,
        system.start(),
    )
    per_block = (fetched[1] - fetched[0]) / (LONG - SHORT)
    return {
        "lm_tokens": traced.tokens_through("[0][0]") / BATCH,
        "rm_tokens": traced.tokens_through("[0][1]") / BATCH,
        "compilations": first.value,
        "compilations_other_settings": again.value,
        "transfers_per_block": per_block,
        "transfers_per_batch": fetched[0] - SHORT * per_block,
    }


def _decode(system: Ours, sampling: SamplingConfig) -> None:
    """All requests, each with these settings; the caches are sized by the system's."""
    requests = [request._replace(sampling=sampling) for request in system.requests]
    rows = decode_rows(
        system.program,
        system.lm_params,
        system.reward_params,
        requests,
        system.sampling,
        batch_size=BATCH,
    )
    for _ in rows:
        pass
