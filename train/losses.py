"""What a training step minimises: a reward model, a batch and a key in, one number out.

A loss is a frozen dataclass, so that it is a static argument of the jitted step; `step.py` knows
nothing of labels or teachers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from rewardjax.objectives import (
    cumulative_bce,
    cumulative_mse,
    delta_distillation,
    distillation,
    prior_penalty,
)
from rewardjax.rewards import RewardModel, RewardParams

from .settings import DistillObjectiveConfig, ObjectiveConfig

LOSSES = {"mse": cumulative_mse, "bce": cumulative_bce}
Terms = tuple[Float[Array, ""], Float[Array, ""]]
"""the objective without its regulariser, and that (unweighted; 0 when it is off)"""
Sizes = tuple[Num[Array, ""], Num[Array, ""]]


class Inputs(NamedTuple):
    """Arrays of one batch."""

    tokens: Any
    """int32[B, T], right-padded"""
    lengths: Any
    """int32[B]; 0 for a row that is only padding"""
    labels: Any
    """float32[B, A]"""
    hidden: dict[int, Any]
    """the base LM's states of the layers in `model.layers`, [B, T, D]"""
    candidates: Any = None
    """distillation, NADO: int32[B, T, C]"""
    targets: Any = None
    """distillation: the teacher's raw rewards of them, float32[B, T, C, A]"""
    prompt_lengths: Any = None
    """NADO: int32[B], tokens that are prompt"""
    weights: Any = None
    """NADO: importance weights, float32[B]"""
    logprobs: Any = None
    """NADO: log p of the candidates under the LM, whole vocabulary, float32[B, T, C]"""


@runtime_checkable
class Loss(Protocol):
    """Terms of a batch; each is a mean over the batch's texts or positions, without padding.

    `model` and `inputs` are what the loss is made for: a reward model and `Inputs`, or an LM that
    is fine-tuned and what it reads (`attribute_loss`).
    """

    regulariser: ClassVar[str]
    """what the second term is called in logs"""

    @property
    def prior_weight(self) -> float:
        """Of the second term."""
        ...

    @property
    def candidates(self) -> int:
        """Tokens that are scored at each position, for their gradients."""
        ...

    def __call__(
        self, model: Any, params: RewardParams, inputs: Any, keys: Key[Array, "B"]
    ) -> Terms: ...

    def sizes(self, model: Any, inputs: Any) -> Sizes:
        """How many texts or positions (or what weight of them) each term is a mean of."""
        ...


@dataclass(frozen=True)
class LabelLoss:
    """A cumulative loss against the texts' labels, mean over the texts."""

    config: ObjectiveConfig
    regulariser: ClassVar[str] = "prior"

    @property
    def prior_weight(self) -> float:
        return self.config.prior_weight

    @property
    def candidates(self) -> int:
        return 1 + (self.config.prior_weight > 0) * self.config.num_random_tokens

    def __call__(
        self, model: RewardModel, params: RewardParams, inputs: Inputs, keys: Key[Array, "B"]
    ) -> Terms:
        tokens, lengths, labels, hidden = inputs[:4]
        first = model.first_scored
        prior = jnp.float32(0.0)
        if self.config.prior_weight > 0:

            def score(random_tokens):
                return model.token_rewards_and_prior(params, tokens, lengths, hidden, random_tokens)

            rewards, prior = _with_prior(score, self.config, model, inputs, keys)
        else:
            rewards = model.token_rewards(params, tokens, lengths, hidden)
        values = LOSSES[self.config.name](rewards, labels, lengths, first)
        texts = jnp.where(lengths > 0, values, 0.0)
        return texts.sum() / jnp.maximum(jnp.sum(lengths > 0), 1), prior

    def sizes(self, model: RewardModel, inputs: Inputs) -> Sizes:
        return jnp.sum(inputs.lengths > 0), _scored(inputs.lengths, model.first_scored)


@dataclass(frozen=True)
class TeacherLoss:
    """Squared error against a teacher's rewards, mean over positions, candidates and outputs."""

    config: DistillObjectiveConfig
    first_scored: int
    """first position that both the teacher and the student score"""
    regulariser: ClassVar[str] = "prior"

    @property
    def prior_weight(self) -> float:
        return self.config.prior_weight

    @property
    def candidates(self) -> int:
        random = (self.config.prior_weight > 0) * self.config.num_random_tokens
        return self.config.width + random

    def __call__(
        self, model: RewardModel, params: RewardParams, inputs: Inputs, keys: Key[Array, "B"]
    ) -> Terms:
        prior = jnp.float32(0.0)
        if self.config.prior_weight > 0:

            def score(random_tokens):
                return student_rewards(self.config, model, params, inputs, random_tokens)

            rewards, prior = _with_prior(score, self.config, model, inputs, keys)
        else:
            rewards = student_rewards(self.config, model, params, inputs)
        args = (rewards, inputs.targets, inputs.lengths, self.first_scored)
        if self.config.targets == "delta":
            return delta_distillation(*args, self.config.level_weight), prior
        return distillation(*args), prior

    def sizes(self, model: RewardModel, inputs: Inputs) -> Sizes:
        lengths = inputs.lengths
        return _scored(lengths, self.first_scored), _scored(lengths, model.first_scored)


def student_rewards(
    config: DistillObjectiveConfig,
    model: RewardModel,
    params: RewardParams,
    inputs: Inputs,
    random_tokens: Any = None,
) -> Any:
    """Rewards [B, T, C, A] of the candidates; with random tokens, also what the prior penalises.

    The observed token alone is scored as in training on labels, which for a model that runs on its
    candidates is one plain pass.
    """
    tokens, lengths, _, hidden, candidates = inputs[:5]
    if config.targets == "observed":
        if random_tokens is None:
            return model.token_rewards(params, tokens, lengths, hidden)[:, :, None]
        rewards, deltas = model.token_rewards_and_prior(
            params, tokens, lengths, hidden, random_tokens
        )
        return rewards[:, :, None], deltas
    if random_tokens is None:
        return model.position_rewards(params, tokens, lengths, hidden, candidates)
    return model.position_rewards_and_prior(
        params, tokens, lengths, hidden, candidates, random_tokens
    )


def _scored(lengths: Int[Array, "B"], first: int) -> Int[Array, ""]:
    """Number of positions that a model with this first one scores."""
    return jnp.maximum(lengths - first, 0).sum()


def _with_prior(
    score: Any,
    config: ObjectiveConfig | DistillObjectiveConfig,
    model: RewardModel,
    inputs: Inputs,
    keys: Key[Array, "B"],
) -> tuple[Array, Float[Array, ""]]:
    """Rewards, and the prior penalty: a mean over `num_random_tokens` tokens per position.

    Each row draws by a key of its own: what it draws is the same in a part of the batch.
    """
    shape = model.transformer or model.lm
    size = min(shape.vocab_size, model.lm.vocab_size)
    tokens, lengths, first = inputs.tokens, inputs.lengths, model.first_scored
    count = config.num_random_tokens

    def draw(key: Key[Array, ""]) -> Int[Array, "N T"]:
        return jax.random.randint(key, (count, tokens.shape[1]), 0, size, tokens.dtype)

    drawn = jax.vmap(draw, out_axes=1)(keys)
    if count == 1:
        rewards, deltas = score(drawn[0])
        return rewards, prior_penalty(deltas, lengths, first)
    # Only what depends on the random tokens is computed for each of them: prefixes are read once.
    rewards, deltas = jax.vmap(score, out_axes=(None, 0))(drawn)
    penalties = jax.vmap(prior_penalty, in_axes=(0, None, None))(deltas, lengths, first)
    return rewards, penalties.mean()
