"""When a batch does not fit into memory after all: go on with half of it.

What a row draws depends on its own keys alone, so the texts stay the same (numbers may differ in
the last bits of a float32).
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import jax

from rewardjax.decoding.runner import Request, Row
from rewardjax.errors import RewardJaxError

Decode = Callable[[Iterable[Request], int], Iterator[Row]]
"""(requests, rows at once) -> their rows, in the order of the requests: `decode_rows`, bound."""


def decode_halving(decode: Decode, requests: Iterable[Request], batch_size: int) -> Iterator[Row]:
    """`decode(requests, batch_size)`, with half the batch each time the device runs out of memory.

    Goes on from the first row that was not yielded, and says so on standard error. Of the requests
    it keeps those that were asked for and whose rows have not come yet.

    Raises:
        RewardJaxError: out of memory with one row at a time.
    """
    source, waiting = iter(requests), deque[Request]()

    def feed() -> Iterator[Request]:
        for request in source:
            waiting.append(request)
            yield request

    while True:
        try:
            for row in decode(feed(), batch_size):
                waiting.popleft()
                yield row
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if batch_size == 1:
                raise RewardJaxError(
                    f"out of memory with one row at a time ({_reason(error)}); lower"
                    " max_new_tokens or top_k, shorten the prompts, or use bfloat16 or a smaller"
                    " model"
                ) from error
            reason = _reason(error)
        # Only here is the error gone, and with its traceback the arrays of the batch that failed.
        batch_size //= 2
        source = itertools.chain(list(waiting), source)
        waiting.clear()
        print(
            f"rewardjax: {reason}; going on with batch_size {batch_size}",
            file=sys.stderr,
            flush=True,
        )


def _reason(error: Exception) -> str:
    """XLA's first line, such as "Out of memory allocating 4096 bytes."; the rest is a dump."""
    lines = str(error).removeprefix("RESOURCE_EXHAUSTED:").split("\n")
    return lines[0].strip().rstrip(".")
