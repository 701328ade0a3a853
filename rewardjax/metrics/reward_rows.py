"""Rows of the reward matrix R[x, v], streamed into a file that a killed run leaves whole.

Memory is that of one batch of rows, whatever the number of prefixes. The file holds float32, one
row per prefix in the order given; a small JSON beside it says how far it has got.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rewardjax.decoding.runner import bucket
from rewardjax.errors import RewardJaxError
from rewardjax.lm import causal_mask, forward
from rewardjax.report.write import write_text
from rewardjax.rewards import RewardModel, RewardParams

PyTree = Any
COLUMNS_AT_ONCE = 4096
"""For models that run on each candidate: a unit of work is so many columns of one batch."""


class Source(NamedTuple):
    """What rows are computed with: a bound reward model and the base LM's weights."""

    model: RewardModel
    params: RewardParams
    lm_params: PyTree


@functools.partial(jax.jit, static_argnames=("model", "output", "chunk"))
def reward_block(
    model: RewardModel,
    lm_params: PyTree,
    params: RewardParams,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    columns: Int[Array, "C"],
    *,
    output: int,
    chunk: int,
) -> Float[Array, "B C"]:
    """R[x_b, columns[c]], raw, of right-padded prefixes; C is a multiple of `chunk`.

    The base LM's hidden states (where the model wants any) and the rewards are one program. Of the
    whole vocabulary in one chunk, embeddings are multiplied as they lie, and not gathered.
    """
    hidden, last = {}, {}
    if model.layers:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = causal_mask(lengths, tokens.shape[1])
        hidden = forward(model.lm, lm_params, tokens, positions, mask, capture=model.layers)[0]
        at = lengths[:, None, None] - 1
        last = {name: jnp.take_along_axis(h, at, axis=1)[:, 0] for name, h in hidden.items()}
    cache = model.prefill(params, tokens, lengths, hidden, max_new_tokens=0, num_candidates=chunk)
    if chunk == model.lm.vocab_size:  # `columns` holds every id, in order
        return model.vocabulary_rewards(params, cache, last, len(tokens))[0][..., output]

    def score(ids: Int[Array, "chunk"]) -> Array:
        ids = jnp.broadcast_to(ids, (tokens.shape[0], chunk))
        return model.candidate_rewards(params, cache, last, ids)[0][..., output]

    scored = jax.lax.map(score, columns.reshape(-1, chunk))  # [C/chunk, B, chunk]
    return jnp.moveaxis(scored, 0, 1).reshape(tokens.shape[0], -1)


class Unit(NamedTuple):
    """One call: some columns of a few prefixes of similar length."""

    rows: list[int]
    columns: slice


def plan(lengths: Sequence[int], columns: int, batch_size: int, at_once: int | None) -> list[Unit]:
    """All units of work, in an order that depends on nothing else: shorter prefixes first."""
    order = sorted(range(len(lengths)), key=lambda i: (bucket(lengths[i]), i))
    groups: dict[int, list[int]] = {}
    for i in order:
        groups.setdefault(bucket(lengths[i]), []).append(i)
    step = min(columns, at_once or columns)
    return [
        Unit(group[start : start + batch_size], slice(left, min(left + step, columns)))
        for group in groups.values()
        for start in range(0, len(group), batch_size)
        for left in range(0, columns, step)
    ]


def write_rows(
    path: Path,
    source: Source,
    prefixes: Sequence[Sequence[int]],
    columns: Int[np.ndarray, "C"],
    *,
    output: int = 0,
    batch_size: int = 8,
    chunk: int = 256,
    identity: str = "",
    resume: bool = False,
    progress: Callable[..., None] = lambda n=1: None,
) -> Float[np.ndarray, "N C"]:
    """Computes the matrix into `path` (float32, N x C) and maps it for reading.

    Args:
        prefixes: token ids of each row, at least one token.
        columns: token ids.
        output: which attribute.
        batch_size, chunk: prefixes and candidates at once: memory and speed only.
        identity: of model and LM; with prefixes, columns and sizes it says whose rows these are.
        resume: go on where an earlier run with the same arguments was stopped.
        progress: called with the number of entries that became known.

    Raises:
        RewardJaxError: the file is another matrix's.
    """
    chunk = min(chunk, len(columns))
    if len(columns) == source.model.lm.vocab_size and not source.model.reads_candidates:
        chunk = len(columns)
    at_once = math.ceil(COLUMNS_AT_ONCE / chunk) * chunk if source.model.reads_candidates else None
    units = plan([len(prefix) for prefix in prefixes], len(columns), batch_size, at_once)
    state_path = path.with_name(path.name + ".json")
    state = {
        "identity": identity,
        "shape": [len(prefixes), len(columns)],
        "output": output,
        "batch_size": batch_size,
        "columns_at_once": at_once,
    }
    done = _done(path, state_path, state) if resume else 0
    shape = (len(prefixes), len(columns))
    mode = "r+" if done else "w+"
    matrix = np.memmap(path, np.float32, mode, shape=shape)
    for unit in units[:done]:
        progress(len(unit.rows) * (unit.columns.stop - unit.columns.start))
    for number, unit in enumerate(units[done:], done + 1):
        values = _compute(source, prefixes, columns, unit, output, batch_size, chunk)
        matrix[unit.rows, unit.columns] = values
        matrix.flush()  # before the count: what is counted is in the file
        write_text(state_path, json.dumps({**state, "done": number}) + "\n")
        progress(values.size)
    return np.memmap(path, np.float32, "r", shape=shape)


def _done(path: Path, state_path: Path, state: dict[str, Any]) -> int:
    """Units that stand in the file already."""
    if not (path.is_file() and state_path.is_file()):
        return 0
    try:
        before = json.loads(state_path.read_text(encoding="utf-8"))
        changed = [name for name in state if before[name] != state[name]]
        done = int(before["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise RewardJaxError(
            f"{str(state_path)!r} is damaged ({error}); pass --overwrite to start over"
        ) from error
    if changed or path.stat().st_size != 4 * math.prod(state["shape"]):
        raise RewardJaxError(
            f"cannot resume: the rows in {str(path)!r} are of another run"
            f" ({', '.join(changed) or 'size'} differs); pass --overwrite to start over"
        )
    return done


def _compute(
    source: Source,
    prefixes: Sequence[Sequence[int]],
    columns: Int[np.ndarray, "C"],
    unit: Unit,
    output: int,
    batch_size: int,
    chunk: int,
) -> Float[np.ndarray, "b c"]:
    """The unit's entries. Rows and columns are filled up, so that few shapes are compiled."""
    rows = [prefixes[i] for i in unit.rows]
    width = bucket(max(map(len, rows)))
    tokens = np.zeros((batch_size, width), np.int32)
    lengths = np.ones(batch_size, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], lengths[i] = row, len(row)
    ids = columns[unit.columns]
    padded = np.resize(ids, math.ceil(len(ids) / chunk) * chunk).astype(np.int32)
    block = reward_block(
        source.model,
        source.lm_params,
        source.params,
        jnp.asarray(tokens),
        jnp.asarray(lengths),
        jnp.asarray(padded),
        output=output,
        chunk=chunk,
    )
    return np.asarray(block)[: len(rows), : len(ids)]
