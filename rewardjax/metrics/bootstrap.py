"""Percentile bootstrap over prompts.

Samples of one prompt are not independent, so the prompt is what is drawn again: a metric is
reduced to one value per prompt first (with a weight where prompts hold different counts).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from rewardjax.errors import RewardJaxError

_CHUNK = 1 << 22  # resampled counts held at a time: 32 MiB of int64
MOST_RESAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over `n` prompts, with the two ends of its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def above(self, other: Interval) -> bool:
        """Whether this interval lies wholly above the other one."""
        return self.low > other.high


def bootstrap_mean(
    values: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Weighted mean Σ w v / Σ w over N prompts, with its percentile bootstrap interval.

    A resample draws N prompts with replacement, which is a multinomial count per prompt; all
    resampled means are then one matrix product. Prompts of weight 0 or value NaN (nothing to
    measure) are left out first. Two metrics of the same prompts and seed see the same resamples.

    Args:
      values: one value per prompt, float.
      weights: one weight ≥ 0 per prompt; None weighs prompts equally.
      resamples: number of resamples.
      level: coverage, between 0 and 1.
      seed: of the generator; equal seeds give equal intervals.

    Returns:
      value, low and high in float64; all NaN, n = 0, when no prompt has anything to measure.

    Raises:
      RewardJaxError: `level` outside (0, 1), too few or too many resamples, a negative seed.
    """
    if not 0.0 < level < 1.0 or not 1 <= resamples <= MOST_RESAMPLES or seed < 0:
        raise RewardJaxError(
            f"bootstrap with level {level}, {resamples} resamples and seed {seed}; expected a "
            f"level between 0 and 1, 1 to {MOST_RESAMPLES} resamples and a seed of at least 0"
        )
    values = np.asarray(values, np.float64)
    mass = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    keep = np.isfinite(values) & (mass > 0)
    values, mass = values[keep], mass[keep]
    n = len(values)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    share = np.full(n, 1.0 / n)
    means = []
    left = resamples
    while left:
        size = min(left, max(1, _CHUNK // n))
        counts = rng.multinomial(n, share, size=size).astype(np.float64)
        means.append((counts @ (mass * values)) / (counts @ mass))
        left -= size
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100.0 - tail])
    value = float(np.sum(mass * values) / np.sum(mass))
    return Interval(value, float(low), float(high), n)


def bootstrap_auc(
    scores: Float[np.ndarray, " N"],
    labels: Bool[np.ndarray, " N"],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve (ties count half) with its percentile bootstrap interval over texts.

    A resample weighs each text by a multinomial count. Texts of one score are taken together, so
    that a resample's area is one weighted sum over the distinct scores. Resamples that draw one
    kind of text only have no area and are left out.

    Returns:
      value, low, high; all NaN where the labels are all equal.
    """
    labels = np.asarray(labels, bool)
    n = len(labels)
    distinct, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)

    def area(weights: np.ndarray) -> float:
        positive = np.bincount(place, weights * labels, len(distinct))
        negative = np.bincount(place, weights * ~labels, len(distinct))
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs else float("nan")

    value = area(np.ones(n))
    if not np.isfinite(value):
        return Interval(value, value, value, n)
    rng = np.random.default_rng(seed)
    share = np.full(n, 1.0 / n)
    areas = [area(rng.multinomial(n, share)) for _ in range(resamples)]
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(areas, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high), n)
