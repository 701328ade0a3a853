import math

import numpy as np
import pytest
import scipy.stats

from rewardjax.metrics import regression


def slow_auc(predicted, labels):
    wins = total = 0.0
    for p, y in zip(predicted, labels, strict=True):
        for q, z in zip(predicted, labels, strict=True):
            if y == 1 and z == 0:
                total += 1
                wins += 1.0 if p > q else 0.5 if p == q else 0.0
    return wins / total


def slow_pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())


@pytest.mark.parametrize("seed", range(4))
def test_against_slow_formulas(seed):
    rng = np.random.default_rng(seed)
    predicted = np.round(rng.normal(size=40), 1).astype(np.float32)  # with ties
    labels = rng.integers(0, 2, 40).astype(np.float32)
    ratings = np.round(rng.random(40), 1)
    assert regression.auc(predicted, labels) == pytest.approx(slow_auc(predicted, labels))
    exact = slow_pearson(predicted.astype(float), ratings)
    assert regression.pearson(predicted, ratings) == pytest.approx(exact, rel=1e-9)
    ranks = [scipy.stats.rankdata(v) for v in (predicted, ratings)]
    assert regression.spearman(predicted, ratings) == pytest.approx(slow_pearson(*ranks))
    error = sum((float(p) - r) ** 2 for p, r in zip(predicted, ratings, strict=True)) / 40
    assert regression.squared_error(predicted, ratings) == pytest.approx(error)


def test_known_values():
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    assert regression.auc(np.array([0.1, 0.4, 0.35, 0.8]), labels) == 0.75
    assert regression.auc(np.zeros(4), labels) == 0.5
    assert regression.pearson(2 * labels - 1, labels) == pytest.approx(1.0)
    assert regression.spearman(-np.exp(labels), labels) == pytest.approx(-1.0)


@pytest.mark.filterwarnings("error")
def test_auc_of_many_float32_scores():
    """As many as a text file has tokens, all tied as those of a head that starts at 0: ranks that
    are summed in float32 lose digits, and SciPy warns of the root of a negative variance."""
    labels = (np.arange(200_000) % 3 == 0).astype(np.float32)
    assert regression.auc(np.zeros(200_000, np.float32), labels) == 0.5
    predicted = np.arange(200_000).astype(np.float32)  # each 1 stands above the 0s before it
    zeros_before = np.cumsum(1 - labels, dtype=np.float64)[labels == 1]
    exact = zeros_before.mean() / (1 - labels).sum(dtype=np.float64)
    assert regression.auc(predicted, labels) == pytest.approx(exact, rel=1e-12)


def test_undefined_is_nan():
    flat, labels = np.ones(4), np.array([0.0, 1.0, 0.0, 1.0])
    assert math.isnan(regression.pearson(flat, labels))
    assert math.isnan(regression.spearman(labels, flat))
    assert math.isnan(regression.auc(labels, flat))
    assert math.isnan(regression.auc(labels, labels / 2))
    assert math.isnan(regression.pearson(np.ones(1), np.zeros(1)))
