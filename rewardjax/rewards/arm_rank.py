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

from rewardjax.rewards.bilinear import BilinearModel
from rewardjax.rewards.config import Rank

PyTree = Any


@dataclass(frozen=True)
class ArmRank(BilinearModel):
    """ARM whose D x D matrix is a product BᵀA of rank r."""

    takes_rank: ClassVar[Rank] = Rank.UP_TO_WIDTH

    def init_delta(self, key: Array, width: int) -> PyTree:
        """A random and B zero, as LoRA's (arXiv 2106.09685): Δ = 0, B's gradient is not."""
        shape = (self.outputs, self.rank, width)
        return {
            "prefix": jax.random.normal(key, shape) / jnp.sqrt(width),
            "token": jnp.zeros(shape),
        }

    def queries(self, head: PyTree, h: Float[Array, "*N D"]) -> Float[Array, "*N A D"]:
        # Bᵀ(A h), so that a token costs O(D), not O(r D).
        scores = jnp.einsum("...d,ard->...ar", h, head["prefix"])
        return jnp.einsum("...ar,ard->...ad", scores, head["token"])
