"""Held-out evaluation of a NADO: what it makes of prefixes, and whether that fits together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rewardjax.data.batches import Batch
from rewardjax.hosts import fetch
from rewardjax.objectives import prefix_bce
from rewardjax.rewards import RewardModel, RewardParams

from .evaluation import Predictions, evaluate
from .losses import Inputs
from .nado_loss import NadoLoss

BINS = 10


@functools.partial(jax.jit, static_argnames=("loss", "model"))
def _read(params, inputs, *, loss, model):
    beliefs = loss.beliefs(model, params, inputs)
    last = prefix_bce(
        beliefs.log_r,
        beliefs.log_not_r,
        inputs.labels[:, 0],
        inputs.lengths,
        inputs.prompt_lengths,
        last_only=True,
    )
    return jnp.exp(beliefs.log_r), *loss.of_texts(beliefs, inputs), last


def judge_beliefs(
    loss: NadoLoss,
    model: RewardModel,
    params: RewardParams,
    batches: Iterable[Batch],
    inputs_of: Callable[[Batch], Inputs],
) -> dict[str, Any]:
    """Metrics `eval/…` of R on held-out samples.

    objective: what is minimised, a weighted mean over texts; its terms are means over tokens:
    `bce` (over all prefixes of continuations) and `consistency` (KL, over tokens that another one
    follows). `last_bce`, squared_error, auc …: at the last token. `calibration_error`: over all
    prefixes, the mean distance between R and the share that came out satisfied, among prefixes of
    about the same R. satisfied: mean C of the samples. The curve is over the continuation's length.
    """
    predictions: Predictions = []
    totals = {name: 0.0 for name in ("objective", "weight", "bce", "consistency", "last_bce")}
    tokens = followed = 0
    for batch in batches:
        inputs = inputs_of(batch)
        read = _read(params, inputs, loss=loss, model=model)
        r, bce, consistency, last = (fetch(values) for values in read)
        weights = fetch(inputs.weights)
        real = batch.ids >= 0
        objective = bce + loss.prior_weight * consistency
        totals["objective"] += float((weights * objective)[real].sum())
        totals["weight"] += float(weights[real].sum())
        sums = {"bce": bce, "consistency": consistency, "last_bce": last}
        for name, values in sums.items():
            totals[name] += float(values[real].sum())
        for row in np.flatnonzero(real):
            start, stop = int(batch.prompt_lengths[row]), int(batch.lengths[row])
            labels = batch.labels[row]
            predictions.append((int(batch.ids[row]), r[row, start:stop, None], labels))
            tokens, followed = tokens + stop - start, followed + stop - start - 1
    whole = loss.config.prefixes == "all"
    prefixes = np.concatenate([values[:, 0] for _, values, _ in predictions])
    labels = np.concatenate([np.repeat(y, len(values)) for _, values, y in predictions])
    count = len(predictions)
    return {
        "eval/objective": totals["objective"] / totals["weight"],
        "eval/bce": totals["bce"] / (tokens if whole else count),
        "eval/last_bce": totals["last_bce"] / count,
        "eval/consistency": totals["consistency"] / max(followed, 1),
        "eval/calibration_error": calibration_error(prefixes, labels),
        "eval/satisfied": float(np.mean([y for _, _, y in predictions])),
        **evaluate(predictions, ("satisfied",)),
    }


def calibration_error(
    probabilities: Float[np.ndarray, "N"], labels: Float[np.ndarray, "N"]
) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015) of ten bins of equal width.

    Args:
      labels: in [0, 1].
    """
    bins = np.minimum((BINS * probabilities).astype(int), BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, BINS)
    return float(np.abs(gaps).sum() / len(labels))
