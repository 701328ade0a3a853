"""A reward model's own transformer: prefixes in, hidden states out, with an explicit cache.

A backbone of its own prepends its BOS in training and in decoding, so that the first token of a
text is scored too: text position t is transformer position t + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.lm import KVCache, LMConfig, causal_mask, forward
from rewardjax.rewards import packing

PyTree = Any
QUERIES = 256
"""About how many candidates of a text `score_positions` reads at a time."""


class PrefixCache(NamedTuple):
    """Keys and values of what the backbone has read."""

    kv: KVCache
    lengths: Int[Array, "B"]
    """tokens read per row, the BOS included: the next token's position and slot"""


def bos_id(config: LMConfig) -> int:
    """The id put in front of every text: the BOS, or the EOS where a model has none (GPT-2)."""
    if config.bos_token_id is not None:
        return config.bos_token_id
    return config.eos_token_ids[0] if config.eos_token_ids else 0


def with_bos(config: LMConfig, tokens: Int[Array, "B T"]) -> Int[Array, "B T1"]:
    """Tokens with the BOS in front; lengths grow by one."""
    return jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=bos_id(config))


def encode(
    config: LMConfig,
    weights: PyTree,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    rows: int | None = None,
) -> Float[Array, "B T1 D"]:
    """Final hidden states of BOS + tokens: entry t has read the BOS and the first t tokens.

    Args:
      rows: read the texts packed in so many rows (see `packing`); the same but for rounding.
    """
    tokens = with_bos(config, tokens)
    if rows is not None:
        return packing.encode(config, weights, tokens, lengths, rows)
    top = config.num_hidden_layers
    mask = causal_mask(lengths + 1, tokens.shape[1])
    hidden, _ = forward(config, weights, tokens, _positions(tokens), mask, capture=(top,))
    return hidden[top]


def prefill(
    config: LMConfig,
    weights: PyTree,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    extra: int,
) -> tuple[Float[Array, "B D"], PrefixCache]:
    """Reads BOS + prompts into a cache with `extra` free slots; the state at each last token."""
    tokens = with_bos(config, tokens)
    batch, length = tokens.shape
    dtype = weights["embed_tokens"]["embedding"].dtype
    kv = KVCache.empty(config, batch, length + extra, dtype)
    mask = jnp.pad(causal_mask(lengths + 1, length), ((0, 0), (0, 0), (0, extra)))
    top = config.num_hidden_layers
    hidden, kv = forward(
        config, weights, tokens, _positions(tokens), mask, cache=kv, capture=(top,)
    )
    assert kv is not None
    last = jnp.take_along_axis(hidden[top], lengths[:, None, None], axis=1)[:, 0]
    return last, PrefixCache(kv, lengths + 1)


def append(
    config: LMConfig, weights: PyTree, cache: PrefixCache, token: Int[Array, "B"]
) -> tuple[Float[Array, "B D"], PrefixCache]:
    """Reads one more token per row: its hidden state, and the grown cache."""
    at = cache.lengths[:, None]
    mask = jnp.arange(cache.kv.capacity)[None, None] <= at[..., None]
    top = config.num_hidden_layers
    hidden, kv = forward(config, weights, token[:, None], at, mask, cache=cache.kv, capture=(top,))
    assert kv is not None
    return hidden[top][:, 0], PrefixCache(kv, cache.lengths + 1)


def score_candidates(
    config: LMConfig, weights: PyTree, cache: PrefixCache, candidates: Int[Array, "B C"]
) -> tuple[Float[Array, "B C D"], KVCache]:
    """Reads each candidate as one query over the one shared prefix: it sees the prefix and itself.

    The candidates' keys and values land in the C free slots behind the prefix; `keep` then moves
    the chosen one's to the front. No copy of the prefix is made (methods.md §9.8).
    """
    width = candidates.shape[1]
    slots = cache.lengths[:, None] + jnp.arange(width)
    seen = jnp.arange(cache.kv.capacity)[None, None]
    mask = (seen < cache.lengths[:, None, None]) | (seen == slots[..., None])
    positions = jnp.broadcast_to(cache.lengths[:, None], candidates.shape)
    top = config.num_hidden_layers
    hidden, kv = forward(
        config, weights, candidates, positions, mask, cache=cache.kv, slots=slots, capture=(top,)
    )
    assert kv is not None
    return hidden[top], kv


def keep(cache: PrefixCache, pending: KVCache, chosen: Int[Array, "B"]) -> PrefixCache:
    """The cache after candidate `chosen[b]` of `score_candidates` joined the prefix."""
    kv = pending.copy_slot(cache.lengths + chosen, cache.lengths)
    return PrefixCache(kv, cache.lengths + 1)


def score_positions(
    config: LMConfig,
    weights: PyTree,
    tokens: Int[Array, "B T"],
    candidates: Int[Array, "B T C"],
    head: Callable[[Float[Array, "B N D"]], Float[Array, "B N A"]],
) -> Float[Array, "B T C A"]:
    """Reads C candidates at every position, each as one query: it sees BOS + x_<t and itself.

    The text's keys and values are computed once. The queries of some positions at a time land in
    the slots behind them, so a chunk's queries are a tree's leaves on one trunk. `head` reduces
    each chunk's states at once. Under differentiation a chunk is computed again, not stored.
    """
    batch, time, width = candidates.shape
    per_chunk = max(1, min(time, QUERIES // width))
    chunks = -(-time // per_chunk)
    candidates = jnp.pad(candidates, ((0, 0), (0, chunks * per_chunk - time), (0, 0)))
    trunk = with_bos(config, tokens)[:, :time]  # no candidate comes after the last token
    extra = per_chunk * width
    kv = KVCache.empty(config, batch, time + extra, weights["embed_tokens"]["embedding"].dtype)
    causal = causal_mask(jnp.full(batch, time), time)  # padding stands behind what is read
    mask = jnp.pad(causal, ((0, 0), (0, 0), (0, extra)))
    _, kv = forward(config, weights, trunk, _positions(trunk), mask, cache=kv)
    top = config.num_hidden_layers
    slots = time + jnp.arange(extra)
    seen = jnp.arange(time + extra)

    @jax.checkpoint
    def chunk(start: Int[Array, ""]) -> Float[Array, "B N A"]:
        ids = jax.lax.dynamic_slice_in_dim(candidates, start, per_chunk, 1).reshape(batch, -1)
        at = jnp.repeat(start + jnp.arange(per_chunk), width)  # text position of each query
        mask = (seen <= at[:, None]) | (seen == slots[:, None])
        hidden, _ = forward(
            config,
            weights,
            ids,
            jnp.broadcast_to(at + 1, ids.shape),
            jnp.broadcast_to(mask, (batch, *mask.shape)),
            cache=kv,
            slots=jnp.broadcast_to(slots, ids.shape),
            capture=(top,),
        )
        return head(hidden[top])

    scored = jax.lax.map(chunk, per_chunk * jnp.arange(chunks))  # [chunks, B, per_chunk * C, A]
    scored = jnp.moveaxis(scored, 0, 1).reshape(batch, chunks * per_chunk, width, -1)
    return scored[:, :time]


def as_float32(tree: PyTree) -> PyTree:
    """What trains is float32, whatever the LM was loaded in; no copy of what is already."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _positions(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
