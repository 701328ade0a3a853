"""RAD, reward-augmented decoding's reward model (arXiv 2310.09520, methods.md §1).

A transformer of its own with Linear(D -> A) and a bias in place of the LM head; no sigmoid; all
weights train (or, with LoRA, its adapters and the head). **The output at position t scores x_<=t,
token t included**: a candidate is scored by running the transformer on it, one query per candidate
over one shared prefix cache.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.lm import LMConfig, lora
from rewardjax.rewards import backbone
from rewardjax.rewards.contract import Hidden, RewardModel, RewardParams

PyTree = Any


@dataclass(frozen=True)
class Rad(RewardModel):
    """Scalar head(s) on the reward model's own transformer; without LoRA nothing is frozen."""

    reads_candidates: ClassVar[bool] = True

    def init(self, key: Array, weights: PyTree) -> RewardParams:
        width = self._config.hidden_size
        head = {
            "kernel": 0.02 * jax.random.normal(key, (width, self.outputs)),
            "bias": jnp.zeros(self.outputs),
        }
        trainable = {"head": head}
        if self.config.lora_rank:
            trainable["lora"] = lora.init(self.config.lora, jax.random.fold_in(key, 1), weights)
        else:
            trainable["backbone"] = self._body(weights)
        return RewardParams(trainable, self.freeze(weights))

    def freeze(self, weights: PyTree) -> PyTree:
        return {"backbone": self._body(weights)} if self.config.lora_rank else {}

    def merge(self, params: RewardParams) -> tuple[RewardModel, RewardParams]:
        if not self.config.lora_rank:
            return self, params
        config = dataclasses.replace(self.config, lora_rank=0)
        adapters = params.trainable["lora"]
        body = lora.add(self.config.lora, params.frozen["backbone"], adapters)
        trainable = {"head": params.trainable["head"], "backbone": body}
        return dataclasses.replace(self, config=config), RewardParams(trainable, {})

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
        weights = self._weights(params)
        return backbone.prefill(self._config, weights, tokens, lengths, extra)[1]

    def candidate_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, candidates: Int[Array, "B C"]
    ) -> tuple[Float[Array, "B C A"], PyTree]:
        weights = self._weights(params)
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
        weights = self._weights(params)
        states = backbone.encode(self._config, weights, tokens, lengths, self.packed_rows)
        return self._head(params, states[:, 1:])

    def position_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        candidates: Int[Array, "B T C"],
    ) -> Float[Array, "B T C A"]:
        """As the contract says, over one shared prefix: the text is read once, not once a position.

        T·C queries in chunks, so memory is that of about `backbone.QUERIES` queries a row.
        """
        return backbone.score_positions(
            self._config, self._weights(params), tokens, candidates, partial(self._head, params)
        )

    def _head(self, params: RewardParams, h: Float[Array, "*N D"]) -> Float[Array, "*N A"]:
        head = params.trainable["head"]
        with jax.default_matmul_precision("highest"):
            return h.astype(jnp.float32) @ head["kernel"] + head["bias"]

    def _body(self, weights: PyTree) -> PyTree:
        """All that the model reads of an LM's weights, float32: not its LM head."""
        return backbone.as_float32({k: v for k, v in weights.items() if k != "lm_head"})

    def _weights(self, params: RewardParams) -> PyTree:
        if self.config.lora_rank:
            return lora.beside(
                self.config.lora, params.frozen["backbone"], params.trainable["lora"]
            )
        return params.trainable["backbone"]

    @property
    def _config(self) -> LMConfig:
        assert self.transformer is not None, "rewards.build gives RAD a transformer"
        return self.transformer
