"""dist-n: how many different n-grams a prompt's continuations hold, per word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def distinct_n(continuations: Sequence[str], n: int) -> float:
    """dist-n of one prompt's pooled continuations.

    dist-n = |distinct n-grams| / |words|; words are what stands between spaces, and no n-gram
    runs from one continuation into the next. (The authors' code also counts the empty string
    before a leading space as a word; it is none, and is not counted here.)

    Args:
      continuations: all continuations of one prompt.
      n: length of the n-grams, ≥ 1.

    Returns:
      A number in [0, 1]; NaN when there is no word at all.
    """
    if n < 1:
        raise ValueError(f"n-grams need n ≥ 1, got {n}")
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in continuations:
        words = [word for word in text.split(" ") if word]
        total += len(words)
        seen.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(seen) / total if total else float("nan")


def distinct_by_prompt(
    continuations: Sequence[Sequence[str]], orders: Sequence[int] = (1, 2, 3)
) -> Float[np.ndarray, "N O"]:
    """dist-n of every prompt (rows) for every order (columns), float64."""
    rows = [[distinct_n(texts, n) for n in orders] for texts in continuations]
    return np.asarray(rows, np.float64).reshape(len(rows), len(orders))
