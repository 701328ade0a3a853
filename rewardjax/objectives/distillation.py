"""Distillation: a student reward model matches a teacher's raw rewards (arXiv 2407.04615, §4).

    L = mean over valid positions t, candidates v and outputs a of  (s[t,v,a] - q[t,v,a])^2

s is the student, q the teacher, both without link or clip; the mean is unweighted. The paper takes
the observed token as the only candidate; C > 1 candidates per position are our extension.

Guidance without the clip depends only on differences between the candidates of one prefix, for
what they share cancels in the softmax. So write each side as a level (its mean over the C
candidates) and the deviations from it. The error splits exactly:

    mean (s - q)^2  =  mean ((s - level s) - (q - level q))^2  +  mean (level s - level q)^2

and `delta_distillation` weighs the second term by `level_weight`: 1 is `distillation` itself, 0
leaves the level free. A small weight keeps the level where the clip to [0, 1] expects it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def scored_positions(
    lengths: Int[Array, "B"], max_length: int, first: int = 0
) -> Bool[Array, "B T"]:
    """True for a text's own tokens from position `first` on."""
    t = jnp.arange(max_length)
    return (t >= first) & (t < lengths[:, None])


def _position_mean(
    squares: Float[Array, "B T C A"], lengths: Int[Array, "B"], first: int
) -> Float[Array, ""]:
    """Mean over scored positions, candidates and outputs; 0 where no position is scored."""
    scored = scored_positions(lengths, squares.shape[1], first)
    total = jnp.where(scored, squares.mean(axis=(-2, -1)), 0.0).sum()
    return total / jnp.maximum(scored.sum(), 1)


def distillation(
    student: Float[Array, "B T C A"],
    teacher: Float[Array, "B T C A"],
    lengths: Int[Array, "B"],
    first: int = 0,
) -> Float[Array, ""]:
    """Mean squared error over valid positions, candidates **and** outputs, unweighted.

    Args:
        student, teacher: raw rewards of the same C candidates at every position, float32.
        lengths: real length of each text; padding is left out.
        first: positions before it have no score in one of the two, and no weight here.
    """
    return _position_mean(jnp.square(student - teacher), lengths, first)


def delta_distillation(
    student: Float[Array, "B T C A"],
    teacher: Float[Array, "B T C A"],
    lengths: Int[Array, "B"],
    first: int = 0,
    level_weight: float = 0.1,
) -> Float[Array, ""]:
    """Squared error of the deviations from the candidates' mean, plus `level_weight` times the
    squared error of that mean; arguments as `distillation`, C >= 2."""
    error = student - teacher
    level = error.mean(axis=2, keepdims=True)
    squares = jnp.square(error - level) + level_weight * jnp.square(level)
    return _position_mean(squares, lengths, first)
