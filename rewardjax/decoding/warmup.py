"""Compiles what a job will need before it starts: every bucket, and every size of a refill."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from rewardjax.decoding.guides import Guides
from rewardjax.decoding.loop import Program
from rewardjax.decoding.queue import Numbered, Request, bucket
from rewardjax.decoding.settings import SamplingConfig
from rewardjax.decoding.slots import Slots

PyTree = Any


def buckets(longest: int) -> list[int]:
    """Compiled lengths of prompts of up to `longest` tokens, the shortest first."""
    lengths = [bucket(1)]
    while lengths[-1] < longest:
        lengths.append(bucket(lengths[-1] + 1))
    return lengths


def warm_up(
    program: Program,
    lm_params: PyTree,
    reward_params: PyTree,
    sampling: SamplingConfig,
    batch_size: int,
    guides: Guides,
    *,
    longest: int,
    samples: int = 1,
) -> Iterator[int]:
    """Decodes one token of made-up rows in the shapes that `decode_rows` meets.

    Args:
      longest: tokens of the longest prompt.
      samples: rows of each prompt.

    Yields:
      the length of a bucket, when its programs are compiled.
    """
    one = dataclasses.replace(sampling, max_new_tokens=1, min_new_tokens=0)
    for length in buckets(longest):
        slots = Slots(program, lm_params, reward_params, sampling, batch_size, guides)
        prompts = (number_as_prompt(n, length) for n in itertools.count())
        # `free` of all slots starts a batch, which may be a small one; of fewer it is a refill.
        for size, free in itertools.product(_sizes(batch_size), (batch_size, None)):
            # New prompts are read; then come further samples of the last of them.
            fresh = list(itertools.islice(prompts, -(-size // samples)))
            for rows in ([fresh[i // samples] for i in range(size)], [fresh[-1]] * size):
                new = [Numbered(i, Request(prompt, i, 0, one)) for i, prompt in enumerate(rows)]
                slots.fill(slots.free()[: free or size], new, length)
                slots.run(None)
                list(slots.pop_finished())
        yield length


def number_as_prompt(number: int, length: int) -> list[int]:
    """Prompts that differ, of ids that every vocabulary has: the binary digits of a number."""
    return [number >> bit & 1 for bit in range(length)]


def _sizes(batch_size: int) -> list[int]:
    """Rows that start together, one number for each program: a whole batch, then refills."""
    powers = itertools.takewhile(lambda n: n < batch_size, (1 << i for i in itertools.count()))
    return sorted({batch_size, max(batch_size - 1, 1), *powers}, reverse=True)
