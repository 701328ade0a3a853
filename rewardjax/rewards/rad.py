"""RAD, reward-augmented decoding's reward model (arXiv 2310.09520, methods.md §1).

A transformer of its own with Linear(D -> A) and a bias in place of the LM head; no sigmoid; all
weights train. **The output at position t scores x_<=t, token t included**: a candidate is scored
by running the transformer on it, one query per candidate over one shared prefix cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.lm import LMConfig
from rewardjax.rewards import backbone
from rewardjax.rewards.contract import Hidden, RewardModel, RewardParams

PyTree = Any


@dataclass(frozen=True)
class Rad(RewardModel):
    """Scalar head(s) on the reward model's own transformer; nothing is frozen."""

    reads_candidates: ClassVar[bool] = True

    def init(self, key: Array, weights: PyTree) -> RewardParams:
        width = self._config.hidden_size
        head = {
            "kernel": 0.02 * jax.random.normal(key, (width, self.outputs)),
            "bias": jnp.zeros(self.outputs),
        }
        body = {name: tree for name, tree in weights.items() if name != "lm_head"}
        body = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), body)
        return RewardParams({"backbone": body, "head": head}, self.freeze(weights))

    def freeze(self, weights: PyTree) -> PyTree:
        return {}

    def prefill(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        *,
        max_new_tokens: int,
        num_candidates: int,
    ) -> PyTree:
        extra = max_new_tokens + num_candidates
        weights = params.trainable["backbone"]
        return backbone.prefill(self._config, weights, tokens, lengths, extra)[1]

    def candidate_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, candidates: Int[Array, "B C"]
    ) -> tuple[Float[Array, "B C A"], PyTree]:
        weights = params.trainable["backbone"]
        h, pending = backbone.score_candidates(self._config, weights, cache, candidates)
        return self._head(params, h), pending

    def advance(
        self, params: RewardParams, cache: PyTree, pending: PyTree, chosen: Int[Array, "B"]
    ) -> PyTree:
        return backbone.keep(cache, pending, chosen)

    def token_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
    ) -> Float[Array, "B T A"]:
        states = backbone.encode(self._config, params.trainable["backbone"], tokens, lengths)
        return self._head(params, states[:, 1:])

    def _head(self, params: RewardParams, h: Float[Array, "*N D"]) -> Float[Array, "*N A"]:
        head = params.trainable["head"]
        with jax.default_matmul_precision("highest"):
            return h.astype(jnp.float32) @ head["kernel"] + head["bias"]

    @property
    def _config(self) -> LMConfig:
        assert self.transformer is not None, "rewards.build gives RAD a transformer"
        return self.transformer
