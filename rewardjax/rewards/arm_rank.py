"""ARM with an explicit rank r (methods.md §2).

    r(v|x) = <w, h(x)> + <A h(x), B e(v)>        A, B: outputs x r x D,  1 <= r <= D

As a matrix over (prefix, token) its rank is at most min(r + 1, D), at most r without the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardjax.rewards.baseline import BaselineModel
from rewardjax.rewards.config import Rank

PyTree = Any


@dataclass(frozen=True)
class ArmRank(BaselineModel):
    """ARM whose D x D matrix is a product BᵀA of rank r."""

    takes_rank: ClassVar[Rank] = Rank.UP_TO_WIDTH

    def init_delta(self, key: Array, width: int) -> PyTree:
        """A random and B zero, as LoRA's (arXiv 2106.09685): Δ = 0, B's gradient is not."""
        shape = (self.outputs, self.rank, width)
        return {
            "prefix": jax.random.normal(key, shape) / jnp.sqrt(width),
            "token": jnp.zeros(shape),
        }

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        # Bᵀ(A h) first: then a token costs O(D), not O(r D).
        scores = jnp.einsum("...d,ard->...ar", h, head["prefix"])
        projected = jnp.einsum("...ar,ard->...ad", scores, head["token"])
        return jnp.einsum("...ad,...cd->...ca", projected, e)
