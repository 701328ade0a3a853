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

    With importance weights, of what the LM itself would write: objective, what is minimised, a mean
    over texts; its terms as means over tokens, `bce` (over all prefixes of continuations) and
    `consistency` (KL, over tokens that another one follows); `last_bce`, at the last token;
    `calibration_error`: over all prefixes, the mean distance between R and the share that came out
    satisfied, among prefixes of about the same R. Of the samples as they were drawn: satisfied, the
    mean of C; squared_error, auc … at the last token; the curve over the continuation's length.
    """
    predictions: Predictions = []
    names = ("objective", "texts", "tokens", "followed", "bce", "consistency", "last_bce")
    totals: dict[str, float] = dict.fromkeys(names, 0.0)
    weighted = []
    for batch in batches:
        inputs = inputs_of(batch)
        read = _read(params, inputs, loss=loss, model=model)
        r, bce, consistency, last = (fetch(values) for values in read)
        weights = fetch(inputs.weights)
        real = batch.ids >= 0
        count = batch.lengths - batch.prompt_lengths
        sums = {"bce": bce, "consistency": consistency, "last_bce": last}
        sums |= {"objective": bce + loss.prior_weight * consistency}
        sums |= {"texts": np.ones(len(real)), "tokens": count, "followed": count - 1}
        for name, values in sums.items():
            totals[name] += float((weights * values)[real].sum())
        for row in np.flatnonzero(real):
            start, stop = int(batch.prompt_lengths[row]), int(batch.lengths[row])
            labels = batch.labels[row]
            predictions.append((int(batch.ids[row]), r[row, start:stop, None], labels))
            weighted.append(np.repeat(weights[row], stop - start))
    whole = loss.config.prefixes == "all"
    prefixes = np.concatenate([values[:, 0] for _, values, _ in predictions])
    labels = np.concatenate([np.repeat(y, len(values)) for _, values, y in predictions])
    return {
        "eval/objective": totals["objective"] / totals["texts"],
        "eval/bce": totals["bce"] / totals["tokens" if whole else "texts"],
        "eval/last_bce": totals["last_bce"] / totals["texts"],
        "eval/consistency": totals["consistency"] / (totals["followed"] or 1.0),
        "eval/calibration_error": calibration_error(prefixes, labels, np.concatenate(weighted)),
        "eval/satisfied": float(np.mean([y for _, _, y in predictions])),
        **evaluate(predictions, ("satisfied",)),
    }


def calibration_error(
    probabilities: Float[np.ndarray, "N"],
    labels: Float[np.ndarray, "N"],
    weights: Float[np.ndarray, "N"],
) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015) of ten bins of equal width.

    Args:
      labels: in [0, 1].
      weights: how often each counts.
    """
    bins = np.minimum((BINS * probabilities).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights * (probabilities - labels), BINS)
    return float(np.abs(gaps).sum() / weights.sum())
