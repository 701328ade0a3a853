"""The contract of token-level reward models: pure functions, and nothing else is known.

A *reward model* estimates R[x, v] in R^A, the reward of putting token v after prefix x. The
decoding loop calls `prefill` once, then `candidate_rewards` and `advance` once per token; training
calls `token_rewards`, distillation `position_rewards`. Parameters are two trees from the start:
what trains, and what is frozen (and may alias the base LM's arrays).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig
from rewardjax.rewards.config import Rank, RewardModelConfig

PyTree = Any
Hidden = dict[int, Array]
"""Hidden states of the base LM, layer -> float[B, T, D] (or [B, D] at one decoding step)."""


class RewardParams(NamedTuple):
    """Parameters of a reward model, as two pytrees."""

    trainable: PyTree
    """What the optimizer sees, float32."""
    frozen: PyTree
    """What it never sees: embeddings or a frozen backbone; may alias the base LM's arrays."""


@dataclass(frozen=True)
class RewardModel(ABC):
    """Static (hashable) description of a reward model; every method is pure and jit-able."""

    config: RewardModelConfig
    lm: LMConfig
    """the base LM that is steered"""
    transformer: LMConfig | None = None
    """architecture of the model's own backbone; None on the base LM's hidden states"""
    packed_rows: int | None = None
    """own backbone: texts are read behind each other in so many rows; None: each in its own"""

    first_scored: ClassVar[int] = 0
    """first position of a text that has a score"""
    reads_candidates: ClassVar[bool] = False
    """whether the model runs on the candidate itself, which takes a transformer of its own"""
    takes_rank: ClassVar[Rank] = Rank.NONE
    """what `config.rank` may be"""
    takes_baseline: ClassVar[bool] = False
    """whether `config.baseline` may be false"""
    probability_link: ClassVar[str] = "log_sigmoid"
    """the link that makes its rewards log-probabilities, where they are trained as such (NADO)"""

    @property
    def outputs(self) -> int:
        """A, the number of attributes."""
        return self.config.outputs

    @property
    def rank(self) -> int:
        """r, of a parametrization that takes one."""
        assert self.config.rank is not None, "rewards.build asks for it"
        return self.config.rank

    @property
    def layers(self) -> tuple[int, ...]:
        """The base LM's layers whose hidden states the model wants; () with its own backbone."""
        if self.transformer is not None:
            return ()
        return (resolve_layer(self.config.layer, self.lm.num_hidden_layers),)

    @abstractmethod
    def init(self, key: Array, weights: PyTree) -> RewardParams:
        """Initial parameters from the canonical weights of the LM the model starts from.

        That is the base LM on its hidden states, or the backbone's source (already cut to
        `transformer.num_hidden_layers` layers).
        """

    @abstractmethod
    def freeze(self, weights: PyTree) -> PyTree:
        """The frozen tree alone, from the same weights as `init`: what a saved model lacks."""

    @abstractmethod
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
        """Cache after reading right-padded prompts, with room for what decoding will add."""

    @abstractmethod
    def candidate_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, candidates: Int[Array, "B C"]
    ) -> tuple[Float[Array, "B C A"], PyTree]:
        """Rewards R[x, v] (raw, float32) of the candidates v, and what `advance` needs of them.

        `hidden` maps each of `layers` to float[B, D], the base LM's state at the last token of x.
        """

    def vocabulary_rewards(
        self, params: RewardParams, cache: PyTree, hidden: Hidden, batch: int
    ) -> tuple[Float[Array, "B V A"], PyTree]:
        """`candidate_rewards` of the whole vocabulary, in the order of ids.

        A model that scores tokens by a product with their embeddings overrides it: one product,
        where candidates' embeddings would be gathered for every row.
        """
        ids = jnp.broadcast_to(jnp.arange(self.lm.vocab_size), (batch, self.lm.vocab_size))
        return self.candidate_rewards(params, cache, hidden, ids)

    @property
    def reads_embedding(self) -> bool:
        """Whether R[x, v] = <q(x), e(v)> + b(x), where e is the base LM's output embedding.

        The loop then scores a whole vocabulary by `embedding_queries`, in the product that gives
        the LM's logits. Such a model keeps no cache.
        """
        return False

    def embedding_queries(
        self, params: RewardParams, hidden: Hidden
    ) -> tuple[Float[Array, "B A D"], Float[Array, "B A"]]:
        """q and b (float32) where `reads_embedding`; `hidden` as in `candidate_rewards`."""
        raise TypeError(f"{type(self).__name__} is no product with the LM's output embedding")

    @abstractmethod
    def advance(
        self, params: RewardParams, cache: PyTree, pending: PyTree, chosen: Int[Array, "B"]
    ) -> PyTree:
        """Cache after candidate number `chosen[b]` was appended to row b."""

    @abstractmethod
    def token_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
    ) -> Float[Array, "B T A"]:
        """Rewards (raw, float32) of every observed token: entry t is R[x_<t, x_t].

        Tokens before `first_scored` have no score (their entries are 0 and carry no weight).
        """

    def token_rewards_and_prior(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        random_tokens: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T A"], Float[Array, "B T A"]]:
        """`token_rewards`, and the token-specific part of the reward at unrelated tokens."""
        rewards, deltas = self.position_rewards_and_prior(
            params, tokens, lengths, hidden, tokens[..., None], random_tokens
        )
        return rewards[..., 0, :], deltas

    def position_rewards(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        candidates: Int[Array, "B T C"],
    ) -> Float[Array, "B T C A"]:
        """Rewards (raw, float32) of C tokens at each position: entry t, c is R[x_<t, candidates].

        With `tokens[..., None]` as candidates these are the `token_rewards`. Positions before
        `first_scored` have no score (0), those behind a text's end hold anything.

        This default reads every prefix of its own: slow and obvious, the oracle of the overrides.
        """

        def at(t: Array) -> Array:
            read = jnp.full_like(lengths, t)
            width = candidates.shape[2]
            cache = self.prefill(
                params, tokens, read, hidden, max_new_tokens=0, num_candidates=width
            )
            last = {layer: h[:, jnp.maximum(t - 1, 0)] for layer, h in hidden.items()}
            return self.candidate_rewards(params, cache, last, candidates[:, t])[0]

        scored = jnp.moveaxis(jax.lax.map(at, jnp.arange(tokens.shape[1])), 0, 1)
        return scored.at[:, : self.first_scored].set(0.0)

    def position_rewards_and_prior(
        self,
        params: RewardParams,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, "B"],
        hidden: Hidden,
        candidates: Int[Array, "B T C"],
        random_tokens: Int[Array, "B T"],
    ) -> tuple[Float[Array, "B T C A"], Float[Array, "B T A"]]:
        """`position_rewards`, and the token-specific part of the reward at unrelated tokens."""
        raise RewardJaxError(
            f"parametrization {self.config.parametrization!r} has no prefix baseline to regularise"
            " towards; set objective.prior_weight to 0"
        )

    def merge(self, params: RewardParams) -> tuple[RewardModel, RewardParams]:
        """The same function without adapters: LoRA's products added to the weights they adapt.

        Decoding with the result pays nothing for LoRA. Without LoRA: what was given.
        """
        return self, params

    def rows(
        self,
        params: RewardParams,
        cache: PyTree,
        hidden: Hidden,
        batch: int,
        chunk: int,
    ) -> Float[Array, "B V A"]:
        """Whole rows of the reward matrix: every token of the vocabulary as a candidate.

        Scored `chunk` tokens at a time, so memory is that of `chunk` candidates. The cache must
        have been prefilled with num_candidates >= chunk.
        """
        vocabulary = self.lm.vocab_size
        starts = jnp.arange(0, vocabulary, chunk)

        def score(start: Array) -> Array:
            ids = jnp.minimum(start + jnp.arange(chunk), vocabulary - 1)
            ids = jnp.broadcast_to(ids, (batch, chunk))
            return self.candidate_rewards(params, cache, hidden, ids)[0]

        scored = jax.lax.map(score, starts)  # [V/chunk, B, chunk, A]
        rows = jnp.moveaxis(scored, 0, 1).reshape(batch, -1, self.outputs)
        return rows[:, :vocabulary]


def resolve_layer(layer: int, num_layers: int) -> int:
    """Layer index in 0..num_layers; negative ones count from the end. Raises when out of range."""
    resolved = layer + num_layers + 1 if layer < 0 else layer
    if not 0 <= resolved <= num_layers:
        raise RewardJaxError(
            f"reward_model.layer {layer}: this LM has layers 0 (embeddings) to {num_layers}"
            " (after the final norm), or -1 for the last"
        )
    return resolved
