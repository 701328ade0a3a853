"""Losses that score every prefix of a labelled text, later prefixes more (arXiv 2310.09520, eq. 2).

    L = (1/B) sum_i  2 / (l_i (l_i + 1))  sum_{t=1..l_i}  t  sum_c loss(r[i,t,c], y[i,c])

The weights t sum to one per text, so a text counts once whatever its length; the sum over outputs
is a **sum**. Functions return one value per text; the caller takes the mean.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def prefix_weights(
    lengths: Int[Array, "B"], max_length: int, first: int = 0
) -> Float[Array, "B T"]:
    """Weight of each prefix: proportional to its length t = 1.., zero on padding, sum 1 per text.

    Tokens before `first` (unscored by the model) get 0 and the rest is renormalised; a text with
    no scored token has weight 0 everywhere.
    """
    t = jnp.arange(max_length)
    scored = (t >= first) & (t < lengths[:, None])
    weights = jnp.where(scored, t + 1.0, 0.0)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)


def cumulative_mse(
    rewards: Float[Array, "B T A"],
    labels: Float[Array, "B A"],
    lengths: Int[Array, "B"],
    first: int = 0,
) -> Float[Array, "B"]:
    """Cumulative squared error per text; the text's label is the target at every prefix."""
    targets = jnp.broadcast_to(labels[:, None, :], rewards.shape)
    error = optax.losses.squared_error(rewards, targets).sum(axis=-1)
    return (prefix_weights(lengths, rewards.shape[1], first) * error).sum(axis=1)


def cumulative_bce(
    logits: Float[Array, "B T A"],
    labels: Float[Array, "B A"],
    lengths: Int[Array, "B"],
    first: int = 0,
) -> Float[Array, "B"]:
    """Cumulative binary cross-entropy with logits per text; labels may lie inside [0, 1]."""
    targets = jnp.broadcast_to(labels[:, None, :], logits.shape)
    error = optax.losses.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)
    return (prefix_weights(lengths, logits.shape[1], first) * error).sum(axis=1)
