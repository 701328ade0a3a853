"""The prior regulariser: unrelated tokens stay at the prefix baseline (arXiv 2407.04615)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def prior_penalty(
    deltas: Float[Array, "B T A"], lengths: Int[Array, "B"], first: int = 0
) -> Float[Array, ""]:
    """Mean of Delta(u|x)^2 over the batch's scored positions **and** outputs.

    Args:
        deltas: the token-specific part of the reward at one random token u per position.
        lengths: real length of each text; padding is left out.
        first: first position the model scores.
    """
    t = jnp.arange(deltas.shape[1])
    scored = (t >= first) & (t < lengths[:, None])
    total = jnp.where(scored, jnp.square(deltas).mean(axis=-1), 0.0).sum()
    return total / jnp.maximum(scored.sum(), 1)
