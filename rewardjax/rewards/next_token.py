"""Reward models that score every next token from the prefix's hidden state alone.

One call per decoded token whatever the number of candidates. A parametrization of this family is a
`init_head` and a `score`; everything else (alignment, own backbone or base LM, caches) is here.
Alignment: **the hidden state at t-1 scores token t** (arXiv 2407.04615; methods.md §2).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.errors import RewardJaxError
from rewardjax.lm import lora, output_embedding
from rewardjax.rewards import backbone
from rewardjax.rewards.contract import Hidden, RewardModel, RewardParams

PyTree = Any


@dataclass(frozen=True)
class NextTokenModel(RewardModel):
    """A head r(v|x) on the hidden state h(x) and the frozen output embedding e(v)."""

    @abstractmethod
    def init_head(self, key: Array, width: int) -> PyTree:
        """Trainable parameters of the head (float32); `width` is D, the size of h and e."""

    @abstractmethod
    def score(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        """Rewards of C tokens with output embeddings `e` after prefixes with states `h`."""

    def delta(
        self, head: PyTree, h: Float[Array, "*N D"], e: Float[Array, "*N C D"]
    ) -> Float[Array, "*N C A"]:
        """The part of `score` that depends on the token, for the prior regulariser."""
        raise RewardJaxError(
            f"parametrization {self.config.parametrization!r} has no prefix baseline to regularise"
            " towards; set objective.prior_weight to 0"
        )

    def token_features(self, params: RewardParams, tokens: Int[Array, "*N"]) -> Array:
        """What `score` and `delta` read of a token: its frozen output embedding e(v), [*N, D].

        Gathered for these tokens only, so that training never holds positions x |V| of anything.
        """
        return self._embedding(params)[tokens].astype(jnp.float32)

    def vocabulary_features(self, params: RewardParams) -> Float[Array, "V ..."]:
        """`token_features` of every token, in the order of ids, without a gather."""
        return self._embedding(params).astype(jnp.float32)

    @property
    def first_scored(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A head on the base LM's states reads no extra BOS: a text's first token has no score."""
        return 0 if self.transformer else 1

    def init(self, key: Array, weights: PyTree) -> RewardParams:
        trainable = {"head": self.init_head(key, (self.transformer or self.lm).hidden_size)}
        if self.config.lora_rank:
            trainable["lora"] = lora.init(self.config.lora, jax.random.fold_in(key, 1), weights)
        elif self.transformer is not None:
            own = {k: v for k, v in weights.items() if k != self._embedding_name}
            trainable["backbone"] = backbone.as_float32(own)
        return RewardParams(trainable, self.freeze(weights))

    def freeze(self, weights: PyTree) -> PyTree:
        if self.config.lora_rank:
            return {"backbone": backbone.as_float32(weights)}
        if self.transformer is not None:
            # float32 as the layers that train with it; no copy where the LM is float32
            tree = {self._embedding_name: weights[self._embedding_name]}
            return {"backbone": backbone.as_float32(tree)}
        return {"embedding": output_embedding(self.lm, weights)}

    def merge(self, params: RewardParams) -> tuple[RewardModel, RewardParams]:
        if not self.config.lora_rank:
            return self, params
        adapters = params.trainable["lora"]
        weights = lora.add(self.config.lora, params.frozen["backbone"], adapters)
        frozen = {self._embedding_name: weights.pop(self._embedding_name)}
        trainable = {"head": params.trainable["head"], "backbone": weights}
        config = dataclasses.replace(self.config, lora_rank=0)
        model = dataclasses.replace(self, config=config)
        return model, RewardParams(trainable, {"backbone": frozen})

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
        if self.transformer is None:
            return ()
        weights = self._weights(params)
        return backbone.prefill(self.transformer, weights, tokens, lengths, max_new_tokens)

    def candidate_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, candidates: Int[Array, "B C"]
    ) -> tuple[Float[Array, "B C A"], PyTree]:
        h = cache[0] if self.transformer is not None else self._base_state(hidden)
        rewards = self._score(self.score, params, h, candidates)
        return rewards, candidates

    def vocabulary_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, batch: int
    ) -> tuple[Float[Array, "B V A"], PyTree]:
        """Float32 [B, V, A] by products with the features of all tokens, which no row copies."""
        h = cache[0] if self.transformer is not None else self._base_state(hidden)
        rewards = self.state_rows(params, h)
        return rewards, jnp.broadcast_to(jnp.arange(rewards.shape[1]), rewards.shape[:2])

    def state_rows(self, params: RewardParams, h: Float[Array, "N D"]) -> Float[Array, "N V A"]:
        """Whole rows of the reward matrix, float32, of prefixes with states `h`."""
        head, features = params.trainable["head"], self.vocabulary_features(params)
        with jax.default_matmul_precision("highest"):
            return jax.vmap(lambda row: self.score(head, row, features))(h.astype(jnp.float32))

    def advance(
        self, params: RewardParams, cache: PyTree, pending: PyTree, chosen: Int[Array, "B"]
    ) -> PyTree:
        if self.transformer is None:
            return ()
        token = jnp.take_along_axis(pending, chosen[:, None], axis=1)[:, 0]
        return backbone.append(self.transformer, self._weights(params), cache[1], token)

    def token_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
    ) -> Float[Array, "B T A"]:
        return self.position_rewards(params, tokens, lengths, hidden, tokens[..., None])[..., 0, :]

    def position_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        candidates: Int[Array, "B T C"],
    ) -> Float[Array, "B T C A"]:
        """As the contract says; the prefixes are read once, for all candidates."""
        h = self.prefix_states(params, tokens, lengths, hidden)
        return self.state_rewards(params, h, candidates)

    def position_rewards_and_prior(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        candidates: Int[Array, "B T C"],
        random_tokens: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T C A"], Float[Array, "B T A"]]:
        h = self.prefix_states(params, tokens, lengths, hidden)
        rewards = self._scored(self.score, params, h, candidates)
        deltas = self._scored(self.delta, params, h, random_tokens[..., None])
        return rewards, deltas[..., 0, :]

    def state_rewards(
        self, params: RewardParams, h: Float[Array, "B T D"], candidates: Int[Array, "B T C"]
    ) -> Float[Array, "B T C A"]:
        """`position_rewards` from the `prefix_states`."""
        return self._scored(self.score, params, h, candidates)

    def _scored(self, score, params: RewardParams, h: Array, tokens: Array) -> Array:
        """`_score` at every position of a text, 0 where nothing has been read."""
        return self._score(score, params, h, tokens).at[:, : self.first_scored].set(0.0)

    def prefix_states(
        self, params: RewardParams, tokens: Array, lengths: Array, hidden: Hidden
    ) -> Float[Array, "B T D"]:
        """Entry t: the state that has read x_<t, as heads read it. Zeros where nothing was read."""
        if self.transformer is not None:
            weights = self._weights(params)
            states = backbone.encode(self.transformer, weights, tokens, lengths, self.packed_rows)
            return states[:, :-1]
        return _shifted(self._base_state(hidden))

    def _base_state(self, hidden: Hidden) -> Float[Array, "*N D"]:
        """The base LM's state as the head reads it, float32.

        After the final norm as it is; from an inner layer divided by its root mean square, since
        the residual stream's scale differs by orders of magnitude between tokens and layers.
        """
        (layer,) = self.layers
        h = hidden[layer].astype(jnp.float32)
        if layer == self.lm.num_hidden_layers:
            return h
        return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + 1e-6)

    def _score(self, score, params: RewardParams, h: Array, tokens: Array) -> Array:
        """Head in float32 at highest precision, on O(D) per token: only these embeddings."""
        e = self.token_features(params, tokens)
        with jax.default_matmul_precision("highest"):
            return score(params.trainable["head"], h.astype(jnp.float32), e)

    def _embedding(self, params: RewardParams) -> Float[Array, "V D"]:
        if self.transformer is not None:
            return output_embedding(self.transformer, params.frozen["backbone"])
        return params.frozen["embedding"]

    def _weights(self, params: RewardParams) -> PyTree:
        if self.config.lora_rank:
            return lora.beside(
                self.config.lora, params.frozen["backbone"], params.trainable["lora"]
            )
        return {**params.trainable["backbone"], **params.frozen["backbone"]}

    @property
    def _embedding_name(self) -> str:
        """The frozen output embedding; tied (GPT-2), it is the input embedding too."""
        assert self.transformer is not None
        return "embed_tokens" if self.transformer.tie_word_embeddings else "lm_head"


def _shifted(h: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Entry t: what has read x_<t instead of x_<=t; zeros at t = 0."""
    return jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))
