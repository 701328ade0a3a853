"""Two reward matrices of known rank, and what a trained model leaves of each.

Texts are pairs (x, y) of n tokens; the reward of the second token alone is trained, so the model
fills an n x n matrix R[x, y] with label 1[x = y] (the controls of arXiv 2407.04615).

identity: all n^2 entries are observed. The best matrix of rank r plus a baseline b(x) leaves

    min |I - b 1' - D|_F^2 / n^2 = (n - r - 1) / n^2,      rank D <= r <= n - 1

(b takes I to I - 11'/n, which has n - 1 singular values of 1; by Eckart and Young D takes r of
them), against 1/n for predicting 0. RAD has no such bound.

triangle: the entries x <= y are observed. Every matrix that agrees with all of them has ones on
its diagonal and zeros above it, hence full rank n. Yet rank 1 comes as near as wished:
R[x, y] = a^(y - x) has the observed errors a^(y - x), y > x, which vanish with a. The infimum of
the loss is 0 already at rank 1: what a trained rank leaves here tells of training and of how large
weights may grow, and is no bound. (Observing x >= y is the same transposed, with a to infinity.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rewardjax.lm import LMConfig, init_params
from rewardjax.metrics.rank import numerical_rank, spectrum
from rewardjax.rewards import RewardModel, RewardModelConfig, RewardParams, build

Task = Literal["identity", "triangle"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclasses.dataclass(frozen=True)
class Training:
    """Full-batch Adam without weight decay, the rate falling to 0 as a cosine; one for all models.

    The transformer is random: `layers` layers of `width`, four heads.
    """

    steps: int = 400
    learning_rate: float = 3e-3
    warmup: int = 50
    width: int = 64
    layers: int = 2


@dataclasses.dataclass(frozen=True)
class Fit:
    """One trained model on one task."""

    task: Task
    model: str
    """its parametrization: rad, arm (rank up to the width) or arm_rank"""
    rank: int | None
    """r of arm_rank"""
    seed: int
    mse: float
    """mean squared error of the observed entries, float64"""
    relative: float
    """mse divided by that of predicting 0"""
    floor: float | None
    """the least mse that its rank allows; None where nothing bounds it (RAD; the triangle)"""
    matrix_rank: int
    """numerical rank of the trained matrix, NumPy's cut-off for float32"""


def observed(task: Task, n: int) -> Float[np.ndarray, "n n"]:
    """1 where entry (x, y) is in the data, else 0."""
    return np.ones((n, n)) if task == "identity" else np.triu(np.ones((n, n)))


def zero_mse(task: Task, n: int) -> float:
    """The mean squared error of predicting 0: 1/n (identity), 2/(n + 1) (triangle)."""
    return n / float(observed(task, n).sum())


def floor(task: Task, n: int, model: RewardModel) -> float | None:
    """The least mse that the model's rank allows: (n - r - 1) / n^2 with a baseline."""
    if task == "triangle" or model.reads_candidates:
        return None
    rank = model.config.rank or (model.transformer or model.lm).hidden_size
    return max(n - rank - 1, 0) / n**2


def power_mse(n: int, a: float) -> float:
    """The triangle's mean squared error of the rank-1 matrix R[x, y] = a^(y - x)."""
    x = np.arange(n, dtype=np.float64)
    error = a ** np.clip(x - x[:, None], 0, None) - np.eye(n)
    seen = observed("triangle", n)
    return float((seen * error**2).sum() / seen.sum())


def build_model(parametrization: str, rank: int | None, n: int, training: Training) -> RewardModel:
    """A reward model on n tokens with a small transformer of its own; no LM is read."""
    transformer = LMConfig(
        vocab_size=n,
        hidden_size=training.width,
        intermediate_size=2 * training.width,
        num_hidden_layers=training.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=training.width // 4,
        max_position_embeddings=8,
    )
    config = RewardModelConfig(parametrization, "own", rank=rank)
    return build(config, transformer, transformer)


def random_weights(config: LMConfig, key: Array) -> dict:
    """Random weights whose embeddings tell the tokens apart from the start.

    A trained LM's do; with the usual 0.02 the frozen output embeddings of ARM would shrink every
    gradient that passes through them.
    """
    weights = init_params(config, key)
    inner, outer = jax.random.split(jax.random.fold_in(key, 1))
    shape = (config.vocab_size, config.hidden_size)
    weights["embed_tokens"]["embedding"] = 0.5 * jax.random.normal(inner, shape)
    weights["lm_head"]["kernel"] = jax.random.normal(outer, shape[::-1]) / shape[1] ** 0.5
    return weights


def matrix(model: RewardModel, params: RewardParams, n: int) -> Float[Array, "n n"]:
    """R[x, y] through the contract: prefix x, candidates 0 .. n - 1."""
    tokens, lengths = jnp.arange(n)[:, None], jnp.ones(n, jnp.int32)
    cache = model.prefill(params, tokens, lengths, {}, max_new_tokens=0, num_candidates=n)
    candidates = jnp.broadcast_to(jnp.arange(n), (n, n))
    return model.candidate_rewards(params, cache, {}, candidates)[0][..., 0]


def fit(
    task: Task,
    parametrization: str,
    rank: int | None,
    n: int,
    seeds: Sequence[int],
    training: Training,
) -> list[Fit]:
    """Trains one model per seed (all in one program) and measures what it leaves."""
    model = build_model(parametrization, rank, n, training)
    assert model.transformer is not None
    starts = []
    for seed in seeds:
        key, body = jax.random.split(jax.random.key(seed))
        starts.append(model.init(key, random_weights(model.transformer, body)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    seen = observed(task, n)
    trained = _train(model, n, training, stacked, jnp.asarray(seen, jnp.float32))
    found = np.asarray(trained, np.float64)
    low, zero = floor(task, n, model), zero_mse(task, n)
    fits = []
    for seed, values in zip(seeds, found, strict=True):
        mse = float((seen * (values - np.eye(n)) ** 2).sum() / seen.sum())
        count = numerical_rank(spectrum(values), values.shape, "float32")
        fits.append(Fit(task, parametrization, rank, seed, mse, mse / zero, low, count))
    return fits


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    model: RewardModel,
    n: int,
    training: Training,
    starts: RewardParams,
    seen: Float[Array, "n n"],
) -> Float[Array, "S n n"]:
    """The trained matrices of S starts; all steps in one scan."""
    steps = training.steps
    rate = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, min(training.warmup, steps // 2), steps
    )
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99, eps=1e-12))
    target = jnp.eye(n)

    def one(start: RewardParams) -> Array:
        def loss(trainable):
            values = matrix(model, RewardParams(trainable, start.frozen), n)
            return jnp.sum(seen * jnp.square(values - target)) / jnp.sum(seen)

        def step(state, _):
            trainable, moments = state
            updates, moments = tx.update(jax.grad(loss)(trainable), moments)
            return (optax.apply_updates(trainable, updates), moments), None

        first = (start.trainable, tx.init(start.trainable))
        (trainable, _), _ = jax.lax.scan(step, first, None, length=steps)
        return matrix(model, RewardParams(trainable, start.frozen), n)

    return jax.vmap(one)(starts)
