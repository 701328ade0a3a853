"""How well predicted rewards agree with labels: squared error, correlations, AUC."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


def squared_error(predicted: Float[np.ndarray, "*N"], labels: Num[np.ndarray, "*N"]) -> float:
    """Mean of (predicted - label)^2 over everything."""
    difference = np.asarray(predicted, np.float64) - np.asarray(labels, np.float64)
    return float(np.mean(np.square(difference)))


def _constant(values: np.ndarray) -> bool:
    return len(values) < 2 or bool(np.all(values == values[0]))


def pearson(predicted: Float[np.ndarray, "N"], labels: Num[np.ndarray, "N"]) -> float:
    """Pearson's linear correlation; NaN where a side is constant."""
    import scipy.stats  # slow to import: at first use

    if _constant(predicted) or _constant(labels):
        return float("nan")
    predicted, labels = np.asarray(predicted, np.float64), np.asarray(labels, np.float64)
    return float(scipy.stats.pearsonr(predicted, labels)[0])  # pyright: ignore


def spearman(predicted: Float[np.ndarray, "N"], labels: Num[np.ndarray, "N"]) -> float:
    """Spearman's rank correlation, ties averaged; NaN where a side is constant."""
    import scipy.stats  # slow to import: at first use

    if _constant(predicted) or _constant(labels):
        return float("nan")
    return float(scipy.stats.spearmanr(predicted, labels)[0])  # pyright: ignore


def auc(predicted: Float[np.ndarray, "N"], labels: Num[np.ndarray, "N"]) -> float:
    """Area under the ROC curve: P(a label-1 text is scored above a label-0 text), ties half.

    NaN where the labels are all equal, or not all 0 or 1.
    """
    import scipy.stats

    if not is_binary(labels):
        return float("nan")
    predicted = np.asarray(predicted, np.float64)  # SciPy sums ranks in this dtype
    positive, negative = predicted[labels == 1], predicted[labels == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    statistic = scipy.stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
    return float(statistic / (len(positive) * len(negative)))


def is_binary(labels: Num[np.ndarray, "*N"]) -> bool:
    """Whether every label is 0 or 1."""
    return bool(np.all((labels == 0) | (labels == 1)))
