"""NADO's |V|-wide heads (arXiv 2205.14219, methods.md §7): R(x, v) = P[C = 1 | x v], for all v at
once.

    nado         R = σ(z),  z(v|x) = <U_v, h(x)> + c_v                    decoded with log_sigmoid
    nado_norm    log R = b(x) + z(v|x) - max_u z(u|x),  b = log σ(<w, h(x)> + w_0)    with raw

U: A x |V| x D, trained. `nado_norm` keeps apart how likely the prefix is to satisfy C at best (b)
and which tokens are worse than the best one; b <= 0, so R <= 1. ARM's parametrizations are NADO's
low-rank ones: z = <W h, e(v)> + baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.rewards.contract import RewardParams
from rewardjax.rewards.next_token import NextTokenModel

PyTree = Any
_SCORES = 2**23
"""scores in memory at a time (32 MiB), where the best token of many prefixes is looked for"""


@dataclass(frozen=True)
class Nado(NextTokenModel):
    """A row of U and a bias for each token. Starts at zero: R = 1/2, and decoding at the LM."""

    def init_head(self, key: Array, width: int) -> PyTree:
        size = (self.outputs, self.lm.vocab_size)
        return {"vocabulary": jnp.zeros((*size, width)), "bias": jnp.zeros(size)}

    def token_features(self, params: RewardParams, tokens: Int[Array, "*N"]) -> Int[Array, "*N"]:
        """The tokens themselves: `score` gathers their rows of U, and no others."""
        return tokens

    def score(
        self, head: PyTree, h: Float[Array, "*N D"], e: Int[Array, "*N C"]
    ) -> Float[Array, "*N C A"]:
        rows = jnp.take(head["vocabulary"], e, axis=1, mode="clip")  # [A, *N, C, D]
        bias = jnp.take(head["bias"], e, axis=1, mode="clip")
        return jnp.moveaxis(jnp.einsum("...d,a...cd->a...c", h, rows) + bias, 0, -1)

    def state_rows(self, params: RewardParams, h: Float[Array, "N D"]) -> Float[Array, "N V A"]:
        head = params.trainable["head"]
        with jax.default_matmul_precision("highest"):
            rows = jnp.einsum("nd,avd->nva", h.astype(jnp.float32), head["vocabulary"])
            return rows + head["bias"].T


@dataclass(frozen=True)
class NadoNorm(Nado):
    """Level and shape apart. Starts at R = 1/2 too; raw rewards are log R."""

    probability_link: ClassVar[str] = "raw"

    def init_head(self, key: Array, width: int) -> PyTree:
        level = {"kernel": jnp.zeros((self.outputs, width)), "bias": jnp.zeros(self.outputs)}
        return super().init_head(key, width) | {"level": level}

    def score(
        self, head: PyTree, h: Float[Array, "*N D"], e: Int[Array, "*N C"]
    ) -> Float[Array, "*N C A"]:
        # The best token of each output, gathered like any other: its gradient is the maximum's.
        best = super().score(head, h, self._best(head, h))
        best = jnp.diagonal(best, axis1=-2, axis2=-1)
        return _log_r(head, h, super().score(head, h, e), best)

    def state_rows(self, params: RewardParams, h: Float[Array, "N D"]) -> Float[Array, "N V A"]:
        rows = super().state_rows(params, h)
        with jax.default_matmul_precision("highest"):
            level = h.astype(jnp.float32)
            return _log_r(params.trainable["head"], level, rows, rows.max(axis=1))

    def _best(self, head: PyTree, h: Float[Array, "*N D"]) -> Int[Array, "*N A"]:
        """argmax_v z(v|x), some prefixes at a time: never prefixes x |V| of them all."""
        head, h = jax.lax.stop_gradient((head, h))

        def best(state: Float[Array, "D"]) -> Int[Array, "A"]:
            scores = jnp.einsum("d,avd->av", state, head["vocabulary"]) + head["bias"]
            return scores.argmax(axis=-1)

        size = max(1, _SCORES // head["bias"].size)
        found = jax.lax.map(best, h.reshape(-1, h.shape[-1]), batch_size=size)
        return found.reshape(*h.shape[:-1], self.outputs)


def _log_r(
    head: PyTree,
    h: Float[Array, "*N D"],
    z: Float[Array, "*N C A"],
    best: Float[Array, "*N A"],
) -> Float[Array, "*N C A"]:
    level = jnp.einsum("...d,ad->...a", h, head["level"]["kernel"]) + head["level"]["bias"]
    level = jax.nn.log_sigmoid(level)
    # z may pass its maximum by rounding alone: log R is 0 at most.
    return jnp.minimum(level[..., None, :] + (z - best[..., None, :]), 0.0)
