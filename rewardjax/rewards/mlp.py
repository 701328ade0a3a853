"""A perceptron on r products of prefix and token: no bound on the rank (methods.md §2).

    s_i(v|x) = (A_i h(x)) (B_i e(v))        i = 1 … r;  A, B: outputs x r x D
    r(v|x) = <w, h(x)> + c . gelu(M s + b)        M: outputs x r x r,  b, c: outputs x r

The authors' MLP has no activation, so it is ARM of rank r in other words. With gelu, which acts on
each entry (x, v) of the matrix alone, the rank can be anything up to the number of prefixes.
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
class Mlp(BaselineModel):
    """One hidden layer of r gelu units, exact gelu. A token costs O(rD + r²), ARM's O(D)."""

    takes_rank: ClassVar[Rank] = Rank.ANY

    def init_delta(self, key: Array, width: int) -> PyTree:
        """All random but c, which is zero: Δ = 0, c's gradient is not."""
        keys, a, r = jax.random.split(key, 3), self.outputs, self.rank
        return {
            "prefix": jax.random.normal(keys[0], (a, r, width)) / jnp.sqrt(width),
            "token": jax.random.normal(keys[1], (a, r, width)) / jnp.sqrt(width),
            "mixer": jax.random.normal(keys[2], (a, r, r)) / jnp.sqrt(r),
            "bias": jnp.zeros((a, r)),
            "output": jnp.zeros((a, r)),
        }

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        """The whole second term: its part at s = 0, c . gelu(b), belongs to no token."""
        left = jnp.einsum("...d,ard->...ar", h, head["prefix"])
        right = jnp.einsum("...cd,ard->...car", e, head["token"])
        mixed = jnp.einsum("...car,aur->...cau", left[..., None, :, :] * right, head["mixer"])
        units = jax.nn.gelu(mixed + head["bias"], approximate=False)
        return jnp.einsum("...cau,au->...ca", units, head["output"])
