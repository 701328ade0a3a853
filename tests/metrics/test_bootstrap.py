"""Bootstrap intervals against scipy's, against a slow loop, and against known answers."""

import numpy as np
import pytest
import scipy.stats

from rewardjax.errors import RewardJaxError
from rewardjax.metrics import bootstrap
from rewardjax.metrics.bootstrap import Interval, bootstrap_mean


def test_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=200)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean(), rel=1e-12)
    # Two independent sets of 20,000 resamples: the ends' own error is about .01 of the width.
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.05 * width
    assert abs(ours.high - theirs.high) < 0.05 * width
    assert ours.n == 200


def test_weighted_mean_equals_resampling_one_prompt_at_a_time(monkeypatch):
    rng = np.random.default_rng(3)
    values, weights = rng.normal(size=12), rng.integers(1, 5, 12).astype(np.float64)
    ours = bootstrap_mean(values, weights, resamples=50, seed=7)
    counts = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=50)
    slow = []
    for row in counts:
        drawn = [i for i, times in enumerate(row) for _ in range(times)]
        assert len(drawn) == 12
        slow.append(sum(weights[i] * values[i] for i in drawn) / sum(weights[i] for i in drawn))
    np.testing.assert_allclose([ours.low, ours.high], np.percentile(slow, [2.5, 97.5]), rtol=1e-12)
    # The same in blocks of 3 resamples: memory changes, numbers do not.
    monkeypatch.setattr(bootstrap, "_CHUNK", 36)
    assert bootstrap_mean(values, weights, resamples=50, seed=7) == ours


def test_prompts_without_anything_to_measure_are_left_out():
    values = np.array([1.0, np.nan, 3.0, 99.0])
    got = bootstrap_mean(values, np.array([1.0, 1.0, 3.0, 0.0]))
    assert got.value == pytest.approx(2.5)
    assert got.n == 2
    assert got == bootstrap_mean(np.array([1.0, 3.0]), np.array([1.0, 3.0]))


def test_nothing_at_all_is_nan():
    got = bootstrap_mean(np.array([np.nan]))
    assert np.isnan([got.value, got.low, got.high]).all()
    assert got.n == 0


def test_seed_and_level():
    values = np.random.default_rng(0).normal(size=40)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    wide, narrow = bootstrap_mean(values, level=0.99), bootstrap_mean(values, level=0.5)
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high


@pytest.mark.parametrize(("level", "resamples"), [(0.0, 10), (1.0, 10), (95.0, 10), (0.95, 0)])
def test_refuses_nonsense(level, resamples):
    with pytest.raises(RewardJaxError, match="expected a level between 0 and 1"):
        bootstrap_mean(np.zeros(2), level=level, resamples=resamples)


def test_above():
    low, high = Interval(0.5, 0.4, 0.6, 9), Interval(0.8, 0.7, 0.9, 9)
    assert high.above(low)
    assert not low.above(high)
    assert not Interval(0.65, 0.55, 0.75, 9).above(low)
