"""Requests -> fixed-shape batches -> finished rows, in the order they came.

Token ids in, token ids out. Prompts are padded to one of a few bucket lengths: each (batch, bucket)
compiles once. Distinct prompts are read once, in powers of two (one compile each), for all their
rows of a batch. What a row draws depends on its own keys alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from rewardjax.decoding.loop import Program, prefill, run
from rewardjax.decoding.state import DecodeState, Settings, gather, row_keys
from rewardjax.errors import RewardJaxError
from rewardjax.rewards import RewardParams

PyTree = Any
BLOCK = 32
"""Steps between two looks at the rows from the host."""


class Request(NamedTuple):
    """One row to decode."""

    token_ids: Sequence[int]
    prompt_index: int
    sample_index: int


StopCheck = Callable[[Request, Sequence[int]], int | None]
"""Request, generated ids -> how many to keep when a stop string is complete, else None."""


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample; checked when built."""

    beta: float = 0.0
    """guidance strength: multiplies the reward, larger is stronger"""
    top_k: int = 20
    """candidates per step, from the unsteered logits"""
    top_p: float = 1.0
    """nucleus within the top-k, from the unsteered logits"""
    temperature: float = 1.0
    """divides the steered scores; 0 is greedy"""
    invert: bool = False
    """lower the attribute instead of raising it"""
    max_new_tokens: int = 20
    """longest continuation, in tokens"""
    seed: int = 0
    """with the prompt's index and the sample's number, decides every text"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            fits = isinstance(value, _KINDS[kind]) and isinstance(value, bool) == (kind is bool)
            if not fits:
                _refuse(field.name, repr(value), f"a value of type {kind.__name__}")
        if not 0 <= self.beta <= 1e6:
            _refuse("beta", self.beta, "a number in 0 .. 1e6 (use --invert to lower the attribute)")
        if self.top_k < 1:
            _refuse("top_k", self.top_k, "an integer >= 1 and at most the vocabulary's size")
        if not 0 < self.top_p <= 1:
            _refuse("top_p", self.top_p, "a number in (0, 1]")
        if not (self.temperature == 0 or 1e-6 <= self.temperature <= 1e6):
            _refuse("temperature", self.temperature, "0 (greedy) or a number in 1e-6 .. 1e6")
        if self.max_new_tokens < 1:
            _refuse("max_new_tokens", self.max_new_tokens, "an integer >= 1")
        if not 0 <= self.seed < 2**32:
            _refuse("seed", self.seed, "an integer in 0 .. 2^32 - 1")


_KINDS: dict[type, type] = {bool: bool, int: numbers.Integral, float: numbers.Real}


class Row(NamedTuple):
    """What one request produced; arrays have the row's own length T."""

    request: Request
    token_ids: list[int]
    logprobs: np.ndarray
    base_logprobs: np.ndarray
    kl: np.ndarray
    rewards: np.ndarray
    clipped_share: float
    finish_reason: Literal["eos", "stop", "length"]


def decode_rows(
    program: Program,
    lm_params: PyTree,
    reward_params: RewardParams,
    requests: Iterable[Request],
    sampling: SamplingConfig,
    *,
    batch_size: int,
    stop_check: StopCheck | None = None,
) -> Iterator[Row]:
    """Decodes requests in batches and yields their rows in order.

    A batch that is not full is padded with rows that are done from the start, so the number of
    requests compiles nothing.
    """
    for batch in _batches(requests, batch_size):
        yield from _decode_batch(
            program, lm_params, reward_params, batch, sampling, batch_size, stop_check
        )


def bucket(length: int) -> int:
    """Smallest compiled prompt length that holds `length`: powers of two from 16."""
    return max(16, 1 << (length - 1).bit_length())


def _decode_batch(
    program: Program,
    lm_params: PyTree,
    reward_params: RewardParams,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    batch_size: int,
    stop_check: StopCheck | None,
) -> Iterator[Row]:
    state = start_batch(program, lm_params, reward_params, requests, sampling, batch_size)
    block = min(BLOCK, sampling.max_new_tokens)
    kept: dict[int, int] = {}  # row -> tokens kept, where a stop string was found
    for _ in range(0, sampling.max_new_tokens, block):
        state = run(program, lm_params, reward_params, state, block)
        if stop_check is not None:
            state = _apply_stops(state, requests, stop_check, kept)
        if bool(state.done.all()):
            break
    yield from _rows(program, state, requests, kept)


def start_batch(
    program: Program,
    lm_params: PyTree,
    reward_params: RewardParams,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    batch_size: int,
) -> DecodeState:
    prompts: dict[tuple[int, ...], int] = {}  # distinct prompts: samples of one share its prefill
    rows = np.zeros(batch_size, np.int32)
    for row, request in enumerate(requests):
        rows[row] = prompts.setdefault(tuple(request.token_ids), len(prompts))
    count = min(batch_size, 1 << (len(prompts) - 1).bit_length())
    tokens = np.full((count, bucket(max(map(len, prompts)))), program.pad_id, np.int32)
    lengths = np.ones(count, np.int32)
    for token_ids, place in prompts.items():
        tokens[place, : len(token_ids)] = token_ids
        lengths[place] = len(token_ids)
    read = prefill(
        program,
        lm_params,
        reward_params,
        jnp.asarray(tokens),
        jnp.asarray(lengths),
        row_keys(sampling.seed, jnp.zeros(count, jnp.uint32), jnp.zeros(count, jnp.uint32)),
        _settings(sampling, count),
        done=jnp.zeros(count, bool),
        row_limit=jnp.full(count, sampling.max_new_tokens, jnp.int32),
        max_new_tokens=sampling.max_new_tokens,
    )
    indices = np.zeros((2, batch_size), np.uint32)
    indices[:, : len(requests)] = np.array([request[1:] for request in requests]).T
    return _spread(
        read,
        jnp.asarray(rows),
        row_keys(sampling.seed, jnp.asarray(indices[0]), jnp.asarray(indices[1])),
        jnp.arange(batch_size) >= len(requests),
    )


def _settings(sampling: SamplingConfig, batch: int) -> Settings:
    fill = lambda value, dtype: jnp.full(batch, value, dtype)  # noqa: E731
    return Settings(
        beta=fill(sampling.beta, jnp.float32),
        top_k=fill(sampling.top_k, jnp.int32),
        top_p=fill(sampling.top_p, jnp.float32),
        temperature=fill(sampling.temperature, jnp.float32),
        invert=fill(sampling.invert, jnp.bool_),
    )


@jax.jit
def _spread(
    read: DecodeState, rows: Int[Array, "B"], keys: Key[Array, "B"], done: Bool[Array, "B"]
) -> DecodeState:
    """Rows of a batch from the prompts they continue, each with its own key."""
    return dataclasses.replace(gather(read, rows), keys=keys, done=done)


def _apply_stops(
    state: DecodeState, requests: Sequence[Request], stop_check: StopCheck, kept: dict[int, int]
) -> DecodeState:
    """Marks rows whose text holds a stop string as done; they keep the tokens up to it."""
    tokens, steps = np.asarray(state.tokens), np.asarray(state.row_step)
    for row in range(len(requests)):
        if row not in kept:
            keep = stop_check(requests[row], tokens[row, : steps[row]].tolist())
            if keep is not None:
                kept[row] = keep
    stopped = np.zeros(tokens.shape[0], bool)
    stopped[list(kept)] = True
    return dataclasses.replace(state, done=state.done | stopped)


def _rows(
    program: Program, state: DecodeState, requests: Sequence[Request], kept: dict[int, int]
) -> Iterator[Row]:
    names = ("tokens", "logprobs", "base_logprobs", "kl", "rewards", "clipped", "row_step")
    host = {name: np.asarray(getattr(state, name)) for name in names}
    for row, request in enumerate(requests):
        n = kept.get(row, int(host["row_step"][row]))
        token_ids = host["tokens"][row, :n].tolist()
        ended = bool(token_ids) and token_ids[-1] in program.eos_ids
        reason = "stop" if row in kept else "eos" if ended else "length"
        yield Row(
            request,
            token_ids,
            host["logprobs"][row, :n],
            host["base_logprobs"][row, :n],
            host["kl"][row, :n],
            host["rewards"][row, :n],
            float(host["clipped"][row, :n].mean()),
            reason,
        )


def _batches(requests: Iterable[Request], size: int) -> Iterator[tuple[Request, ...]]:
    """itertools.batched, which Python 3.11 lacks."""
    iterator = iter(requests)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


def _refuse(name: str, value: object, expected: str) -> None:
    raise RewardJaxError(f"{name} is {value}; expected {expected}")
