"""Trade-off curves: an attribute against perplexity, over guidance strengths, and what lies between
two of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class Curve:
    """What was measured at S strengths on the same N prompts, one value per prompt.

    A prompt of weight 0 has nothing to measure at that strength; its value is not looked at.
    """

    attribute: Float[np.ndarray, "S N"]
    perplexity: Float[np.ndarray, "S N"]
    attribute_weights: Float[np.ndarray, "S N"]
    perplexity_weights: Float[np.ndarray, "S N"]

    def means(
        self, counts: Float[np.ndarray, "M N"]
    ) -> tuple[Float[np.ndarray, "M S"], Float[np.ndarray, "M S"]]:
        """Mean attribute and mean log-perplexity axis value of M resamples of the prompts."""

        def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
            values = np.where(weights > 0, values, 0.0)
            return (counts @ (weights * values).T) / (counts @ weights.T)

        perplexity = mean(self.perplexity, self.perplexity_weights)
        return mean(self.attribute, self.attribute_weights), np.log(perplexity)


def area_between(
    curve: Curve, reference: Curve, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean difference in attribute, `curve` − `reference`, at equal perplexity.

    Both curves are joined by straight lines over log-perplexity; the area between them over the
    perplexities that both reach is divided by that range's width. The interval is a percentile
    bootstrap over prompts, the same prompts being drawn for both curves and all strengths.

    Returns:
      NaN, and the resamples' interval as far as there is one, where the curves share no range.

    Raises:
      RewardJaxError: curves over different prompts.
    """
    prompts = curve.attribute.shape[1]
    if reference.attribute.shape[1] != prompts:
        raise RewardJaxError(
            f"curves over {prompts} and {reference.attribute.shape[1]} prompts; expected the same "
            "prompts in both"
        )
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples)
    counts = np.concatenate([np.ones((1, prompts)), counts.astype(np.float64)])
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = (*curve.means(counts), *reference.means(counts))
    areas = np.array([_area(*row) for row in zip(*pairs, strict=True)])
    drawn = areas[1:][np.isfinite(areas[1:])]
    if not len(drawn):
        return Interval(float(areas[0]), float("nan"), float("nan"), prompts)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(drawn, [tail, 100.0 - tail])
    return Interval(float(areas[0]), float(low), float(high), prompts)


def _area(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> float:
    """Mean of a(x) − b(y) over the range that both cover."""
    x, a = _ordered(x, a)
    y, b = _ordered(y, b)
    if not len(x) or not len(y):
        return float("nan")
    low, high = max(x[0], y[0]), min(x[-1], y[-1])
    if not low < high:
        return float("nan")
    # Piecewise linear: exact when every corner of either curve is a node.
    nodes = np.unique(np.clip(np.concatenate([x, y, [low, high]]), low, high))
    difference = np.interp(nodes, x, a) - np.interp(nodes, y, b)
    return float(np.trapezoid(difference, nodes) / (high - low))


def _ordered(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[keep], kind="stable")
    return x[keep][order], y[keep][order]
