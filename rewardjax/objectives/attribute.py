"""Attribute-controlled fine-tuning of an LM (arXiv 2410.05559, rebuilt in methods.md §7).

    L(θ) = L_LM(θ; D) + λ Σ_t KL(q_t ‖ p_θ)       q_t(v) = sg[p_θold(v) R(v) / Z_t]
                                                  Z_t = Σ_v p_θold(v) R(v)

R(v) estimates P[C = 1 | prefix, v]: by NADO (arXiv 2205.14219) the q_t are next-token
distributions of q*, p_θold under the constraint C. KL(q_t ‖ p_θ) is the soft cross-entropy
-Σ_v q_t(v) log p_θ(v) less q_t's entropy, which θ does not change: the gradient with respect to the
logits is p_θ - q_t. At θ = θ_old, and only there, its value is E_q[log R] - log Z.

Σ_t KL(q_t ‖ p_θold) is -log P(C = 1) in expectation over prefixes drawn from q*; over those of
texts, or of the LM's own samples, the sum is a heuristic.

Both terms are means over tokens here: Σ_t is over the predicted tokens of a batch, divided by their
number. A text i may weigh w_i; its tokens then count w_i times in the sum, and once in the number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PyTree = Any


class Target(NamedTuple):
    """The distributions q of N prefixes; no gradient flows through it."""

    logits: Float[Array, "N V"]
    """q is their softmax; -inf where it is 0"""
    closed_form: Float[Array, "N"]
    """E_q[log R] - log Z, which is KL(q ‖ p_θold)"""


def target(logits: Float[Array, "N V"], log_rewards: Float[Array, "N V"]) -> Target:
    """q of prefixes from θ_old's logits and log R (<= 0; -inf where R is 0).

    A constant R gives q = p_θold exactly. So does a prefix with R = 0 for every token: no next
    token can satisfy the constraint, and there is nothing to learn from it.
    """
    logits, log_rewards = jax.lax.stop_gradient((logits, log_rewards))
    best = log_rewards.max(axis=-1, keepdims=True)
    hopeless = best == -jnp.inf
    relative = jnp.where(hopeless, 0.0, log_rewards - jnp.where(hopeless, 0.0, best))
    steered = logits + relative
    q = jax.nn.softmax(steered, axis=-1)
    # log Z less `best`, so that equal R cancel exactly.
    log_z = jax.nn.logsumexp(steered, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    return Target(steered, jnp.sum(q * jnp.where(q > 0, relative, 0.0), axis=-1) - log_z)


@jax.custom_vjp
def kl(q_logits: Float[Array, "N V"], logits: Float[Array, "N V"]) -> Float[Array, "N"]:
    """KL(softmax(q_logits) ‖ softmax(logits)), with a gradient for `logits` alone: p - q.

    It is written out, so that it is 0, without rounding, where both are equal.
    """
    log_q, log_p = (jax.nn.log_softmax(x, axis=-1) for x in (q_logits, logits))
    q = jnp.exp(log_q)
    return jnp.sum(q * (jnp.where(q > 0, log_q, 0.0) - log_p), axis=-1)


def _kl_forward(q_logits: Array, logits: Array) -> tuple[Array, tuple[Array, Array]]:
    return kl(q_logits, logits), (q_logits, logits)


def _kl_backward(kept: tuple[Array, Array], g: Array) -> tuple[None, Array]:
    q_logits, logits = kept
    return None, g[:, None] * (jax.nn.softmax(logits, -1) - jax.nn.softmax(q_logits, -1))


kl.defvjp(_kl_forward, _kl_backward)


def token_nll(logits: Float[Array, "N V"], tokens: Int[Array, "N"]) -> Float[Array, "N"]:
    """-log p(token)."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def in_chunks(function: Callable[[PyTree], PyTree], arrays: PyTree, chunk: int) -> PyTree:
    """`function` of arrays [N, …], `chunk` rows at a time; its results [N, …] are put together.

    Only one chunk's intermediates exist at a time, in the backward pass too, which computes them
    again. The last chunk is filled with zeros.
    """
    count = len(jax.tree.leaves(arrays)[0])
    chunk = min(chunk, count)
    padding = -count % chunk

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(-1, chunk, *x.shape[1:])

    found = jax.lax.map(jax.checkpoint(function), jax.tree.map(cut, arrays))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def exponential_weights(rewards: Float[Array, "N"], tau: float) -> Float[Array, "N"]:
    """Weights exp(r / τ) of reward-weighted regression (Peters and Schaal 2007), r in [0, 1].

    Given as exp((r - 1) / τ): a common factor cancels, since their mean is made 1 for training.
    """
    return jnp.exp((rewards - 1.0) / tau)
