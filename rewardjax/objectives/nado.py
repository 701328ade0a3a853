"""NADO's losses (arXiv 2205.14219, methods.md §7), in log space.

    L = Σ_{1<=t<=T} BCE(R(x, y_<=t), C)
        + λ Σ_{1<=t<T} KL_Bern(Σ_v p(v|x, y_<=t) R(x, y_<=t v) ‖ R(x, y_<=t))

R(x, y_<=t) = P[C = 1 | x, y_<=t] is what the model says of token y_t after the prefix before it; C
in [0, 1] is the oracle's word on the whole text. The first term is smallest at the exact R; so is
the second, where R is a martingale under the LM p that the texts are sampled from (there is no next
step after the last token). Its gradient flows through both sides, as the formula stands: the
expectation learns from the token, the token from the expectation of what follows.

Sums over tokens; functions return one value per text, and the caller takes the (weighted) mean.
Probabilities come as logarithms of R and of 1 - R, so that neither loses its digits near 1. R of
exactly 0 or 1 is no special case: 0 log 0 = 0 in value and gradient, and a text that contradicts a
certainty costs infinity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def continuation(
    lengths: Int[Array, "B"], starts: Int[Array, "B"], width: int
) -> Bool[Array, "B T"]:
    """True at the tokens of each row from `starts` on."""
    t = jnp.arange(width)
    return (t >= starts[:, None]) & (t < lengths[:, None])


def prefix_bce(
    log_r: Float[Array, "B T"],
    log_not_r: Float[Array, "B T"],
    labels: Float[Array, "B"],
    lengths: Int[Array, "B"],
    starts: Int[Array, "B"],
    *,
    last_only: bool = False,
) -> Float[Array, "B"]:
    """Cross-entropy of C at every prefix of a continuation, or at the whole text alone.

    Args:
      log_r, log_not_r: log R and log(1 - R) of each observed token: entry t has read x_<=t.
      labels: C of each text, in [0, 1].
      starts: where each continuation begins.
    """
    scored = continuation(lengths, starts, log_r.shape[1])
    if last_only:
        scored &= jnp.arange(log_r.shape[1]) == lengths[:, None] - 1
    each = -(_times(labels[:, None], log_r) + _times(1 - labels[:, None], log_not_r))
    return jnp.where(scored, each, 0.0).sum(axis=1)


def forward_consistency(
    log_expected: Float[Array, "B T"],
    log_not_expected: Float[Array, "B T"],
    log_r: Float[Array, "B T"],
    log_not_r: Float[Array, "B T"],
    lengths: Int[Array, "B"],
    starts: Int[Array, "B"],
) -> Float[Array, "B"]:
    """KL_Bern(E_v[R] ‖ R) summed over the tokens of a continuation that another one follows.

    Args:
      log_expected, log_not_expected: log Σ_v p(v) R(v) and log Σ_v p(v) (1 - R(v)) of what may
        stand at t: entry t has read x_<t, as R's entry t - 1 has.
    """
    each = bernoulli_kl(log_expected[:, 1:], log_not_expected[:, 1:], log_r[:, :-1],
                        log_not_r[:, :-1])  # fmt: skip
    followed = continuation(lengths - 1, starts, each.shape[1])
    return jnp.where(followed, each, 0.0).sum(axis=1)


def bernoulli_kl(
    log_a: Float[Array, "*N"],
    log_not_a: Float[Array, "*N"],
    log_b: Float[Array, "*N"],
    log_not_b: Float[Array, "*N"],
) -> Float[Array, "*N"]:
    """KL(Bernoulli(a) ‖ Bernoulli(b)) from the logarithms of a, 1 - a, b and 1 - b."""
    return _relative(log_a, log_b) + _relative(log_not_a, log_not_b)


def log_expectation(
    logprobs: Float[Array, "*N C"], log_values: Float[Array, "*N C"]
) -> Float[Array, "*N"]:
    """log Σ_v p(v) f(v); -inf, with gradient 0, where every term is 0."""
    terms = logprobs + log_values
    dead = jnp.all(terms == -jnp.inf, axis=-1)
    total = jax.nn.logsumexp(jnp.where(dead[..., None], 0.0, terms), axis=-1)
    return jnp.where(dead, -jnp.inf, total)


def _times(weight: Float[Array, "*#N"], log_value: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """weight * log_value, 0 where the weight is, whatever the logarithm."""
    return jnp.where(weight > 0, weight * log_value, 0.0)


def _relative(log_a: Float[Array, "*N"], log_b: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """a log(a / b), 0 where a = 0. The inner `where`s keep the gradient from 0 * inf."""
    there = log_a > -jnp.inf
    a, b = jnp.where(there, log_a, 0.0), jnp.where(there, log_b, 0.0)
    return jnp.where(there, jnp.exp(a) * (a - b), 0.0)
