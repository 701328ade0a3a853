"""From raw rewards to a shift of the log-probabilities.

p_beta(v|x)  proportional to  p(v|x) exp(beta link(R[x, v]))     (arXiv 2310.09520, methods.md §1)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Link = Callable[[Float[Array, "B C"]], Float[Array, "B C"]]


def clip(rewards: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """RAD's link, for rewards trained by regression: rho = clip(r, 0, 1), before beta."""
    return jnp.clip(rewards, 0.0, 1.0)


LINKS: dict[str, Link] = {"clip": clip, "sigmoid": jax.nn.sigmoid}
"""`sigmoid` is for rewards trained as logits (the BCE twin of the cumulative loss)."""


def steer(
    logits: Float[Array, "B C"],
    rewards: Float[Array, "B C"],
    link: Link,
    beta: Float[Array, "B"],
    invert: Bool[Array, "B"],
) -> Float[Array, "B C"]:
    """Scores z + beta rho, with rho = 1 - link(r) where the attribute is to be lowered."""
    rho = link(rewards)
    rho = jnp.where(invert[:, None], 1.0 - rho, rho)
    return logits + beta[:, None] * rho


def clipped_share(
    rewards: Float[Array, "B C"], mask: Bool[Array, "B C"], link: Link
) -> Float[Array, "B"]:
    """Share of the candidates whose raw reward the clip changes; 0 with a link that clips none."""
    outside = mask & (rewards != clip(rewards))
    return outside.sum(axis=-1) / mask.sum(axis=-1) if link is clip else jnp.zeros(len(mask))
