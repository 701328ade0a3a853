"""The frozen LM's hidden states, computed once per text and kept on disk, memory-mapped.

A head on the base LM's states needs nothing else of the LM, so epochs after the first cost one
gather. States lie without padding, one row per token, in a file per layer, under the user's cache
directory; the folder's name is a hash of the LM's fingerprint, the layers, the dtype and the
token ids. A folder appears under that name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from rewardjax.cache import cache_dir
from rewardjax.data.hidden import estimate, states_of_texts
from rewardjax.data.made_once import announce, open_or_make
from rewardjax.errors import RewardJaxError
from rewardjax.lm import LMConfig

_VERSION = 2
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Features:
    """Hidden states of a list of texts: layer → memory-mapped array [total tokens, D]."""

    layers: dict[int, np.ndarray]
    offsets: np.ndarray
    """int64[N + 1]: text i owns the rows offsets[i] to offsets[i + 1]"""
    directory: Path
    computed: bool
    """False when the states were found in the cache"""

    def batch(self, ids: Int[np.ndarray, "B"], width: int) -> dict[int, Float[np.ndarray, "B T D"]]:
        """Right-padded states of the texts `ids`; rows of id -1, and padding, are zeros."""
        gathered = {}
        for layer, flat in self.layers.items():
            out = np.zeros((len(ids), width, flat.shape[1]), flat.dtype)
            for b, i in enumerate(ids):
                if i >= 0:
                    start, stop = self.offsets[i], self.offsets[i + 1]
                    out[b, : stop - start] = flat[start:stop]
            gathered[layer] = out
        return gathered


def cache_key(
    identity: str, layers: Sequence[int], dtype: str, tokens: Sequence[np.ndarray]
) -> str:
    """Name of the folder: changes with the LM, the layers, the dtype, any token or the order."""
    digest = hashlib.sha256(json.dumps([_VERSION, identity, list(layers), dtype]).encode())
    digest.update(np.asarray([len(t) for t in tokens], np.int64).tobytes())
    for ids in tokens:
        digest.update(np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()[:32]


def _open(directory: Path, sizes: dict[int, tuple[int, int]], dtype: str) -> dict[int, Any] | None:
    """The memory-mapped layers of a complete folder, or None when it is not complete."""
    layers = {}
    for layer, shape in sizes.items():
        path = directory / f"layer_{layer}.bin"
        size = shape[0] * shape[1] * _DTYPES[dtype].itemsize
        if not path.is_file() or path.stat().st_size != size:
            return None
        layers[layer] = np.memmap(path, _DTYPES[dtype], "r", shape=shape)
    return layers


def load_or_compute(
    lm: Any,
    tokens: Sequence[np.ndarray],
    layers: Sequence[int],
    *,
    dtype: str = "float32",
    root: Path | None = None,
    shared: Sequence[int] | None = None,
) -> Features:
    """The hidden states of every text at `layers`, from the cache if they are there.

    Args:
      lm: an `rewardjax.lm.LM`.
      tokens: token ids of each text, each at least one token.
      layers: 0 = embeddings … L = after the final norm (the logits are one product away).
      dtype: float32 or bfloat16, as stored.
      root: where the folders lie; default `cache_dir() / "features"`.
      shared: as `states_of_texts` takes it, completions of one prompt; changes rounding alone.

    Raises:
      RewardJaxError: unknown dtype, or too little space on the disk.
    """
    if dtype not in _DTYPES:
        raise RewardJaxError(f"features dtype is {dtype!r}; expected float32 or bfloat16")
    layers = sorted(set(layers))
    root = cache_dir() / "features" if root is None else root
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64)
    shape = (int(offsets[-1]), lm.config.hidden_size)
    sizes = dict.fromkeys(layers, shape)
    # The fingerprint is the same for float32 and bfloat16 loads; their states are not.
    identity = f"{lm.fingerprint} {lm.params['embed_tokens']['embedding'].dtype}"
    directory = root / cache_key(identity, layers, dtype, tokens)

    def open_() -> dict[int, np.ndarray] | None:
        return _open(directory, sizes, dtype) if directory.is_dir() else None

    def make(folder: Path | None) -> None:
        _announce(lm.config, shape, layers, dtype, root)
        _compute(lm, tokens, layers, dtype, shared, folder, offsets)

    root.mkdir(parents=True, exist_ok=True)
    found, computed = open_or_make(directory, open_, make)
    return Features(found, offsets, directory, computed)


def _announce(
    config: LMConfig, shape: tuple[int, int], layers: Sequence[int], dtype: str, root: Path
) -> None:
    size = len(layers) * shape[0] * shape[1] * _DTYPES[dtype].itemsize
    what = f"Hidden states of {shape[0]:,} tokens at layers {list(layers)}"
    announce(root, size, estimate(config, shape[0], layers), what, "use fewer texts or bfloat16")


def _compute(
    lm: Any,
    tokens: Sequence[np.ndarray],
    layers: Sequence[int],
    dtype: str,
    shared: Sequence[int] | None,
    folder: Path | None,
    offsets: np.ndarray,
) -> None:
    """Plain writes, not a writable map: a full disk is then an error, not a crash."""
    files = {}
    if folder is not None:
        files = {layer: (folder / f"layer_{layer}.bin").open("wb") for layer in layers}
    try:
        for i, states in states_of_texts(lm, tokens, layers, dtype, shared=shared):
            for layer, file in files.items():
                values = np.ascontiguousarray(states[layer])
                file.seek(int(offsets[i]) * values.shape[1] * values.itemsize)
                file.write(values.view(np.uint8).data)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
