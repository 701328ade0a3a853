"""Perplexity under a language model, with memory for a few rows of logits only.

Texts are sorted by length and padded to one of a few widths, so that few shapes are compiled;
hidden states are computed for a whole batch, logits for `chunk` positions at a time
(O(chunk · V)), whichever texts they are of: where a vocabulary is large, logits are most of the
work, and a chunk that is not full is work for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.errors import RewardJaxError
from rewardjax.lm.config import LMConfig
from rewardjax.lm.decoder import read, unembed

SHORTEST_BUCKET = 16

TokenIds = Sequence[int] | np.ndarray


@functools.partial(jax.jit, static_argnames="config")
def _hidden(
    config: LMConfig, params: Any, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B T D"]:
    return read(config, params, tokens, lengths)[config.num_hidden_layers]


@functools.partial(jax.jit, static_argnames="config")
def _nll(
    config: LMConfig, params: Any, states: Float[Array, "P D"], targets: Int[Array, " P"]
) -> Float[Array, " P"]:
    """−log p(targets[i]) after the state `states[i]`."""
    logits = unembed(config, params, states)
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def token_nll(
    config: LMConfig,
    params: Any,
    token_ids: Sequence[TokenIds],
    *,
    starts: Sequence[int] | None = None,
    batch_tokens: int = 2048,
    chunk: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[Float[np.ndarray, " _"]]:
    """−log p(x_t | x_<t) of every token from `starts` on.

    Args:
      config, params: as `lm.decoder.forward` takes them; params are arguments of the jitted
        functions, never closed over.
      token_ids: one sequence of ids per text, each at least 1 long.
      starts: first position to score, per text (≥ 1: nothing stands before token 0, so it has
        no probability); None scores from 1 on.
      batch_tokens: padded tokens a forward pass may hold; a longer text runs alone.
      chunk: positions whose logits exist at once.
      progress: called with the number of texts just finished.

    Returns:
      float32 arrays of length max(0, l_i − starts[i]), in nats, in the order of `token_ids`.

    Raises:
      RewardJaxError: an empty text, or one longer than the model's context.
    """
    lengths = [len(ids) for ids in token_ids]
    context = config.max_position_embeddings
    for i, length in enumerate(lengths):
        if not 1 <= length <= context:
            raise RewardJaxError(
                f"text {i} has {length} tokens; expected 1 to {context}, the model's context"
            )
    first = [max(1, start) for start in starts] if starts is not None else [1] * len(lengths)
    found: list[np.ndarray] = []
    read_so_far: list[int] = []
    states, targets = None, np.zeros(0, np.int32)
    for batch, more, wanted in _read(config, params, token_ids, lengths, first, batch_tokens):
        read_so_far += batch
        states = more if states is None else np.concatenate([states, more])
        targets = np.concatenate([targets, wanted])
        while len(targets) >= chunk:
            found.append(np.asarray(_nll(config, params, states[:chunk], targets[:chunk])))
            states, targets = states[chunk:], targets[chunk:]
        if progress is not None:
            progress(len(batch))
    if states is not None and (left := len(targets)):
        pad = _power_of_two(left) - left
        nll = _nll(config, params, np.pad(states, ((0, pad), (0, 0))), np.pad(targets, (0, pad)))
        found.append(np.asarray(nll)[:left])
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(lengths)
    edges = np.cumsum([lengths[i] - first[i] for i in read_so_far])
    if read_so_far:
        for i, part in zip(read_so_far, np.split(np.concatenate(found), edges[:-1]), strict=True):
            out[i] = part
    return out


def _read(
    config: LMConfig,
    params: Any,
    token_ids: Sequence[TokenIds],
    lengths: Sequence[int],
    first: Sequence[int],
    batch_tokens: int,
) -> Iterator[tuple[list[int], Float[np.ndarray, "P D"], Int[np.ndarray, " P"]]]:
    """Batches of texts: their numbers, the states that their scored tokens are predicted from, and
    these tokens."""
    # Longest first: the largest buffers are allocated once, and running out shows at once.
    order = sorted(
        (i for i in range(len(lengths)) if first[i] < lengths[i]), key=lambda i: -lengths[i]
    )
    while order:
        longest = lengths[order[0]]
        wide = max(SHORTEST_BUCKET, _power_of_two(longest))
        # Half steps between powers of two: a short text is then a third padding at the most.
        low, time = (
            (wide // 2, wide * 3 // 4) if longest <= wide * 3 // 4 else (wide * 3 // 4, wide)
        )
        time = min(config.max_position_embeddings, time)
        fits = [i for i in order if lengths[i] > low or wide == SHORTEST_BUCKET]
        rows = min(max(1, batch_tokens // time), _power_of_two(len(fits)))
        batch, order = order[: min(rows, len(fits))], order[min(rows, len(fits)) :]
        tokens = np.zeros((rows, time), np.int32)
        padded = np.ones(rows, np.int32)
        for row, i in enumerate(batch):
            tokens[row, : lengths[i]] = token_ids[i]
            padded[row] = lengths[i]
        hidden = np.asarray(_hidden(config, params, tokens, padded))
        spans = [(row, first[i], lengths[i]) for row, i in enumerate(batch)]
        # The state at t − 1 predicts token t.
        states = np.concatenate([hidden[row, a - 1 : b - 1] for row, a, b in spans])
        yield batch, states, np.concatenate([tokens[row, a:b] for row, a, b in spans])


def continuation_perplexity(
    config: LMConfig,
    params: Any,
    prompt_ids: Sequence[TokenIds],
    full_ids: Sequence[TokenIds],
    *,
    batch_tokens: int = 2048,
    chunk: int = 512,
    progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, " N"]:
    """exp((NLL(prompt + continuation) − NLL(prompt)) / (n_full − n_prompt)) per continuation.

    NLL sums over all tokens but the first, in float64. Where the full ids begin with the prompt's
    (the tokenizer did not merge across the border) the difference is the sum over the
    continuation's tokens, and only those get logits; elsewhere both sums are computed. An empty
    prompt gives exp(NLL / (n − 1)), the perplexity of a whole text.

    Args:
      prompt_ids: ids of the prompt alone, possibly none.
      full_ids: ids of prompt + continuation, each at least 1 long.

    Returns:
      float64[N]; NaN where no token is left to score.

    Raises:
      RewardJaxError: as `token_nll`.
    """
    n = len(full_ids)
    texts: list[TokenIds] = list(full_ids)
    starts = [1] * n
    counts = np.zeros(n, np.int64)
    minus: dict[int, int] = {}  # continuation -> index of its prompt among `texts`
    known: dict[tuple[int, ...], int] = {}
    for i, (prompt, full) in enumerate(zip(prompt_ids, full_ids, strict=True)):
        # The first token of an empty prompt's text is unscored, as if it were the prompt.
        counts[i] = len(full) - max(1, len(prompt))
        if np.array_equal(prompt, full[: len(prompt)]):
            starts[i] = max(1, len(prompt))
        elif len(prompt) > 1:
            key = tuple(int(token) for token in prompt)
            if key not in known:
                known[key] = len(texts)
                texts.append(prompt)
                starts.append(1)
            minus[i] = known[key]
    nll = token_nll(
        config,
        params,
        texts,
        starts=starts,
        batch_tokens=batch_tokens,
        chunk=chunk,
        progress=progress,
    )
    sums = np.array([np.sum(part, dtype=np.float64) for part in nll], np.float64)
    difference = sums[:n].copy()
    for i, j in minus.items():
        difference[i] -= sums[j]
    with np.errstate(over="ignore"):
        return np.where(counts > 0, np.exp(difference / np.maximum(counts, 1)), np.nan)


def drop_large(
    values: Float[np.ndarray, " N"], limit: float = 1e5
) -> tuple[Float[np.ndarray, " N"], int]:
    """Perplexities with those ≥ `limit` replaced by NaN, and how many they were."""
    large = values >= limit
    return np.where(large, np.nan, values), int(large.sum())
