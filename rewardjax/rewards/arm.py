"""ARM, the low-rank autoregressive reward model (arXiv 2407.04615, methods.md §2).

    r(v|x) = <w, h(x)> + <W h(x), e(v)>        W: A x D x D,  w: A x D,  no bias, no activation

The first term is a baseline of the prefix, the second the token's deviation from it. As a matrix
over (prefix, token) its rank is at most D, with and without the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardjax.rewards.bilinear import BilinearModel

PyTree = Any


@dataclass(frozen=True)
class Arm(BilinearModel):
    """ARM with a full D x D matrix. Starts at zero: an untrained head steers nothing."""

    def init_delta(self, key: Array, width: int) -> PyTree:
        return {"projection": jnp.zeros((self.outputs, width, width))}

    def queries(self, head: PyTree, h: Float[Array, "*N D"]) -> Float[Array, "*N A D"]:
        return jnp.einsum("...d,aed->...ae", h, head["projection"])
