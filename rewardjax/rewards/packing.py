"""Several texts in a row of a reward model's own transformer, so that it reads little padding.

Only the transformer sees the packed rows: its states come back in the shape of the texts, and heads
and objectives know nothing of it. A mask keeps the texts of a row apart, and positions begin anew
with each.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.lm import LMConfig, forward


def encode(
    config: LMConfig,
    weights: Any,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    rows: int,
) -> Float[Array, "B T D"]:
    """Final hidden states of texts that are read in `rows` rows of T tokens.

    Args:
      tokens: BOS + text, right-padded.
      lengths: of the texts without the BOS; a row of length 0 takes no place and its states mean
        nothing.
      rows: at least `rows_needed`; texts that have no room are not read, and their states wrong.
    """
    width = tokens.shape[1]
    sizes = jnp.where(lengths > 0, lengths + 1, 0)
    places = _first_places(sizes, width)[:, None] + jnp.arange(width)
    read = jnp.arange(width) < sizes[:, None]
    to = jnp.where(read, places, rows * width)  # out of range: dropped

    def packed(values: Int[Array, "B T"]) -> Int[Array, "R T"]:
        empty = jnp.zeros(rows * width, values.dtype)
        return empty.at[to].set(values, mode="drop").reshape(rows, width)

    shape = tokens.shape
    positions = packed(jnp.broadcast_to(jnp.arange(width), shape))
    segments = packed(jnp.broadcast_to(1 + jnp.arange(shape[0])[:, None], shape))
    order = jnp.arange(width)
    mask = (segments[:, :, None] == segments[:, None]) & (order <= order[:, None])
    top = config.num_hidden_layers
    hidden, _ = forward(config, weights, packed(tokens), positions, mask, capture=(top,))
    return hidden[top].reshape(rows * width, -1)[jnp.where(read, places, 0)]


def _first_places(sizes: Int[Array, "B"], width: int) -> Int[Array, "B"]:
    """Where each text begins, row after row: one that does not fit opens the next row."""

    def put(end: Array, size: Array) -> tuple[Array, Array]:
        begin = jnp.where(end % width + size > width, -(-end // width) * width, end)
        return begin + size, begin

    return jax.lax.scan(put, jnp.int32(0), sizes)[1]


def rows_needed(lengths: Int[np.ndarray, "B"], width: int) -> int:
    """Rows that texts of these lengths fill in this order.

    Args:
      width: of a row, the BOS of a text included.
    """
    end = 0
    for size in (int(length) + 1 for length in lengths if length):
        if end % width + size > width:
            end = -(-end // width) * width
        end += size
    return max(1, -(-end // width))
