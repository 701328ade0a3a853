"""Requests waiting for a slot, by the length of their prompts."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rewardjax.decoding.settings import SamplingConfig


class Request(NamedTuple):
    """One row to decode."""

    token_ids: Sequence[int]
    prompt_index: int
    sample_index: int
    sampling: SamplingConfig | None = None
    """its own settings, with at most the job's max_new_tokens; unset: the job's"""


class Numbered(NamedTuple):
    """A request and its place in the job."""

    number: int
    request: Request


def bucket(length: int) -> int:
    """Smallest compiled prompt length that holds `length`: powers of two from 16."""
    return max(16, 1 << (length - 1).bit_length())


class Queue:
    """Reads requests ahead of the rows that are out, by at most `ahead`.

    So prompts of one length are decoded together, rows come out in order, and memory does not grow
    with the number of requests.
    """

    def __init__(self, requests: Iterable[Request], ahead: int) -> None:
        self._requests: Iterator[tuple[int, Request]] = enumerate(requests)
        self._ahead = ahead
        self._waiting: dict[int, deque[Numbered]] = {}
        self._read = 0
        self.out = 0
        """rows that are out: the number of the next one"""

    def oldest(self) -> int | None:
        """Bucket of the request that has waited longest; None when there is none left."""
        self._fill()
        first = {length: queue[0].number for length, queue in self._waiting.items() if queue}
        return min(first, key=lambda length: first[length]) if first else None

    def take(self, length: int, count: int) -> list[Numbered]:
        """At most `count` requests of a bucket, in order."""
        self._fill()
        queue = self._waiting.get(length, deque())
        return [queue.popleft() for _ in range(min(count, len(queue)))]

    def _fill(self) -> None:
        room = self.out + self._ahead - self._read
        for number, request in itertools.islice(self._requests, max(room, 0)):
            length = bucket(len(request.token_ids))
            self._waiting.setdefault(length, deque()).append(Numbered(number, request))
            self._read = number + 1
