"""Requests -> slots of a fixed-shape batch -> finished rows, in the order they came.

Token ids in, token ids out. Prompts are padded to one of a few bucket lengths: each (batch, bucket)
compiles once. When rows finish, their slots take new prompts between two blocks of steps
(continuous batching). What a row draws depends on its own keys alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rewardjax.decoding.guides import Guides
from rewardjax.decoding.loop import Program
from rewardjax.decoding.queue import Numbered, Queue, Request, bucket
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.slots import Row, Slots, StopCheck
from rewardjax.decoding.state import DecodeState

__all__ = ["Request", "Row", "SamplingConfig", "StopCheck", "bucket", "decode_rows", "start_batch"]

PyTree = Any
AHEAD = 8
"""Batches of requests that are read ahead of the rows that are out."""
REFILL = 8
"""Slots are refilled when one in so many is free: reading few prompts at a time wastes a pass."""


def decode_rows(
    program: Program,
    lm_params: PyTree,
    reward_params: PyTree,
    requests: Iterable[Request],
    sampling: SamplingConfig,
    *,
    batch_size: int,
    guides: Guides | None = None,
    stop_check: StopCheck | None = None,
) -> Iterator[Row]:
    """Decodes requests in `batch_size` slots and yields their rows in order.

    Slots without a request are done from the start, so the number of requests compiles nothing.

    Args:
      sampling: the settings of requests that bring none; its max_new_tokens sizes the caches.
      guides: which outputs of the program's reward model steer; by default its first, by clip.
    """
    queue = Queue(requests, AHEAD * batch_size)
    slots = Slots(program, lm_params, reward_params, sampling, batch_size, guides)
    finished: dict[int, Row] = {}
    while (length := queue.oldest()) is not None:
        for number, row in _decode_bucket(slots, queue, length, stop_check):
            finished[number] = row
            while queue.out in finished:
                yield finished.pop(queue.out)
                queue.out += 1


def _decode_bucket(
    slots: Slots, queue: Queue, length: int, stop_check: StopCheck | None
) -> Iterator[tuple[int, Row]]:
    """Rows of requests of one bucket, as they finish, until no such request waits."""
    slots.clear()
    while True:
        free = slots.free()
        if len(free) * REFILL >= len(slots.held):
            slots.fill(free, queue.take(length, len(free)), length)
        if len(slots.free()) == len(slots.held):
            return
        slots.run(stop_check)
        yield from slots.pop_finished()


def start_batch(
    program: Program,
    lm_params: PyTree,
    reward_params: PyTree,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    batch_size: int,
) -> DecodeState:
    """The state of a whole batch before its first step, as `decode_rows` makes it."""
    slots = Slots(program, lm_params, reward_params, sampling, batch_size, None)
    length = bucket(max(len(request.token_ids) for request in requests))
    slots.fill(slots.free(), [Numbered(i, r) for i, r in enumerate(requests)], length)
    assert slots.state is not None
    return slots.state
