"""What attribute-controlled fine-tuning minimises, of a batch: the LM's loss, and the KL to q.

    L_LM + λ KL      each Σ_i w_i Σ_t value_it / Σ_i (number of t)        methods.md §7

t runs over a text's predicted tokens: from the second on, or from the first after its prompt. A
text has a weight for each term. The number is that of all texts of the batch, whatever they weigh:
a batch of texts that weigh little moves the LM little.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rewardjax.decoding.guidance import log_probabilities
from rewardjax.lm import LMConfig, lora, read, unembed
from rewardjax.lm.lora import Lora
from rewardjax.objectives.attribute import in_chunks, kl, target, token_nll
from rewardjax.rewards import RewardParams
from rewardjax.rewards.next_token import NextTokenModel

from .losses import Sizes, Terms
from .settings import ComputeConfig

PyTree = Any
CHUNK_LOGITS = 2**24
"""logits in memory at a time: 64 MiB, a few times over"""
LINKS = ("raw", "sigmoid", "log_sigmoid")
"""of a reward model whose log R is known (`log_probabilities`)"""


@dataclass(frozen=True)
class Guide:
    """R of the KL term: a reward model, and what its raw rewards stand for."""

    model: NextTokenModel
    link: str
    """one of `LINKS`"""
    output: int
    invert: bool
    """R is the probability that the attribute is absent"""

    def log_rewards(self, params: RewardParams, h: Float[Array, "N D"]) -> Float[Array, "N V"]:
        """log R of every token after prefixes with states `h` (`prefix_states`)."""
        rows = self.model.state_rows(params, h)[..., self.output]
        return log_probabilities(rows, self.link)[self.invert]


@dataclass(frozen=True)
class Policy:
    """The LM that is fine-tuned, as a step's static argument.

    Its parameters: trainable {"lora": adapters} or {"lm": weights}; frozen {"lm": what adapters
    stand beside, "old": θ_old's output embedding, "reward": the guide's `RewardParams`}.
    """

    lm: LMConfig
    lora: Lora | None
    guide: Guide | None = None

    def weights(self, params: RewardParams) -> PyTree:
        """The LM's weights as `lm.forward` reads them."""
        if self.lora is None:
            return params.trainable["lm"]
        return lora.beside(self.lora, params.frozen["lm"], params.trainable["lora"])

    def merged(self, params: RewardParams) -> PyTree:
        """The LM's canonical weights, adapters added to them."""
        if self.lora is None:
            return params.trainable["lm"]
        return lora.add(self.lora, params.frozen["lm"], params.trainable["lora"])

    def training_form(self, compute: ComputeConfig) -> Policy:
        """The policy as its gradient is computed: the same function, but for rounding."""
        dtype = None if compute.dtype == "float32" else compute.dtype
        return dataclasses.replace(
            self, lm=dataclasses.replace(self.lm, remat=compute.remat, compute_dtype=dtype)
        )


class LMInputs(NamedTuple):
    """Arrays of one batch of texts."""

    tokens: Any
    """int32[B, T], right-padded"""
    lengths: Any
    """int32[B]; 0 for a row that is only padding"""
    positions: Any
    """int32[B, P]: of the tokens that are predicted, then 0: logits exist for no others"""
    weights: Any
    """float32[B, 2]: of the text in L_LM, and in the KL term"""
    old: Any = None
    """θ_old's states after its final norm, [B, T, D]"""
    hidden: Any = None
    """the states that the guide reads: layer → [B, T, D]"""
    samples: Any = None
    """`LMInputs` of as many texts, over whose prefixes the KL term is; None: over these texts'"""


class RowSums(NamedTuple):
    """Sums over the predicted tokens of each row."""

    nll: Float[Array, "B"]
    kl: Float[Array, "B"]
    """KL(q ‖ p_θ); 0 without a guide"""
    closed_form: Float[Array, "B"]
    """E_q[log R] - log Z: the same at θ = θ_old"""


def row_sums(policy: Policy, params: RewardParams, inputs: LMInputs, with_kl: bool) -> RowSums:
    """NLL and, `with_kl`, the KL of every row; logits exist for a few positions at a time."""
    weights, config = policy.weights(params), policy.lm
    lengths = jnp.maximum(inputs.lengths, 1)
    hidden = read(config, weights, inputs.tokens, lengths)[config.num_hidden_layers]
    at = inputs.positions
    before = jnp.maximum(at - 1, 0)  # the state at t - 1 predicts token t
    rows = {
        "hidden": _take(hidden, before).astype(jnp.float32),
        "tokens": jnp.take_along_axis(inputs.tokens, at, axis=1),
    }
    guide = policy.guide
    if with_kl:
        assert guide is not None
        reward = params.frozen["reward"]
        states = guide.model.prefix_states(reward, inputs.tokens, lengths, inputs.hidden)
        rows |= {"old": _take(inputs.old, before), "states": _take(states, at)}

    def of(part: PyTree) -> tuple[Array, ...]:
        logits = unembed(config, weights, part["hidden"])
        nll = token_nll(logits, part["tokens"])
        if not with_kl:
            return nll, jnp.zeros_like(nll), jnp.zeros_like(nll)
        assert guide is not None
        log_r = guide.log_rewards(params.frozen["reward"], part["states"])
        old = unembed(config, params.frozen["old"], part["old"].astype(jnp.float32))
        # A backbone of its own may have more embeddings than the LM: the same tokens, other padding
        found = target(old, log_r[:, : config.vocab_size])
        return nll, kl(found.logits, logits), found.closed_form

    flat = jax.tree.map(lambda x: x.reshape(at.size, *x.shape[2:]), rows)
    found = in_chunks(of, flat, max(1, CHUNK_LOGITS // config.vocab_size))
    return RowSums(*(jnp.where(at > 0, x.reshape(at.shape), 0).sum(1) for x in found))


def _take(values: Float[Array, "B T D"], at: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    return jnp.take_along_axis(values, at[..., None], axis=1)


def counts(inputs: LMInputs) -> Int[Array, "B"]:
    """Number of predicted tokens of each row."""
    return (inputs.positions > 0).sum(axis=1)


def _mean(sums: Float[Array, "B"], weights: Float[Array, "B"], inputs: LMInputs) -> Array:
    return jnp.sum(weights * sums) / jnp.maximum(counts(inputs).sum(), 1)


@dataclass(frozen=True)
class AttributeLoss:
    """L_LM + λ KL; λ = 0 computes no KL."""

    kl_weight: float
    regulariser: ClassVar[str] = "kl"

    @property
    def prior_weight(self) -> float:
        return self.kl_weight

    @property
    def candidates(self) -> int:
        return 1

    def __call__(
        self, model: Policy, params: RewardParams, inputs: LMInputs, keys: Key[Array, "B"]
    ) -> Terms:
        steered, other = self.kl_weight > 0, inputs.samples
        found = row_sums(model, params, inputs, steered and other is None)
        mean = _mean(found.nll, inputs.weights[:, 0], inputs)
        if not steered:
            return mean, jnp.float32(0.0)
        if other is not None:
            found, inputs = row_sums(model, params, other, True), other
        return mean, _mean(found.kl, inputs.weights[:, 1], inputs)

    def sizes(self, model: Policy, inputs: LMInputs) -> Sizes:
        second = inputs if inputs.samples is None else inputs.samples
        return counts(inputs).sum(), counts(second).sum()
