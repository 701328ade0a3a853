"""Our training steps, ready to be timed, and the rounds that time them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rewardjax.data.hidden import estimate
from rewardjax.errors import RewardJaxError
from rewardjax.experiments.bench.machine import prepare
from rewardjax.lm import LM, first_layers, load_lm
from rewardjax.progress import bar
from rewardjax.provenance import commit, machine, versions
from rewardjax.rewards import RewardModel, RewardModelConfig, RewardParams, build

from .bench import KINDS, TrainBenchConfig
from .compute import training_form
from .losses import Inputs, LabelLoss
from .settings import ComputeConfig, ObjectiveConfig, OptimConfig
from .step import new_state, optimizer, train_step

OPTIM = OptimConfig(learning_rate=1e-4, schedule="constant")
LAYER = -10
"""of the LM, counted from its last: where the head reads"""
PARITY = 1e-3


class Case(NamedTuple):
    """One kind of training: a reward model, its inputs, and the FLOPs of a step."""

    model: RewardModel
    params: RewardParams
    inputs: Inputs
    flops: float


def make(config: TrainBenchConfig, lm: LM, kind: str) -> Case:
    """A head on random hidden states, or a RAD with a backbone of its own and a random head."""
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.tokens)
    tokens = jnp.asarray(rng.integers(3, lm.config.vocab_size, shape), jnp.int32)
    lengths = jnp.full(shape[:1], config.tokens, jnp.int32)
    labels = jnp.asarray(rng.random((config.batch_size, 1)), jnp.float32)
    count, width = config.batch_size * config.tokens, lm.config.hidden_size
    if kind == "head":
        layer = max(1, lm.config.num_hidden_layers + LAYER)
        model = build(RewardModelConfig(layer=layer), lm.config)
        hidden = {layer: jnp.asarray(rng.normal(size=(*shape, width)), jnp.float32)}
        params = model.init(jax.random.key(0), lm.params)
        # W h, its gradient with respect to W, and two products of D with what was gathered.
        flops = 2.0 * count * (2 * width**2 + 4 * width)
    else:
        rank = config.lora_rank if kind == "lora" else 0
        own = RewardModelConfig("rad", "own", num_layers=config.layers, lora_rank=rank)
        body, weights = first_layers(lm.config, lm.params, config.layers)
        model, hidden = build(own, lm.config, body), {}
        params = model.init(jax.random.key(0), weights)
        read = count + config.batch_size  # the BOS of each
        forward = estimate(body, read, (body.num_hidden_layers,)) + _attention(body, config)
        # Backward: gradients of activations, and where kernels train, of these.
        flops = forward * (2 if rank else 3)
    return Case(model, params, Inputs(tokens, lengths, labels, hidden), flops)


def _attention(body: Any, config: TrainBenchConfig) -> float:
    """FLOPs of scores and weighted sums, half of which the mask leaves."""
    length = config.tokens + 1
    heads = body.num_attention_heads * body.head_dim
    return 2.0 * config.batch_size * body.num_hidden_layers * heads * length**2


def stepper(case: Case, config: TrainBenchConfig, kind: str) -> Callable[[int], float]:
    """`run(n)`: makes n steps one after the other and gives the last one's loss."""
    compute = ComputeConfig(dtype=config.dtype)
    how: dict[str, Any] = {
        "model": case.model if kind == "head" else training_form(case.model, compute),
        "objective": LabelLoss(ObjectiveConfig()),
        "optim": OPTIM,
        "steps": 1,
    }
    held = {"state": new_state(case.params.trainable, optimizer(OPTIM, 1), seed=0)}

    def run(steps: int) -> float:
        loss = None
        for _ in range(steps):
            held["state"], metrics = train_step(
                held["state"], case.params.frozen, case.inputs, **how
            )
            loss = metrics.loss
        return float(loss)  # pyright: ignore[reportArgumentType]

    return run


def collect(config: TrainBenchConfig, command: str) -> dict[str, Any]:
    """Everything that `bench train` writes down."""
    lm = load_lm(config.lm)
    if config.layers > lm.config.num_hidden_layers:
        raise RewardJaxError(
            f"layers is {config.layers}; expected at most {lm.config.num_hidden_layers}, the LM's"
        )
    cases = {kind: make(config, lm, kind) for kind in KINDS}
    systems = {kind: stepper(case, config, kind) for kind, case in cases.items()}
    if config.peers:
        from rewardjax.experiments.bench.torch_models import check_torch

        from .bench_torch import peer

        check_torch(lm.config)
        systems |= {f"torch-{kind}": peer(case, config, OPTIM) for kind, case in cases.items()}
    first = {}
    with bar("bench", len(systems) * (1 + config.repeats)) as advance:
        for name, run in systems.items():
            began = time.perf_counter()
            first[name] = {"loss": run(1), "seconds": time.perf_counter() - began}
            advance(1)
        _compare(first, config)
        ceilings, rounds = prepare("float32"), []
        for _ in range(config.repeats):
            peak, _bandwidth = ceilings.measure()
            rounds.append({"peak": peak, "seconds": {}})
            for name, run in systems.items():
                steps = config.steps * (10 if name.endswith("head") else 1)
                began = time.perf_counter()
                run(steps)
                rounds[-1]["seconds"][name] = (time.perf_counter() - began) / steps
                advance(1)
    return {
        "command": command,
        "lm": PurePath(config.lm).name,
        "settings": dataclasses.asdict(config) | {"out": "", "lm": PurePath(config.lm).name},
        "first": first,
        "rounds": rounds,
        "flops": {kind: case.flops for kind, case in cases.items()},
        "made": {"versions": versions(), "machine": machine(), "commit": commit()},
    }


def _compare(first: dict[str, dict[str, float]], config: TrainBenchConfig) -> None:
    """The first step's loss is the same in both systems, or nothing is timed."""
    within = PARITY if config.dtype == "float32" else 50 * PARITY
    for kind in KINDS:
        ours, theirs = first[kind]["loss"], first.get(f"torch-{kind}", first[kind])["loss"]
        if not abs(ours - theirs) <= within * max(1.0, abs(ours)):
            raise RewardJaxError(
                f"bench train: the loss of {kind!r} is {ours:.5f} here and {theirs:.5f} in PyTorch;"
                " they do not compute the same"
            )
