"""ARM with free token factors (methods.md §2): every token has r trained numbers of its own.

    r(v|x) = <w, h(x)> + <A h(x), F_v>        A: outputs x r x D,  F: outputs x |V| x r

The matrix has rank at most min(r + 1, D), as with `arm_rank`, but which tokens are alike is not
read from the LM's embedding e(v): it is learnt from the tokens that were observed, and a token
that never was keeps F_v = 0, the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.rewards.baseline import BaselineModel
from rewardjax.rewards.config import Rank
from rewardjax.rewards.contract import RewardParams

PyTree = Any


@dataclass(frozen=True)
class ArmFactors(BaselineModel):
    """Matrix factorisation with the state as the row's side and a free vector as the column's."""

    takes_rank: ClassVar[Rank] = Rank.UP_TO_WIDTH

    def init_delta(self, key: Array, width: int) -> PyTree:
        """A random and F zero: Δ = 0, and only observed tokens leave it."""
        return {
            "prefix": jax.random.normal(key, (self.outputs, self.rank, width)) / jnp.sqrt(width),
            "factors": jnp.zeros((self.outputs, self.lm.vocab_size, self.rank)),
        }

    def token_features(
        self, params: RewardParams, tokens: Int[Array, "*N"]
    ) -> Float[Array, "*N A R"]:
        """F_v of these tokens only: no array of a text's positions times |V|."""
        factors = params.trainable["head"]["factors"]
        return jnp.moveaxis(jnp.take(factors, tokens, axis=1, mode="clip"), 0, -2)

    def vocabulary_features(self, params: RewardParams) -> Float[Array, "V A R"]:
        return jnp.moveaxis(params.trainable["head"]["factors"], 0, -2)

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C A R"]
    ) -> Float[Array, "*N C A"]:
        scores = jnp.einsum("...d,ard->...ar", h, head["prefix"])
        return jnp.einsum("...ar,...car->...ca", scores, e)
