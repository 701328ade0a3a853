"""Forward passes of the frozen LM over many short texts: several texts share a row.

Rows of one width, filled with whole texts, waste little on padding and need few compiled shapes;
a mask keeps the texts of a row apart. Texts with one beginning, completions of a prompt, may share
it too: it is read once in a row, and all of them see it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax import progress
from rewardjax.hosts import fetch
from rewardjax.lm import LMConfig, forward
from rewardjax.sharding import place_batch

# Tokens in one forward pass: enough to fill the machine.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ACCELERATOR = 32768
_ROW = 64  # tokens in a row that short texts share


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def hidden_states(
    config: LMConfig,
    params: Any,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    layers: tuple[int, ...],
    dtype: str = "float32",
    parents: Int[Array, "B T"] | None = None,
) -> dict[int, Float[Array, "B T D"]]:
    """Hidden states of rows that hold several texts; a token sees its own text up to itself.

    No logits are computed, and no layer above the highest one wanted.

    Args:
      positions: of each token in its own text.
      segments: number of the text in its row that a token belongs to.
      parents: number of the segment before it that a token sees as well.
    """
    order = jnp.arange(tokens.shape[1])
    same = segments[:, :, None] == segments[:, None, :]
    if parents is not None:
        same |= parents[:, :, None] == segments[:, None, :]
    mask = same & (order[None, :] <= order[:, None])
    hidden, _ = forward(config, params, tokens, positions, mask, capture=layers)
    return {layer: hidden[layer].astype(dtype) for layer in layers}


def layer_weights(config: LMConfig) -> int:
    """Weights of a layer's matrix products: a token meets every one once."""
    heads = config.num_attention_heads + config.num_key_value_heads
    attention = 2 * config.hidden_size * config.head_dim * heads
    return attention + (2 + config.mlp_gated) * config.hidden_size * config.intermediate_size


def estimate(config: LMConfig, tokens: int, layers: Sequence[int]) -> float:
    """FLOPs of the hidden states of `tokens` tokens: 2 per weight that a token meets."""
    return 2.0 * tokens * layer_weights(config) * max(layers, default=0)


def machine_flops() -> float:
    """float32 FLOPs per second of a matrix product on this machine, measured in a moment."""
    a = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    start = time.perf_counter()
    for _ in range(3):
        product(a, a).block_until_ready()
    return 3 * 2 * 1024**3 / (time.perf_counter() - start)


def pack(rows: Sequence[int], lengths: np.ndarray, width: int) -> list[list[int]]:
    """Texts → rows of at most `width` tokens, each filled by the longest texts that still fit."""
    by_room: list[list[list[int]]] = [[] for _ in range(width + 1)]
    packed: list[list[int]] = []
    for i in sorted(rows, key=lambda i: (-lengths[i], i)):
        n = int(lengths[i])
        room = next((room for room in range(n, width + 1) if by_room[room]), None)
        if room is None:
            packed.append([])
            room, row = width, packed[-1]
        else:
            row = by_room[room].pop()
        row.append(i)
        by_room[room - n].append(row)
    return packed


def passes(config: LMConfig, lengths: np.ndarray) -> Iterator[tuple[int, int, list[list[int]]]]:
    """Forward passes: (rows, width, texts of each row). Few shapes, little padding.

    Short texts share rows of 64 tokens, so that attention's scores stay a small part of the work;
    longer ones go to rows of 128, 256 …
    """
    budget = _BATCH_TOKENS.get(jax.default_backend(), _BATCH_TOKENS_ACCELERATOR)
    widths = [_ROW]
    while widths[-1] < lengths.max():
        widths.append(2 * widths[-1])
    places = np.searchsorted(widths, lengths)
    for place, width in enumerate(widths):
        group = np.flatnonzero(places == place).tolist()
        texts = pack(group, lengths, width)
        size = min(len(texts), max(1, budget // width))
        for start in range(0, len(texts), size or 1):
            yield size, width, texts[start : start + size]


class Chunk(NamedTuple):
    """Texts that are read side by side after one beginning."""

    shared: int
    """tokens of that beginning"""
    texts: list[int]
    """their numbers"""


def row_width(config: LMConfig, shared: int) -> int:
    """Tokens of a row for texts that share a beginning of so many.

    In a row of w tokens a share P / w goes to the beginning, and a token's scores against the row
    cost 2 w H D_head beside W, its products with a layer's weights: least together near
    w = √(P W / (2 H D_head)).
    """
    scores = 2 * config.num_attention_heads * config.head_dim
    best = math.sqrt(shared * layer_weights(config) / scores)
    best = min(best, _BATCH_TOKENS.get(jax.default_backend(), _BATCH_TOKENS_ACCELERATOR))
    width = _ROW
    while width * math.sqrt(2) < best:
        width *= 2
    return width


def chunks(
    config: LMConfig, tokens: Sequence[np.ndarray], shared: Sequence[int] | None
) -> list[Chunk]:
    """Texts by their beginnings, as many to a chunk as a row holds; without any, each alone."""
    if shared is None:
        return [Chunk(0, [i]) for i in range(len(tokens))]
    groups: dict[bytes, list[int]] = {}
    for i, (ids, count) in enumerate(zip(tokens, shared, strict=True)):
        begin = np.asarray(ids[:count], np.int64).tobytes() or f"alone {i}".encode()
        groups.setdefault(begin, []).append(i)
    own = np.array([len(ids) for ids in tokens]) - np.array(shared)
    found = []
    for texts in groups.values():
        count = shared[texts[0]]
        room = max(row_width(config, count) - count, int(own[texts].max()))
        found += [Chunk(count, some) for some in pack(texts, own, room)]
    return found


def chunk_lengths(found: Sequence[Chunk], tokens: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of each chunk, what its texts share counted once."""
    return np.array([c.shared + sum(len(tokens[i]) - c.shared for i in c.texts) for c in found])


def states_of_texts(
    lm: Any,
    tokens: Sequence[np.ndarray],
    layers: Sequence[int],
    dtype: str = "float32",
    *,
    shared: Sequence[int] | None = None,
) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
    """Every text's number and its states, layer → [T, D], in the order of the passes.

    Args:
      lm: an `rewardjax.lm.LM`.
      tokens: ids of each text, at least one token.
      shared: how many of a text's first tokens are a beginning that others may have too (its
        prompt): the same beginning is read once for as many texts as a row holds.
    """
    found = chunks(lm.config, tokens, shared)
    lengths = chunk_lengths(found, tokens)
    with progress.bar("hidden states", int(lengths.sum())) as advance:
        for size, width, rows in passes(lm.config, lengths):
            inputs, places = _lay_out(
                [[found[c] for c in row] for row in rows], tokens, size, width
            )
            ids, positions, segments, parents = place_batch(tuple(inputs))
            states = hidden_states(
                lm.config, lm.params, ids, positions, segments, tuple(layers), dtype, parents
            )
            values = {layer: fetch(state) for layer, state in states.items()}
            for i, row, begin, own in places:
                yield (
                    i,
                    {
                        layer: np.concatenate([value[row, begin], value[row, own]])
                        for layer, value in values.items()
                    },
                )
            advance(int(sum(lengths[c] for row in rows for c in row)))


def _lay_out(
    rows: list[list[Chunk]], tokens: Sequence[np.ndarray], size: int, width: int
) -> tuple[np.ndarray, list[tuple[int, int, slice, slice]]]:
    """Token ids, positions, segments and parents [4, size, width]; and where each text's shared and
    own tokens are: (text, row, slice, slice)."""
    laid = np.zeros((4, size, width), np.int32)
    places = []
    for row, listed in enumerate(rows):
        start = number = 0
        for chunk in listed:
            begin = slice(start, start + chunk.shared)
            parent = number = number + 1
            parts = [(begin, tokens[chunk.texts[0]][: chunk.shared], 0, parent)]
            start = begin.stop
            for i in chunk.texts:
                ids = tokens[i][chunk.shared :]
                own = slice(start, start + len(ids))
                number += 1
                parts.append((own, ids, chunk.shared, number))
                places.append((i, row, begin, own))
                start = own.stop
            for where, ids, first, segment in parts:
                positions = first + np.arange(len(ids))
                laid[:, row, where] = np.broadcast_arrays(ids, positions, segment, parent)
    return laid, places
