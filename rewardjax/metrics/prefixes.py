"""Prefixes of texts, cut at random places: the rows of a reward matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewardjax.errors import RewardJaxError

PASSES = 8
"""Random passes over the texts before the rest is listed one by one."""


def cut_prefixes(
    texts: Sequence[Sequence[int]], count: int, seed: int, *, name: str = "the texts"
) -> list[tuple[int, ...]]:
    """`count` different prefixes x_<t, each of at least one token and followed by one.

    The texts are taken in random order and each is cut at one uniform place; where there are fewer
    texts than prefixes, they are gone through again. The first prefixes for a larger `count` are
    those for a smaller one, so leading rows of a matrix are a random sample too.

    Args:
        texts: token ids; those of fewer than two tokens have no such prefix.
        count: how many.
        seed: decides order and places.
        name: what the texts are called in the message.

    Raises:
        RewardJaxError: the texts have fewer different prefixes.
    """
    rng = np.random.default_rng(seed)
    usable = [tuple(text) for text in texts if len(text) >= 2]
    found: dict[tuple[int, ...], None] = {}
    for _ in range(PASSES):
        for i in rng.permutation(len(usable)):
            if len(found) == count:
                return list(found)
            found[usable[i][: int(rng.integers(1, len(usable[i])))]] = None
    everything = sorted({text[:end] for text in usable for end in range(1, len(text))})
    if len(everything) < count:
        raise RewardJaxError(
            f"{name} have {len(everything)} different prefixes ({len(usable)} texts of two tokens"
            f" or more); expected at least {count}: give more texts, or lower --num-prefixes"
        )
    for i in rng.permutation(len(everything)):
        if len(found) == count:
            break
        found[everything[i]] = None
    return list(found)
