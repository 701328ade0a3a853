"""What is computed once for every token of a list of texts, on disk and memory-mapped.

A folder holds an array per name, one row per token, without padding, and the seconds that making
it took. Its name is a hash of all that the values depend on; it appears under that name only when
it is complete, so an interrupted computation is never taken for a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from rewardjax import progress
from rewardjax.data.batches import Batch, by_width, make_batch
from rewardjax.data.made_once import announce, open_or_make

# Tokens that are scored in one call: enough to fill the machine.
_QUERIES = {"cpu": 4096}
_QUERIES_ACCELERATOR = 65536

Columns = dict[str, tuple[tuple[int, ...], np.dtype]]
"""name → (shape of one token's row, dtype)"""
Block = tuple[int, dict[str, np.ndarray]]
"""a text's number, and per column its tokens' rows [T, ...]"""


@dataclass(frozen=True)
class TokenRows:
    """Memory-mapped arrays [total tokens, ...] of a list of texts."""

    arrays: dict[str, np.ndarray]
    offsets: Int[np.ndarray, "M"]
    """text i owns the rows offsets[i] to offsets[i + 1]; M is the number of texts + 1"""
    directory: Path
    computed: bool
    """False when the folder was there already"""
    seconds: float
    """what computing it took, now or then"""

    def batch(self, name: str, ids: Int[np.ndarray, "B"], width: int) -> Shaped[Any, "B T *row"]:
        """Right-padded rows of the texts `ids`; rows of id -1, and padding, are zeros."""
        flat = self.arrays[name]
        out = np.zeros((len(ids), width, *flat.shape[1:]), flat.dtype)
        for b, i in enumerate(ids):
            if i >= 0:
                start, stop = self.offsets[i], self.offsets[i + 1]
                out[b, : stop - start] = flat[start:stop]
        return out


def load_or_compute(
    root: Path,
    key: str,
    lengths: Int[np.ndarray, "N"],
    columns: Columns,
    compute: Callable[[], Iterator[Block]],
    *,
    what: str,
    flops: float,
) -> TokenRows:
    """The arrays of `root/key`, or those that `compute` yields text by text.

    Args:
      key: hash of everything the values depend on.
      lengths: tokens of each text.
      compute: yields every text once, in any order.
      what: what it is, for the announcement and the progress bar.
      flops: how much work it is, for the announcement.

    Raises:
      RewardJaxError: too little space on the disk.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    directory, total = root / key, int(offsets[-1])

    def make(folder: Path | None) -> None:
        announce(root, size, flops, f"{what} for {total:,} tokens", "use fewer texts or candidates")
        begun = time.perf_counter()
        _write(folder, columns, offsets, compute(), what)
        if folder is not None:
            made = {"what": what, "seconds": time.perf_counter() - begun}
            (folder / "made.json").write_text(json.dumps(made))

    size = total * sum(int(np.prod(row)) * dtype.itemsize for row, dtype in columns.values())
    root.mkdir(parents=True, exist_ok=True)
    found, computed = open_or_make(directory, lambda: _open(directory, columns, total), make)
    return TokenRows(found[0], offsets, directory, computed, found[1])


def _open(
    directory: Path, columns: Columns, total: int
) -> tuple[dict[str, np.ndarray], float] | None:
    """The arrays of a complete folder and the seconds they took, or None."""
    try:
        seconds = float(json.loads((directory / "made.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arrays = {}
    for name, (row, dtype) in columns.items():
        path, shape = directory / f"{name}.bin", (total, *row)
        size = int(np.prod(shape)) * dtype.itemsize
        if not path.is_file() or path.stat().st_size != size:
            return None
        arrays[name] = np.memmap(path, dtype, "r", shape=shape)
    return arrays, seconds


def _write(
    folder: Path | None,
    columns: Columns,
    offsets: np.ndarray,
    blocks: Iterator[Block],
    what: str,
) -> None:
    """Plain writes, not a writable map: a full disk is then an error, not a crash."""
    with contextlib.ExitStack() as stack:
        files = {}
        if folder is not None:
            opened = {name: (folder / f"{name}.bin").open("wb") for name in columns}
            files = {name: stack.enter_context(file) for name, file in opened.items()}
        advance = stack.enter_context(progress.bar(what, int(offsets[-1])))
        for i, rows in blocks:
            for name in files:
                row, dtype = columns[name]
                values = np.ascontiguousarray(rows[name], dtype)
                assert values.shape == (offsets[i + 1] - offsets[i], *row), (name, values.shape)
                files[name].seek(int(offsets[i]) * int(np.prod(row)) * dtype.itemsize)
                files[name].write(values.view(np.uint8).data)
            advance(int(offsets[i + 1] - offsets[i]))
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def all_batches(tokens: Sequence[np.ndarray], queries: int) -> Iterator[Batch]:
    """Every text once, in batches of about as many queries as the machine likes at a time.

    They depend on nothing but the token ids, so that rounding does not either.

    Args:
      queries: tokens scored at each position.
    """
    budget = _QUERIES.get(jax.default_backend(), _QUERIES_ACCELERATOR)
    none = np.zeros((len(tokens), 0), np.float32)
    for width, group in by_width(np.arange(len(tokens)), tokens, 8).items():
        size = max(1, min(len(group), budget // (width * queries)))
        for start in range(0, len(group), size):
            rows = group[start : start + size].tolist()
            yield make_batch(rows, tokens, none, width=width, batch_size=size)


def texts_of(batch: Batch, **arrays: np.ndarray) -> Iterator[Block]:
    """The rows of a batch's arrays [B, T, ...], text by text and without padding."""
    for b, i in enumerate(batch.ids.tolist()):
        if i >= 0:
            length = int(batch.lengths[b])
            yield i, {name: values[b, :length] for name, values in arrays.items()}
