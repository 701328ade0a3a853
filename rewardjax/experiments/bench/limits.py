"""What one decoding step must move and do, from the architecture alone.

Counted per part, since one follows another: weights are read once a step, a KV cache is read up to
the newest token and grows by it, logits are written and read once. Activations, the arithmetic of
norms and the draw are small beside these and left out: no program goes below the floor.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from rewardjax.lm import LMConfig
from rewardjax.lm.params import param_shapes
from rewardjax.rewards import RewardModel

FLOAT = 4
"""Bytes of a number in a head or of a logit: float32, whatever the models' weights are."""


class Work(NamedTuple):
    """What a part of a step must move (bytes) and do (floating-point operations)."""

    bytes: float
    flops: float

    def seconds(self, bandwidth: float, peak: float) -> float:
        """At best, with memory of `bandwidth` bytes/s and products of `peak` FLOP/s."""
        return max(self.bytes / bandwidth, self.flops / peak)


Parts = dict[str, Work]
"""Part of a step → its work."""


def floor(parts: Parts, bandwidth: float, peak: float) -> float:
    """Seconds that a step takes at least: its parts one after the other."""
    return sum(part.seconds(bandwidth, peak) for part in parts.values())


def layers_work(config: LMConfig, itemsize: int, batch: int, keys: float, queries: int = 1) -> Work:
    """All layers and the final norm, for some queries of each row; one token joins the cache.

    Args:
      itemsize: bytes of a weight and of a cached number.
      keys: tokens that a query looks at, itself included.
      queries: of each row. More than one are candidates: each sees what lies before them, which is
        read once for all, and itself; the chosen one's keys and values are kept.
    """
    shapes = param_shapes(config)
    held = {"layers": shapes["layers"], "norm": shapes["norm"]}
    weights = sum(math.prod(x.shape) for x in jax.tree.leaves(held))
    products = sum(math.prod(x.shape) for x in jax.tree.leaves(held) if len(x.shape) == 2)
    seen = 0.0
    for i in range(config.num_hidden_layers):
        window = config.window(i)
        seen += keys if window is None else min(keys, window)
    # The newest key and value are written, those before it read: together as many as are seen.
    cache = 2 * config.num_key_value_heads * config.head_dim * itemsize * batch * seen
    attention = 4 * config.num_attention_heads * config.head_dim * seen
    return Work(itemsize * weights + cache, batch * queries * (2 * products + attention))


def logits_work(config: LMConfig, itemsize: int, batch: int) -> Work:
    """Logits of the whole vocabulary: the embedding read once, the logits written and read."""
    entries = config.vocab_size * config.hidden_size
    moved = itemsize * entries + 2 * FLOAT * batch * config.vocab_size
    return Work(moved, 2.0 * batch * entries)


def arm_head_work(
    config: LMConfig, itemsize: int, batch: int, candidates: int, shared: bool
) -> Work:
    """⟨w, h⟩ + ⟨W h, e(v)⟩ of one output for the candidates v.

    Args:
      config: of the transformer whose states and embeddings the head reads.
      candidates: k; from the whole vocabulary on the embedding is read once for all rows.
      shared: the embedding is the one that the LM's logits are made with, so reading all of it
        costs nothing more: one product [h; W h] Eᵀ.
    """
    d = config.hidden_size
    whole = candidates >= config.vocab_size
    rows = min(batch * candidates, config.vocab_size)
    embeddings = 0 if whole and shared else itemsize * rows * d
    moved = FLOAT * (d * d + d) + embeddings + 2 * FLOAT * batch * candidates
    return Work(moved, 2.0 * batch * (d * d + d + candidates * d))


def step_parts(
    lm: LMConfig,
    reward_model: RewardModel | None,
    itemsize: int,
    batch: int,
    candidates: int,
    length: float,
) -> Parts:
    """One step of guided decoding with ARM or RAD (or of unguided), part by part.

    Args:
      lm: the language model.
      itemsize: bytes of a number in both models' weights and caches.
      batch: B, rows.
      candidates: k.
      length: T, tokens of each row's text, the newest of which the LM reads in this step; a mean
        over steps will do.
    """
    parts = {
        "LM layers": layers_work(lm, itemsize, batch, length),
        "LM logits": logits_work(lm, itemsize, batch),
    }
    if reward_model is None:
        return parts
    own = reward_model.transformer
    if reward_model.reads_candidates:
        assert own is not None
        # BOS, the text, and the candidate itself
        body = layers_work(own, itemsize, batch, length + 2, candidates)
        d = own.hidden_size
        head = Work(FLOAT * (d + 1), 2.0 * batch * candidates * d)
        return parts | {"RM layers": body, "RM head": head}
    if own is not None:  # it reads the token that was drawn: BOS, the text, and that token
        parts["RM layers"] = layers_work(own, itemsize, batch, length + 2)
    head = arm_head_work(own or lm, itemsize, batch, candidates, shared=own is None)
    return parts | {"RM head": head}
