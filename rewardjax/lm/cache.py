"""Keys and values of the tokens seen so far, as an explicit pytree.

A cache has `S` slots per row. It knows nothing about which slots are filled: the caller's mask
says which slots a query may look at, so rows of different lengths share one array.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rewardjax.lm.config import LMConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer.

    Unrolled layers: `keys` and `values` are tuples of L arrays [B, S, K, H] (one buffer per layer
    is what lets XLA update each in place). Scanned layers: single arrays [L, B, S, K, H].
    """

    keys: Any
    values: Any

    @classmethod
    def empty(cls, config: LMConfig, batch: int, capacity: int, dtype: Any) -> KVCache:
        """Zeros with room for `capacity` tokens in each of `batch` rows."""
        shape = (batch, capacity, config.num_key_value_heads, config.head_dim)
        if config.scan_layers:
            shape = (config.num_hidden_layers, *shape)
            return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        layers = range(config.num_hidden_layers)
        # Separate zeros for every buffer: donation refuses one buffer that is passed twice.
        return cls(
            tuple(jnp.zeros(shape, dtype) for _ in layers),
            tuple(jnp.zeros(shape, dtype) for _ in layers),
        )

    @property
    def stacked(self) -> bool:
        return not isinstance(self.keys, tuple)

    @property
    def batch(self) -> int:
        return self.keys.shape[1] if self.stacked else self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        return self.keys.shape[2] if self.stacked else self.keys[0].shape[1]

    def gather(self, rows: Int[Array, " N"]) -> KVCache:
        """Cache whose row i is row `rows[i]` of this one (rows may repeat)."""
        axis = 1 if self.stacked else 0
        return jax.tree.map(lambda x: jnp.take(x, rows, axis=axis, mode="clip"), self)

    def insert(self, rows: Int[Array, " N"], other: KVCache) -> KVCache:
        """This cache with row `rows[i]` replaced by row i of `other`.

        `other` may have less capacity: the slots beyond it keep their old content, which no mask
        lets a query see before it is overwritten. Rows out of range are dropped.
        """
        slots = other.capacity
        if slots > self.capacity:
            raise ValueError(f"cannot insert {slots} slots into a cache of {self.capacity}")
        if self.stacked:
            return jax.tree.map(
                lambda x, y: x.at[:, rows, :slots].set(y.astype(x.dtype), mode="drop"), self, other
            )
        return jax.tree.map(
            lambda x, y: x.at[rows, :slots].set(y.astype(x.dtype), mode="drop"), self, other
        )

    def copy_slot(self, source: Int[Array, " B"], target: Int[Array, " B"]) -> KVCache:
        """This cache with each row's slot `source[b]` copied to its slot `target[b]`."""
        rows = jnp.arange(self.batch)
        if self.stacked:
            return jax.tree.map(
                lambda x: x.at[:, rows, target].set(x[:, rows, source], mode="drop"), self
            )
        return jax.tree.map(lambda x: x.at[rows, target].set(x[rows, source], mode="drop"), self)
