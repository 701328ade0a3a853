"""Heads whose deviation is a product of a linear image of the state with the frozen embedding.

    r(v|x) = <w, h(x)> + <q(x), e(v)>        q: A x D, linear in h; methods.md §2

A parametrization of this family is an `init_delta` and a `queries`. On the base LM's states, e is
the embedding that the LM's logits are made with, so the loop can score a whole vocabulary in that
same product, [h; q] Eᵀ.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardjax.rewards.baseline import BaselineModel
from rewardjax.rewards.contract import Hidden, RewardParams

PyTree = Any


@dataclass(frozen=True)
class BilinearModel(BaselineModel):
    """A head <w, h> + <q(h), e>."""

    @abstractmethod
    def queries(self, head: PyTree, h: Float[Array, "*N D"]) -> Float[Array, "*N A D"]:
        """q(x), linear in the state h(x)."""

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        return jnp.einsum("...ad,...cd->...ca", self.queries(head, h), e)

    @property
    def reads_embedding(self) -> bool:
        return self.transformer is None

    def embedding_queries(
        self, params: RewardParams, hidden: Hidden
    ) -> tuple[Float[Array, "B A D"], Float[Array, "B A"]]:
        head, h = params.trainable["head"], self._base_state(hidden)
        with jax.default_matmul_precision("highest"):
            return self.queries(head, h), self.prefix_baseline(head, h)
