"""NADO's loss of a batch: cross-entropy of the oracle's word, and forward consistency.

The expectation in the latter is over what the LM may put next: the k candidates that the samples
were drawn among, renormalised, or the whole vocabulary. Of that never more than some positions are
in memory at a time, in the gradient too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rewardjax.decoding.guidance import log_probabilities
from rewardjax.lm import unembed
from rewardjax.objectives import forward_consistency, log_expectation, prefix_bce
from rewardjax.rewards import RewardModel, RewardParams
from rewardjax.rewards.next_token import NextTokenModel

from .losses import Inputs, Sizes, Terms
from .nado_settings import NadoObjectiveConfig

SCORES = 2**23
"""scores of the whole vocabulary in memory at a time (32 MiB each of a few arrays)"""


class Beliefs(NamedTuple):
    """Logarithms of what the model says of a text's tokens, and of what might have stood there."""

    log_r: Float[Array, "B T"]
    """log R of each observed token: entry t has read x_<=t"""
    log_not_r: Float[Array, "B T"]
    log_expected: Float[Array, "B T"]
    """log Σ_v p(v) R(v): entry t has read x_<t"""
    log_not_expected: Float[Array, "B T"]


@dataclass(frozen=True)
class NadoLoss:
    """Importance-weighted mean over texts of `objectives.nado`'s two terms."""

    config: NadoObjectiveConfig
    link: str
    """that makes the model's rewards log R"""
    num_candidates: int
    """tokens that the expectation is over; 0: the whole vocabulary"""
    regulariser: ClassVar[str] = "consistency"

    @property
    def prior_weight(self) -> float:
        return self.config.consistency_weight

    @property
    def candidates(self) -> int:
        return 1 + (self.config.consistency_weight > 0) * self.num_candidates

    def __call__(
        self, model: RewardModel, params: RewardParams, inputs: Inputs, keys: Key[Array, "B"]
    ) -> Terms:
        count = jnp.maximum(jnp.sum(inputs.lengths > 0), 1)
        terms = self.of_texts(self.beliefs(model, params, inputs), inputs)
        bce, consistency = (jnp.sum(inputs.weights * values) / count for values in terms)
        return bce, consistency

    def sizes(self, model: RewardModel, inputs: Inputs) -> Sizes:
        texts = jnp.sum(inputs.lengths > 0)
        return texts, texts

    def of_texts(
        self, beliefs: Beliefs, inputs: Inputs
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """Cross-entropy and consistency of each text, unweighted; the latter 0 where it is off."""
        where = (inputs.lengths, inputs.prompt_lengths)
        bce = prefix_bce(
            *beliefs[:2], inputs.labels[:, 0], *where, last_only=self.config.prefixes == "last"
        )
        if self.config.consistency_weight == 0:
            return bce, jnp.zeros_like(bce)
        return bce, forward_consistency(*beliefs[2:], *beliefs[:2], *where)

    def beliefs(self, model: RewardModel, params: RewardParams, inputs: Inputs) -> Beliefs:
        """What the loss is made of; the expectations are those of R where consistency is off."""
        assert isinstance(model, NextTokenModel), "nado_settings.check refuses others"
        tokens, lengths, _, hidden, candidates = inputs[:5]
        h = model.prefix_states(params, tokens, lengths, hidden)
        asked = tokens[..., None]
        if self.config.consistency_weight > 0 and self.num_candidates:
            asked = jnp.concatenate([asked, candidates], axis=-1)
        rewards = model.state_rewards(params, h, asked)[..., 0]
        log_r, log_not_r = log_probabilities(rewards, self.link)
        own = log_r[..., 0], log_not_r[..., 0]
        if self.config.consistency_weight == 0:
            return Beliefs(*own, *own)
        if self.num_candidates:
            logprobs = jax.nn.log_softmax(inputs.logprobs, axis=-1)
            expected = (log_expectation(logprobs, x[..., 1:]) for x in (log_r, log_not_r))
        else:
            expected = _over_vocabulary(model, params, self.link, h, hidden)
        return Beliefs(*own, *expected)


def _over_vocabulary(
    model: NextTokenModel,
    params: RewardParams,
    link: str,
    h: Float[Array, "B T D"],
    hidden: dict[int, Any],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """log E[R] and log E[1 - R] over the whole vocabulary, after every x_<t.

    Args:
      params: with the LM's head in frozen["lm"].
      hidden: with the LM's states after its final norm.
    """
    lm, head = model.lm, params.frozen["lm"]
    dtype = jax.tree.leaves(head)[0].dtype
    states = jnp.pad(hidden[lm.num_hidden_layers][:, :-1], ((0, 0), (1, 0), (0, 0)))

    @jax.checkpoint
    def one(position: tuple[Array, Array]) -> tuple[Array, Array]:
        state, own = position
        logprobs = jax.nn.log_softmax(unembed(lm, head, state.astype(dtype)))
        rows = model.state_rows(params, own[None])[0, :, 0]
        log_r, log_not_r = log_probabilities(rows, link)
        return log_expectation(logprobs, log_r), log_expectation(logprobs, log_not_r)

    flat = tuple(x.reshape(-1, x.shape[-1]) for x in (states, h))
    size = max(1, SCORES // lm.vocab_size)
    found = jax.lax.map(one, flat, batch_size=size)
    return found[0].reshape(h.shape[:2]), found[1].reshape(h.shape[:2])
