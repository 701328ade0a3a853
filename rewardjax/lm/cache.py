"""Keys and values of the tokens seen so far, as an explicit pytree.

A cache has `S` slots per row. It knows nothing about which slots are filled: the caller's mask
says which slots a query may look at, so rows of different lengths share one array.

Keys lie [B, K, H, S] and values [B, K, S, H], so that the products of a decoding step (one query,
all slots) read memory in order: attention then takes a third of the time that [B, S, K, H] takes on
two CPU cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rewardjax.lm.config import LMConfig
from rewardjax.sharding import BATCH, constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys [B, K, H, S] and values [B, K, S, H] of every layer.

    Unrolled layers: `keys` and `values` are tuples of L arrays (one buffer per layer is what lets
    XLA update each in place). Scanned layers: single arrays with an axis L in front.
    """

    keys: Any
    values: Any

    @classmethod
    def empty(cls, config: LMConfig, batch: int, capacity: int, dtype: Any) -> KVCache:
        """Zeros with room for `capacity` tokens in each of `batch` rows."""
        front = (batch, config.num_key_value_heads)
        keys, values = (*front, config.head_dim, capacity), (*front, capacity, config.head_dim)
        depth = config.num_hidden_layers

        def zeros(*shape: int) -> Array:
            return constrain(jnp.zeros(shape, dtype), *(None,) * (len(shape) - 4), BATCH, "tensor")

        if config.scan_layers:
            return cls(zeros(depth, *keys), zeros(depth, *values))
        # Separate zeros for every buffer: donation refuses one buffer that is passed twice.
        return cls(
            tuple(zeros(*keys) for _ in range(depth)), tuple(zeros(*values) for _ in range(depth))
        )

    @property
    def stacked(self) -> bool:
        return not isinstance(self.keys, tuple)

    @property
    def batch(self) -> int:
        return self.keys.shape[1] if self.stacked else self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        return self.keys.shape[-1] if self.stacked else self.keys[0].shape[-1]

    def write(
        self,
        layer: int | Int[Array, ""],
        slots: Int[Array, "B T"],
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
    ) -> KVCache:
        """This cache with keys and values of T tokens put into a layer's slots; slots out of range
        are dropped. With unrolled layers `layer` is an int."""
        rows = jnp.arange(slots.shape[0])[:, None]

        def put(old: Array, new: Array, at: tuple) -> Array:
            return old.at[at].set(new.astype(old.dtype), mode="drop")

        at_keys, at_values = (rows, slice(None), slice(None), slots), (rows, slice(None), slots)
        if self.stacked:
            return KVCache(
                put(self.keys, keys, (layer, *at_keys)),
                put(self.values, values, (layer, *at_values)),
            )
        all_keys, all_values = list(self.keys), list(self.values)
        all_keys[layer] = put(all_keys[layer], keys, at_keys)
        all_values[layer] = put(all_values[layer], values, at_values)
        return KVCache(tuple(all_keys), tuple(all_values))

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
        every = slice(None)
        layers = (every,) if self.stacked else ()
        return self._map(
            lambda x, y: x.at[*layers, rows, ..., :slots].set(y.astype(x.dtype), mode="drop"),
            lambda x, y: x.at[*layers, rows, :, :slots].set(y.astype(x.dtype), mode="drop"),
            other,
        )

    def copy_slot(self, source: Int[Array, " B"], target: Int[Array, " B"]) -> KVCache:
        """This cache with each row's slot `source[b]` copied to its slot `target[b]`."""
        every, rows = slice(None), jnp.arange(self.batch)
        front = (every, rows, every) if self.stacked else (rows, every)

        def copied(*between: slice) -> Callable[[Array], Array]:
            def copy(x: Array) -> Array:
                return x.at[*front, *between, target].set(x[*front, *between, source], mode="drop")

            return copy

        return self._map(copied(every), copied())

    def _map(
        self, on_keys: Callable[..., Array], on_values: Callable[..., Array], *others: KVCache
    ) -> KVCache:
        return KVCache(
            jax.tree.map(on_keys, self.keys, *(other.keys for other in others)),
            jax.tree.map(on_values, self.values, *(other.values for other in others)),
        )
