"""The machine's ceilings, measured: a large matrix product, and memory read end to end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BEST_OF = 3


@dataclass(frozen=True)
class Ceilings:
    """Products and reads ready to be timed; call `measure` as often as wished."""

    products: tuple[Callable[[], Any], ...]
    flops: float
    """of one product"""
    reads: tuple[Callable[[], Any], ...]
    bytes: float
    """of one read"""

    def measure(self) -> tuple[float, float]:
        """(FLOP/s, bytes/s) now: the fastest of a few, over the ways of writing each."""
        peak = self.flops / min(map(_seconds, self.products))
        return peak, self.bytes / min(map(_seconds, self.reads))


def prepare(dtype: str, *, width: int | None = None, megabytes: int | None = None) -> Ceilings:
    """Ceilings of the default device for numbers of one dtype.

    Args:
      width: of the matrices of the product [width, width]².
      megabytes: size of the matrix of the matrix–vector products; larger than every cache.

    On CPU XLA's matrix–vector product uses one thread in some layouts, so both layouts, a sum and,
    in float32, NumPy's product are tried: the ceiling is the fastest.
    """
    cpu = jax.default_backend() == "cpu"
    width = width or (2048 if cpu else 8192)
    megabytes = megabytes or (256 if cpu else 2048)
    a = jnp.ones((width, width), dtype)
    itemsize = a.dtype.itemsize
    columns = 4096
    rows = max(1, megabytes * 2**20 // (columns * itemsize))
    m = jnp.ones((rows, columns), dtype)
    tall, wide = jnp.ones((rows,), dtype), jnp.ones((columns,), dtype)
    matmul, add_up = jax.jit(jnp.matmul), jax.jit(jnp.sum)
    products: list[Callable[[], Any]] = [lambda: matmul(a, a).block_until_ready()]
    reads: list[Callable[[], Any]] = [
        lambda: matmul(m, wide).block_until_ready(),
        lambda: matmul(tall, m).block_until_ready(),
        lambda: add_up(m).block_until_ready(),
    ]
    if cpu and dtype == "float32":
        host_a, host_m, host_wide = np.asarray(a), np.asarray(m), np.asarray(wide)
        products.append(lambda: host_a @ host_a)
        reads.append(lambda: host_m @ host_wide)
    for call in (*products, *reads):
        call()  # compiles
    return Ceilings(tuple(products), 2.0 * width**3, tuple(reads), float(m.nbytes))


def summary(measured: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Median and extremes of what `Ceilings.measure` gave."""
    names = ("flops_per_second", "bytes_per_second")
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in zip(names, map(list, zip(*measured, strict=True)), strict=True)
    }


def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(BEST_OF):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
