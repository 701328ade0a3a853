"""ARM, the low-rank autoregressive reward model (arXiv 2407.04615, methods.md §2).

    r(v|x) = <w, h(x)> + <W h(x), e(v)>        W: A x D x D,  w: A x D,  no bias, no activation

The first term is a baseline of the prefix, the second the token's deviation from it. As a matrix
over (prefix, token) its rank is at most D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardjax.rewards.next_token import NextTokenModel

PyTree = Any


@dataclass(frozen=True)
class Arm(NextTokenModel):
    """ARM with the prefix baseline. Starts at zero: an untrained head steers nothing."""

    def init_head(self, key: Array, width: int) -> PyTree:
        return {
            "baseline": jnp.zeros((self.outputs, width)),
            "projection": jnp.zeros((self.outputs, width, width)),
        }

    def score(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        baseline = jnp.einsum("...d,ad->...a", h, head["baseline"])
        return baseline[..., None, :] + self.delta(head, h, e)

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        projected = jnp.einsum("...d,aed->...ae", h, head["projection"])
        return jnp.einsum("...ae,...ce->...ca", projected, e)
