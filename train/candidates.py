"""The LM's most probable next tokens at every position of a list of texts, kept on disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.cache import cache_dir
from rewardjax.data import features
from rewardjax.data.features import Features
from rewardjax.data.hidden import estimate, hidden_states
from rewardjax.hosts import fetch
from rewardjax.lm import LM, LMConfig, unembed

from . import token_rows
from .token_rows import Block, Columns, TokenRows, all_batches, texts_of

_VERSION = 1
_CHUNK_LOGITS = 2**24
"""logits in memory at a time: 64 MiB"""


@functools.partial(jax.jit, static_argnames=("config", "k", "include_observed"))
def top_candidates(
    params: Any,
    states: Float[Array, "B T D"],
    tokens: Int[Array, "B T"],
    *,
    config: LMConfig,
    k: int,
    include_observed: bool,
) -> tuple[Int[Array, "B T C"], Float[Array, "B T C"]]:
    """The k most probable tokens after each prefix x_<t, most probable first, and their logits less
    the logarithm of the whole vocabulary's sum: log p.

    With `include_observed` the observed token x_t comes before them and is none of them, so that
    C = k + 1 different tokens are compared. At t = 0 the LM has read nothing and has no opinion:
    all C candidates are the observed token, and log p is 0.

    Args:
      states: the LM's states after its final norm; entry t has read x_<=t.
    """
    table = params["embed_tokens" if config.tie_word_embeddings else "lm_head"]
    dtype = jax.tree.leaves(table)[0].dtype
    count, width = tokens.size, states.shape[-1]
    prefixes = jnp.pad(states[:, :-1], ((0, 0), (1, 0), (0, 0))).reshape(count, width)
    chunk = min(count, max(1, _CHUNK_LOGITS // config.vocab_size))
    padding = -count % chunk
    prefixes = jnp.pad(prefixes, ((0, padding), (0, 0))).reshape(-1, chunk, width)
    observed = jnp.pad(tokens.reshape(count), (0, padding)).reshape(-1, chunk)

    def top(part: tuple[Array, Array]) -> tuple[Array, Array]:
        h, seen = part
        logits = unembed(config, params, h.astype(dtype))
        total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
        own = jnp.take_along_axis(logits, seen[:, None], axis=1)
        if include_observed:
            logits = logits.at[jnp.arange(chunk), seen].set(-jnp.inf)
        values, best = jax.lax.top_k(logits, k)
        best = best.astype(tokens.dtype)
        if include_observed:
            best = jnp.concatenate([seen[:, None], best], axis=1)
            values = jnp.concatenate([own, values], axis=1)
        return best, values - total

    found = jax.lax.map(top, (prefixes, observed))
    best, logprobs = (
        x.reshape(count + padding, -1)[:count].reshape(*tokens.shape, -1) for x in found
    )
    return best.at[:, 0].set(tokens[:, :1]), logprobs.at[:, 0].set(0.0)


def lm_candidates(
    lm: LM,
    tokens: Sequence[np.ndarray],
    k: int,
    *,
    include_observed: bool,
    dtype: str,
    states: Sequence[Features] = (),
    logprobs: bool = False,
) -> TokenRows:
    """`top_candidates` of every text, from the cache if they are there: array `candidates`.

    Args:
      dtype: precision that the LM's states are rounded to beforehand, as cached states are.
      states: cached states of these texts; one that holds the last layer saves the LM's pass.
      logprobs: keep those as well, an array of that name.
    """
    config, top = lm.config, lm.config.num_hidden_layers
    at_hand = next((found for found in states if top in found.layers), None)
    identity = f"{lm.fingerprint} {lm.params['embed_tokens']['embedding'].dtype}"
    described = json.dumps(
        [_VERSION, "candidates", identity, k, include_observed, *["logprobs"] * logprobs]
    )
    columns: Columns = {"candidates": ((k + include_observed,), np.dtype(np.int32))}
    if logprobs:
        columns["logprobs"] = ((k + include_observed,), np.dtype(np.float32))
    key = features.cache_key(described, (top,), dtype, tokens)

    def states_of(batch: Any) -> Any:
        if at_hand is not None:
            return at_hand.batch(batch.ids, batch.tokens.shape[1])[top]
        shape = batch.tokens.shape
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        one = np.ones(shape, np.int32)
        return hidden_states(config, lm.params, batch.tokens, positions, one, (top,), dtype)[top]

    def compute() -> Iterator[Block]:
        for batch in all_batches(tokens, 1):
            found = top_candidates(
                lm.params,
                states_of(batch),
                batch.tokens,
                config=config,
                k=k,
                include_observed=include_observed,
            )
            kept = zip(("candidates", "logprobs"), map(fetch, found), strict=True)
            yield from texts_of(batch, **{name: x for name, x in kept if name in columns})

    total = sum(map(len, tokens))
    flops = 2.0 * total * config.vocab_size * config.hidden_size
    if at_hand is None:
        flops += estimate(config, total, (top,))
    return token_rows.load_or_compute(
        cache_dir() / "targets",
        key,
        np.array([len(ids) for ids in tokens]),
        columns,
        compute,
        what="The LM's candidates",
        flops=flops,
    )
