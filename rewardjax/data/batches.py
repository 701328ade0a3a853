"""Tokenised texts → shuffled batches of a few static widths, by seed, resumable (Grain).

Each text goes to the narrowest width that holds it; a batch holds texts of one width, so that the
jitted step compiles once per width and little padding is computed. Every epoch reshuffles texts
and the order of batches, visits each text once, and depends on nothing but the seed. What is left
over at a width fills a smaller batch, padded with rows of length 0 that weigh nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float32, Int, Int32

from rewardjax.data.examples import Examples
from rewardjax.errors import RewardJaxError
from rewardjax.sharding import own_rows

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


class Batch(NamedTuple):
    """One batch of token sequences, right-padded, as NumPy arrays."""

    tokens: Int32[np.ndarray, "B T"]
    lengths: Int32[np.ndarray, "B"]
    """real tokens per row; 0 for a row that is only padding"""
    prompt_lengths: Int32[np.ndarray, "B"]
    """tokens of the row that are prompt: 0 for labelled texts"""
    labels: Float32[np.ndarray, "B A"]
    group: Int32[np.ndarray, "B"]
    """rows that belong together share a number; a labelled text is a group of its own"""
    ids: Int32[np.ndarray, "B"]
    """position of the row's example in the data; -1 for a row that is only padding"""

    def own(self) -> Batch:
        """The rows that this process's devices hold: all, where there is one process."""
        rows = own_rows(len(self.lengths))
        return Batch(*(values[rows] for values in self))


def tokenize(
    examples: Examples,
    tokenizer: Any,
    *,
    context: int,
    shortest: int = 1,
    max_length: int | None = None,
    on_bad_row: str = "stop",
) -> tuple[Examples, list[np.ndarray]]:
    """Token ids of every text: `tokenizer(text)`, nothing added.

    Args:
      context: the most tokens the model takes.
      shortest: texts with fewer tokens have nothing to score; they are left out, and counted in
        `skipped`.
      max_length: cut texts to this many tokens; None: too long a text is a bad row.

    Returns:
      The examples that are left and their token ids, in the same order.

    Raises:
      RewardJaxError: a text longer than the context (file and line), or no text left.
    """
    if max_length is not None and max_length > context:
        raise RewardJaxError(
            f"data.max_length is {max_length}; expected at most the LM's context, {context} tokens"
        )
    encoded = tokenizer(examples.texts)["input_ids"]
    rows: list[int] = []
    tokens: list[np.ndarray] = []
    skipped = list(examples.skipped)
    for i, ids in enumerate(encoded):
        if len(ids) > context and max_length is None:
            reason = f"text of {len(ids)} tokens, longer than the LM's context of {context}"
            if on_bad_row == "stop":
                raise RewardJaxError(
                    f"{examples.ids[i]}: {reason}; shorten it, or set data.max_length to cut texts"
                )
            skipped.append(f"{examples.ids[i]}: {reason}")
        elif len(ids) < shortest:
            skipped.append(f"{examples.ids[i]}: {len(ids)} tokens, too few to score")
        else:
            rows.append(i)
            tokens.append(np.asarray(ids[:max_length], np.int32))
    if not rows:
        raise RewardJaxError(f"no text is left to train on; first reason: {skipped[0]}")
    kept = examples.take(np.asarray(rows))
    return Examples(kept.texts, kept.labels, kept.ids, tuple(skipped)), tokens


def widths_for(lengths: Sequence[int], batch_size: int) -> list[int]:
    """The static widths to use: those of `WIDTHS` that at least one full batch of texts needs.

    Texts of a width with less than a batch move to the next wider one.
    """
    longest = max(lengths)
    ladder = [w for w in WIDTHS if w < longest]
    ladder.append(next((w for w in WIDTHS if w >= longest), longest))
    ordered = np.sort(np.asarray(lengths))
    kept: list[int] = []
    done = 0
    for width in ladder:
        count = int(np.searchsorted(ordered, width, side="right"))
        if count - done >= batch_size or width == ladder[-1]:
            kept.append(width)
            done = count
    return kept


def by_width(
    rows: Int[np.ndarray, "N"],
    tokens: Sequence[np.ndarray],
    batch_size: int,
    by_length: bool = True,
) -> dict[int, np.ndarray]:
    """Width → those of the rows whose texts it holds, in order."""
    lengths = [len(tokens[row]) for row in rows]
    widths = widths_for(lengths, batch_size)
    if not by_length:
        widths = [min(widths[-1], -(-max(lengths) // 8) * 8)]
    places = np.searchsorted(widths, lengths)
    groups = {width: np.asarray(rows)[places == i] for i, width in enumerate(widths)}
    return {width: group for width, group in groups.items() if len(group)}


def make_batch(
    rows: Sequence[int],
    tokens: Sequence[np.ndarray],
    labels: Float32[np.ndarray, "N A"],
    *,
    width: int,
    batch_size: int,
    starts: Int[np.ndarray, "N"] | None = None,
) -> Batch:
    """The given texts as one batch of `batch_size` rows and `width` columns.

    Args:
      starts: tokens of each text that are its prompt; None: of none.
    """
    count = len(rows)
    padded = np.zeros((batch_size, width), np.int32)
    lengths = np.zeros(batch_size, np.int32)
    for b, row in enumerate(rows):
        lengths[b] = len(tokens[row])
        padded[b, : lengths[b]] = tokens[row]
    label = np.zeros((batch_size, labels.shape[1]), np.float32)
    ids = np.full(batch_size, -1, np.int32)
    label[:count], ids[:count] = labels[list(rows)], rows
    prompts = np.zeros(batch_size, np.int32)
    if starts is not None:
        prompts[:count] = starts[list(rows)]
    group = np.arange(batch_size, dtype=np.int32)
    return Batch(padded, lengths, prompts, label, group, ids)


class _Width:
    """Makes the batches of one width (a callable class: Grain wants picklable functions)."""

    def __init__(self, tokens: Any, labels: np.ndarray, **shape: Any) -> None:
        self.tokens, self.labels, self.shape = tokens, labels, shape

    def __call__(self, rows: Sequence[Any]) -> Batch:
        places = [int(row) for row in rows]
        return make_batch(places, self.tokens, self.labels, **self.shape)


def training_batches(
    rows: Int[np.ndarray, "N"],
    tokens: Sequence[np.ndarray],
    labels: Float32[np.ndarray, "M A"],
    *,
    batch_size: int,
    seed: int,
    by_length: bool = True,
    starts: Int[np.ndarray, "M"] | None = None,
) -> tuple[grain.DatasetIterator[Batch], int]:
    """Endless batches of the given rows of the data, and the number of batches in an epoch.

    Args:
      by_length: a batch holds texts of one width; otherwise any texts, all as wide as the widest.
      starts: as in `make_batch`.

    The iterator's `get_state()` is a small JSON value; `set_state` continues from it exactly.
    """
    parts = []
    for width, group in by_width(rows, tokens, batch_size, by_length).items():
        part = grain.MapDataset.source(group).shuffle(seed=(seed + width) % 2**32)  # pyright: ignore
        made = _Width(tokens, labels, width=width, batch_size=batch_size, starts=starts)
        parts.append(part.batch(batch_size, batch_fn=made))
    epoch = grain.MapDataset.concatenate(parts).shuffle(seed=seed % 2**32)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(epoch.repeat().to_iter_dataset(options)), len(epoch)


def ordered_batches(
    rows: Int[np.ndarray, "N"],
    tokens: Sequence[np.ndarray],
    labels: Float32[np.ndarray, "M A"],
    *,
    batch_size: int,
    starts: Int[np.ndarray, "M"] | None = None,
) -> list[Batch]:
    """Each of the given rows once, shortest first: for evaluation. Arguments as in `make_batch`."""
    batches, shape = [], {"batch_size": batch_size, "starts": starts}
    for width, group in by_width(rows, tokens, batch_size).items():
        ordered = sorted(group.tolist(), key=lambda row: (len(tokens[row]), row))
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            batches.append(make_batch(part, tokens, labels, width=width, **shape))
    return batches
