"""Candidates from unsteered logits, and one draw per row.

The documented order of decoding: penalties -> candidates by top-k, then top-p, then min-p, on the
**unsteered** logits -> a user's hook -> guidance -> divide by the temperature -> draw (methods.md
§9.4, §9.5). top_k = 1 or temperature = 0 is greedy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

CAPACITIES = (1, 10, 20, 50, 128)
"""Static numbers of candidates; above them the whole vocabulary. k itself is traced.

RAD pays for the capacity, not for k: the field's usual numbers of candidates have one of their own.
"""
BLOCK = 256
"""Probabilities that are summed together before a draw looks at single ones."""


class Candidates(NamedTuple):
    """The tokens that may be drawn: best first, or the whole vocabulary in the order of ids."""

    ids: Int[Array, "B C"]
    logits: Float[Array, "B C"]
    mask: Bool[Array, "B C"]
    """False beyond the row's top-k, outside its nucleus or below its min-p"""


def capacity_for(top_k: int, vocab_size: int) -> int:
    """Smallest static candidate capacity that holds k: one compile serves many k."""
    return next((c for c in CAPACITIES if top_k <= c <= vocab_size), vocab_size)


def select_candidates(
    logits: Float[Array, "B V"],
    capacity: int,
    top_k: Int[Array, "B"],
    top_p: Float[Array, "B"],
    min_p: Float[Array, "B"],
) -> Candidates:
    """Top-k, the nucleus of what top-k left (as Hugging Face's warpers are chained), min-p.

    A candidate stays while the probability of those before it, renormalised over the top-k, is
    below top_p, and where its own is at least min_p times the largest; the best one always stays.
    A capacity of |V| keeps the order of the ids, and sorts only where a row truncates.
    """
    if capacity < logits.shape[1]:
        values, ids = jax.lax.top_k(logits, capacity)
        mask = _kept(values, top_k, top_p)
    else:
        values, ids = logits, jnp.broadcast_to(jnp.arange(capacity), logits.shape)
        truncated = (top_k < capacity) | (top_p < 1)
        mask = jax.lax.cond(
            truncated.any(), _kept_unsorted, lambda z, *_: z > -jnp.inf, logits, top_k, top_p
        )
    mask &= values >= values.max(axis=-1, keepdims=True) + jnp.log(min_p)[:, None]
    return Candidates(ids, values, mask)


def _kept(
    values: Float[Array, "B C"], top_k: Int[Array, "B"], top_p: Float[Array, "B"]
) -> Bool[Array, "B C"]:
    """What stays of candidates that are sorted, best first."""
    place = jnp.arange(values.shape[1])
    mask = (place < top_k[:, None]) & (values > -jnp.inf)
    probabilities = jax.nn.softmax(values, axis=-1, where=mask)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Written out for top_p = 1: `before` rounds to 1 after a token that holds nearly everything.
    whole = top_p[:, None] >= 1.0
    return mask & (whole | (before < top_p[:, None]) | (place == 0))


def _kept_unsorted(logits, top_k, top_p):
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    kept = _kept(jnp.take_along_axis(logits, order, axis=1), top_k, top_p)
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.zeros_like(kept).at[rows, order].set(kept)


def candidate_logprobs(
    scores: Float[Array, "B C"], mask: Bool[Array, "B C"], temperature: Float[Array, "B"]
) -> Float[Array, "B C"]:
    """Log-probabilities of the steered scores over the candidates; -inf elsewhere.

    Temperature 0 (greedy) reports the distribution at temperature 1: the draw does not use it.
    """
    scaled = scores / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    return jax.nn.log_softmax(jnp.where(mask, scaled, -jnp.inf), axis=-1)


def draw(
    keys: Key[Array, "B"],
    ids: Int[Array, "B C"],
    logprobs: Float[Array, "B C"],
    temperature: Float[Array, "B"],
    *,
    in_order: bool = False,
) -> Int[Array, "B"]:
    """Index of one candidate per row, by inverting the distribution at one uniform number.

    Candidates are lined up by id, so the draw depends neither on the candidate capacity nor on the
    rest of the batch. Greedy rows take the most probable candidate.

    Args:
      in_order: the candidates are lined up already (a whole vocabulary).
    """
    uniform = jax.vmap(jax.random.uniform)(keys)
    probabilities = jnp.exp(logprobs)
    if in_order:
        drawn = invert(probabilities, uniform)
    else:
        order = jnp.argsort(ids, axis=-1)
        place = invert(jnp.take_along_axis(probabilities, order, axis=1), uniform)
        drawn = jnp.take_along_axis(order, place[:, None], axis=1)[:, 0]
    greedy = jnp.argmax(logprobs, axis=-1)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)


def invert(probabilities: Float[Array, "B C"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """Index at which the running sum of a row's probabilities first exceeds a share of the total.

    Many are summed in blocks first: a running sum over a vocabulary costs more than the softmax.
    """
    batch, count = probabilities.shape
    blocks = jnp.pad(probabilities, ((0, 0), (0, -count % BLOCK))).reshape(batch, -1, BLOCK)
    sums = blocks.sum(axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    target = (uniform * ends[:, -1])[:, None]

    def first_above(running: Array, values: Array) -> Array:
        # Rounding can carry the count past the last value that may be drawn.
        last = values.shape[1] - 1 - jnp.argmax(values[:, ::-1] > 0, axis=-1)
        return jnp.minimum(jnp.sum(running <= target, axis=-1), last)

    block = first_above(ends, sums)
    before = jnp.take_along_axis(ends - sums, block[:, None], axis=1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + first_above(before + jnp.cumsum(inside, axis=-1), inside)
