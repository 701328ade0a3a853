"""Heads that split a reward into a prefix's baseline and a token's deviation from it.

    r(v|x) = <w, h(x)> + Δ(v|x)        w: A x D; methods.md §2

A parametrization of this family is an `init_delta` and a `delta`. The baseline is the same for
every token: it cancels in a softmax, adds one to the rank of the matrix at most, and is what the
prior regulariser draws the rewards of unrelated tokens to. `baseline: false` leaves it out.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardjax.rewards.next_token import NextTokenModel

PyTree = Any


@dataclass(frozen=True)
class BaselineModel(NextTokenModel):
    """A head <w, h> + Δ. Heads start at Δ = 0 and w = 0: untrained, they steer nothing."""

    takes_baseline: ClassVar[bool] = True

    @abstractmethod
    def init_delta(self, key: Array, width: int) -> PyTree:
        """The parameters of Δ (a dict, float32): Δ = 0, but not its gradient."""

    @abstractmethod
    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        """Δ of C tokens with features `e` (see `token_features`) after states `h`."""

    def init_head(self, key: Array, width: int) -> PyTree:
        head = self.init_delta(key, width)
        if self.config.baseline:
            head["baseline"] = jnp.zeros((self.outputs, width))
        return head

    def score(self, head: PyTree, h: Float[Array, "*N D"], e: Array) -> Float[Array, "*N C A"]:
        return self.prefix_baseline(head, h)[..., None, :] + self.delta(head, h, e)

    def prefix_baseline(self, head: PyTree, h: Float[Array, "*N D"]) -> Float[Array, "*N A"]:
        """<w, h(x)>; 0 in a head without a baseline."""
        if not self.config.baseline:
            return jnp.zeros((*h.shape[:-1], self.outputs))
        return jnp.einsum("...d,ad->...a", h, head["baseline"])
