"""Held-out evaluation of a reward model: at the last token, and over the length of the prefix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from rewardjax.data.batches import Batch
from rewardjax.hosts import fetch
from rewardjax.metrics import regression
from rewardjax.rewards import RewardModel, RewardParams
from rewardjax.sharding import place_batch

Predictions = list[tuple[int, np.ndarray, np.ndarray]]
"""per text: its row in the data, rewards [T, A] of its tokens (NaN where unscored), labels [A]"""
HiddenOf = Callable[[Batch], dict[int, Any]]


@functools.partial(jax.jit, static_argnames=("model", "sigmoid"))
def _predict(params, tokens, lengths, hidden, *, model, sigmoid):
    rewards = model.token_rewards(params, tokens, lengths, hidden)
    return jax.nn.sigmoid(rewards) if sigmoid else rewards


def predict(
    model: RewardModel,
    params: RewardParams,
    batches: Iterable[Batch],
    hidden_of: HiddenOf,
    *,
    sigmoid: bool,
) -> Predictions:
    """Rewards of every token of every text; with `sigmoid`, rewards are logits."""
    predictions = []
    for batch in batches:
        own = batch.own()
        read = (own.tokens, own.lengths, hidden_of(own))
        read = place_batch(read, len(batch.lengths))
        rewards = _predict(params, *read, model=model, sigmoid=sigmoid)
        values = np.array(fetch(rewards))
        values[:, : model.first_scored] = np.nan
        for row, i in enumerate(batch.ids.tolist()):
            if i >= 0:
                predictions.append((i, values[row, : batch.lengths[row]], batch.labels[row]))
    return predictions


def agreement(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Squared error, Pearson, Spearman, and AUC where labels are binary, of [N, A] arrays.

    Correlations and AUC are means over the A outputs.
    """
    result = {"squared_error": regression.squared_error(predicted, labels)}
    scores = {"pearson": regression.pearson, "spearman": regression.spearman}
    if regression.is_binary(labels):
        scores["auc"] = regression.auc
    for name, score in scores.items():
        outputs = range(labels.shape[1])
        result[name] = float(np.mean([score(predicted[:, a], labels[:, a]) for a in outputs]))
    return result


def evaluate(predictions: Predictions, names: tuple[str, ...]) -> dict[str, Any]:
    """Metrics `eval/…` at each text's last token, and `eval/curve` over the length of the prefix.

    With several outputs each metric is also given for each of them, `eval/<metric>/<output>`.
    The curve has an entry for prefixes of 1, 2, 4, 8 … tokens, over the texts that are that long.
    """
    labels = np.stack([label for _, _, label in predictions])
    last = np.stack([rewards[-1] for _, rewards, _ in predictions])
    result: dict[str, Any] = {f"eval/{k}": v for k, v in agreement(last, labels).items()}
    if len(names) > 1:
        for a, name in enumerate(names):
            values = agreement(last[:, a : a + 1], labels[:, a : a + 1])
            result |= {f"eval/{metric}/{name}": value for metric, value in values.items()}
    curve: dict[str, list[Any]] = {"prefix": [], "texts": []}
    length, longest = 1, max(len(rewards) for _, rewards, _ in predictions)
    while length <= longest:
        rows = [
            (rewards[length - 1], label)
            for _, rewards, label in predictions
            if len(rewards) >= length and not np.isnan(rewards[length - 1]).any()
        ]
        if rows:
            values = agreement(np.stack([r for r, _ in rows]), np.stack([y for _, y in rows]))
            curve["prefix"].append(length)
            curve["texts"].append(len(rows))
            for metric in ("squared_error", "pearson", "spearman"):
                curve.setdefault(metric, []).append(values[metric])
        length *= 2
    result["eval/curve"] = curve
    return result
