"""One vector per text and layer: the frozen LM's state at the last token, or the mean over a part.

All layers come out of one pass over the texts, so a sweep over them costs no more than one of them.
Kept on disk under a hash of the LM, the token ids and the pooling, like `data.features`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from rewardjax.cache import cache_dir
from rewardjax.data.features import cache_key
from rewardjax.data.hidden import chunk_lengths, chunks, estimate, states_of_texts
from rewardjax.data.made_once import announce, open_or_make

Pooling = Literal["last", "mean"]


def pool(states: Float[np.ndarray, "T D"], start: int, pooling: Pooling) -> Float[np.ndarray, " D"]:
    """The last token's state, or the mean over the tokens from `start` on, float32."""
    if pooling == "last":
        return states[-1].astype(np.float32)
    return states[start:].mean(axis=0, dtype=np.float32)


def pooled_states(
    lm: Any,
    tokens: Sequence[np.ndarray],
    starts: Sequence[int],
    layers: Sequence[int],
    pooling: Pooling,
    *,
    keep: bool = True,
    root: Path | None = None,
) -> Float[np.ndarray, "N L D"]:
    """Vectors of every text at every layer; from the cache if they are there, memory-mapped.

    Args:
      lm: an `rewardjax.lm.LM`.
      tokens: ids of each text, prompt and completion.
      starts: where each completion begins; before the text's end. What comes before is read once
        for the completions that have it in common.
      layers: in the order of the result; 0 = embeddings … L = after the final norm.
      keep: put them into the cache.
      root: where the files lie; default `cache_dir() / "pooled"`.

    Raises:
      RewardJaxError: too little space on the disk.
    """
    shape = (len(tokens), len(layers), lm.config.hidden_size)

    def compute() -> np.ndarray:
        vectors = np.zeros(shape, np.float32)
        for i, states in states_of_texts(lm, tokens, layers, shared=starts):
            for place, layer in enumerate(layers):
                vectors[i, place] = pool(states[layer], starts[i], pooling)
        return vectors

    if not keep:
        return compute()
    root = cache_dir() / "pooled" if root is None else root
    dtype = lm.params["embed_tokens"]["embedding"].dtype
    begin = hashlib.sha256(np.asarray(starts, np.int64).tobytes()).hexdigest()
    identity = f"{lm.fingerprint} {dtype} {pooling} {begin if pooling == 'mean' else ''}"
    directory = root / cache_key(identity, layers, "float32", tokens)
    size = 4 * int(np.prod(shape))

    def open_() -> np.ndarray | None:
        path = directory / "states.bin"
        if not path.is_file() or path.stat().st_size != size:
            return None
        return np.memmap(path, np.float32, "r", shape=shape)

    def make(folder: Path | None) -> None:
        count = int(chunk_lengths(chunks(lm.config, tokens, starts), tokens).sum())
        what = f"States of {len(tokens):,} texts at {len(layers)} layers"
        announce(root, size, estimate(lm.config, count, layers), what, "use fewer texts")
        vectors = compute()
        if folder is not None:
            vectors.tofile(folder / "states.bin")

    root.mkdir(parents=True, exist_ok=True)
    return open_or_make(directory, open_, make)[0]
