"""The area between trade-off curves, against curves whose area is known."""

import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.tradeoff import Curve, area_between


def curve(attribute, perplexity, prompts=50, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (len(attribute), prompts)
    a = np.broadcast_to(np.array(attribute)[:, None], shape) + noise * rng.normal(size=shape)
    p = np.broadcast_to(np.array(perplexity, float)[:, None], shape).copy()
    return Curve(a, p, np.ones(shape), np.ones(shape))


def test_a_constant_gap_is_that_gap():
    one = curve([0.5, 0.7, 0.9], [10, 20, 40])
    other = curve([0.4, 0.6, 0.8], [10, 20, 40])
    area = area_between(one, other, resamples=50)
    np.testing.assert_allclose([area.value, area.low, area.high], 0.1, atol=1e-12)
    np.testing.assert_allclose(area_between(other, one, resamples=50).value, -0.1, atol=1e-12)


def test_only_the_perplexities_that_both_reach_count():
    """Over log2(ppl) in 1..2 the first line runs .2 -> .4 and the second is 0: mean .3."""
    one = curve([0.0, 0.4, 0.6], [1, 4, 8])
    other = curve([0.0, 0.0], [2, 4])
    np.testing.assert_allclose(area_between(one, other, resamples=10).value, 0.3, atol=1e-12)
    apart = area_between(curve([0.1, 0.2], [1, 2]), curve([0.1, 0.2], [4, 8]), resamples=10)
    assert np.isnan(apart.value)


def test_crossing_corners_are_integrated_exactly():
    """Corners of one curve inside a segment of the other: against a fine numerical integral."""
    one, other = curve([0.1, 0.9, 0.5], [5, 11, 30]), curve([0.2, 0.3, 0.8, 0.6], [4, 9, 14, 33])
    x = np.linspace(np.log(5), np.log(30), 200001)
    a = np.interp(x, np.log([5, 11, 30]), [0.1, 0.9, 0.5])
    b = np.interp(x, np.log([4, 9, 14, 33]), [0.2, 0.3, 0.8, 0.6])
    np.testing.assert_allclose(
        area_between(one, other, resamples=5).value, np.mean(a - b), atol=1e-5
    )


def test_the_interval_covers_the_truth_and_narrows_with_prompts():
    widths = []
    for prompts in (40, 640):
        hits = 0
        for seed in range(40):
            one = curve([0.5, 0.7], [10, 20], prompts, 0.3, seed)
            other = curve([0.4, 0.6], [10, 20], prompts, 0.3, 1000 + seed)
            area = area_between(one, other, resamples=200)
            hits += area.low <= 0.1 <= area.high
        widths.append(area.high - area.low)
        assert 33 <= hits <= 40
    assert widths[1] < 0.4 * widths[0]


def test_weights_leave_prompts_out():
    one, other = curve([0.5, 0.7], [10, 20]), curve([0.4, 0.6], [10, 20])
    one.attribute[:, 0] = np.nan
    one.attribute_weights[:, 0] = 0
    np.testing.assert_allclose(area_between(one, other, resamples=20).value, 0.1, atol=1e-12)


def test_other_prompts_are_refused():
    with pytest.raises(RewardJaxError, match="50 and 40 prompts"):
        area_between(curve([0, 1], [1, 2]), curve([0, 1], [1, 2], prompts=40))
