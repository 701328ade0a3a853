"""Held-out agreement of a student with its teacher, over positions, candidates and outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jaxtyping import Float

from rewardjax.data.batches import Batch
from rewardjax.hosts import fetch
from rewardjax.rewards import RewardModel, RewardParams

from .losses import Inputs, student_rewards
from .settings import DistillObjectiveConfig


@functools.partial(jax.jit, static_argnames=("config", "model"))
def _student(params, inputs, *, config, model):
    return student_rewards(config, model, params, inputs)


class _Sums:
    """Running sums, per output, of pairs (student, teacher): enough for errors and correlations.

    float64; both sides are taken relative to the first pair, for numbers of any size.
    """

    def __init__(self) -> None:
        self.count, self.sums, self.origin = 0, np.zeros(0), np.zeros(0)

    def add(self, student: Float[np.ndarray, "N A"], teacher: Float[np.ndarray, "N A"]) -> None:
        s, q = student.astype(np.float64), teacher.astype(np.float64)
        if not self.count:
            self.origin = q[0]
            self.sums = np.zeros((6, q.shape[1]))
        error, s, q = np.square(s - q), s - self.origin, q - self.origin
        self.sums += np.stack([x.sum(axis=0) for x in (error, s, q, s * s, q * q, s * q)])
        self.count += len(q)

    def error(self) -> float:
        """Mean squared difference, over pairs and outputs."""
        return float(self.sums[0].mean() / self.count)

    def r2(self) -> float:
        """1 - squared error / the teacher's variance, mean over outputs; NaN for a constant."""
        with np.errstate(divide="ignore", invalid="ignore"):
            means = self.sums / self.count
            variance = means[4] - means[2] ** 2
            return float(np.mean(np.where(variance > 0, 1 - means[0] / variance, np.nan)))

    def pearson(self) -> float:
        """Linear correlation, mean over outputs; NaN where a side is constant."""
        with np.errstate(divide="ignore", invalid="ignore"):
            _, s, q, ss, qq, sq = self.sums / self.count
            spread = np.sqrt(np.maximum(ss - s * s, 0) * np.maximum(qq - q * q, 0))
            return float(np.mean(np.where(spread > 0, (sq - s * q) / spread, np.nan)))


def compare(
    model: RewardModel,
    params: RewardParams,
    config: DistillObjectiveConfig,
    batches: Iterable[Batch],
    inputs_of: Callable[[Batch], Inputs],
    first: int,
) -> dict[str, float]:
    """Metrics `eval/…` of raw student rewards against raw teacher rewards.

    `distillation_error` (mean squared difference over positions, candidates and outputs),
    `distillation_r2` and `distillation_pearson`. With several candidates the error's two parts,
    `delta_error` and `level_error`, which add up to it, and `delta_pearson`, the correlation of
    the deviations from the candidates' mean. For targets delta `objective`: what is minimised.

    Args:
      first: first position that both score.
    """
    whole, deltas, levels = _Sums(), _Sums(), _Sums()
    for batch in batches:
        inputs = inputs_of(batch)
        rewards = fetch(_student(params, inputs, config=config, model=model))
        t = np.arange(rewards.shape[1])
        scored = (t >= first) & (t < batch.lengths[:, None])
        student, teacher = rewards[scored], fetch(inputs.targets)[scored]  # [N, C, A]
        if not len(teacher):
            continue
        outputs = teacher.shape[2]
        whole.add(student.reshape(-1, outputs), teacher.reshape(-1, outputs))
        if teacher.shape[1] > 1:
            s, q = (x.mean(axis=1, keepdims=True, dtype=np.float64) for x in (student, teacher))
            deltas.add((student - s).reshape(-1, outputs), (teacher - q).reshape(-1, outputs))
            levels.add(s[:, 0], q[:, 0])
    if not whole.count:
        return {}
    result = {
        "eval/distillation_error": whole.error(),
        "eval/distillation_r2": whole.r2(),
        "eval/distillation_pearson": whole.pearson(),
    }
    if deltas.count:
        result |= {
            "eval/delta_error": deltas.error(),
            "eval/level_error": levels.error(),
            "eval/delta_pearson": deltas.pearson(),
        }
    if config.targets == "delta":
        result["eval/objective"] = deltas.error() + config.level_weight * levels.error()
    return result
