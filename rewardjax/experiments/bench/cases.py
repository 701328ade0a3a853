"""The systems that are timed: a case is a language model, a reward model and a way of decoding."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from rewardjax.decoding.loop import Program, TransformerLM, run
from rewardjax.decoding.runner import Request, SamplingConfig, start_batch
from rewardjax.decoding.slots import BLOCK
from rewardjax.experiments.bench.models import BETA, Models, make_reward_model
from rewardjax.rewards import RewardModel, RewardParams

PyTree = Any


class Case(NamedTuple):
    """What is decoded with."""

    words: str
    parametrization: Literal["arm", "rad"] | None = None
    backbone: Literal["base", "own"] = "base"
    whole_vocabulary: bool = False
    """every token is a candidate"""


CASES = {
    "unguided": Case("unguided"),
    "arm-base": Case("ARM on the LM's hidden states", "arm"),
    "arm-base-all": Case("ARM on the LM's hidden states, k = |V|", "arm", "base", True),
    "arm-own": Case("ARM, own reward model", "arm", "own"),
    "arm-own-all": Case("ARM, own reward model, k = |V|", "arm", "own", True),
    "rad-own": Case("RAD, own reward model", "rad", "own"),
}

PEERS = {
    "torch-unguided": "unguided",
    "torch-unguided-bfloat16": "unguided",
    "torch-arm-own": "arm-own",
    "torch-rad-own": "rad-own",
}
"""PyTorch system → the case of ours that does the same."""


class Sample(NamedTuple):
    """One timed run: seconds until the first step (prompts read), seconds of the steps, steps."""

    prompt: float
    steps: float
    count: int

    @property
    def total(self) -> float:
        return self.prompt + self.steps


@runtime_checkable
class System(Protocol):
    """Something that decodes a batch of prompts to a fixed number of tokens each."""

    def measure(self) -> Sample: ...


@dataclass(frozen=True)
class Ours:
    """Our engine: `start_batch`, then blocks of steps with a look from the host after each."""

    program: Program
    lm_params: PyTree
    reward_params: RewardParams
    requests: tuple[Request, ...]
    sampling: SamplingConfig

    def measure(self) -> Sample:
        began = time.perf_counter()
        state = jax.block_until_ready(self.start())
        started = time.perf_counter()
        jax.block_until_ready(self.decode(state))
        ended = time.perf_counter()
        return Sample(started - began, ended - started, self.sampling.max_new_tokens)

    def start(self) -> Any:
        return start_batch(
            self.program,
            self.lm_params,
            self.reward_params,
            self.requests,
            self.sampling,
            len(self.requests),
        )

    def decode(self, state: Any) -> Any:
        steps = self.sampling.max_new_tokens
        block = min(BLOCK, steps)
        for _ in range(0, steps, block):
            state = run(self.program, self.lm_params, self.reward_params, state, block)
            if bool(state.done.all()):
                break
        return state


def reward_model_of(models: Models, case: Case) -> tuple[RewardModel | None, RewardParams]:
    """The case's reward model, its head random; cases that share one get the same."""
    if case.parametrization is None:
        return None, RewardParams({}, {})
    return make_reward_model(models, case.parametrization, case.backbone)


def prompts(vocab_size: int, batch: int, length: int) -> np.ndarray:
    """int32[B, P]: random ids, different in every row, the same in every run."""
    return np.random.default_rng(0).integers(3, vocab_size, (batch, length), dtype=np.int32)


def ours(
    models: Models,
    case: Case,
    tokens: np.ndarray,
    candidates: int,
    new_tokens: int,
) -> Ours:
    """Our engine on a case: EOS off, so that every row gets all its tokens."""
    reward_model, reward_params = reward_model_of(models, case)
    k = models.lm.vocab_size if case.whole_vocabulary else min(candidates, models.lm.vocab_size)
    sampling = SamplingConfig(
        beta=BETA if reward_model else 0.0,
        top_k=k,
        max_new_tokens=new_tokens,
    )
    program = Program(TransformerLM(models.lm), reward_model, num_candidates=k)
    requests = tuple(Request(row.tolist(), i, 0) for i, row in enumerate(tokens))
    return Ours(program, models.lm_params, reward_params, requests, sampling)
