"""Detection of labelled texts by a model's own likelihoods."""

import itertools

import numpy as np
import pytest

from rewardjax.errors import RewardJaxError
from rewardjax.metrics.likelihood import detection, mean_nll
from rewardjax.metrics.regression import auc


def test_detection_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    flagged = rng.random(60) < 0.4
    nll = rng.normal(size=60) + flagged
    nll[:4] = nll[4:8]  # ties
    pairs = list(itertools.product(nll[flagged], nll[~flagged]))
    share = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    found = detection(nll, flagged, resamples=300)
    assert found.value == pytest.approx(share)
    assert found.low < share < found.high
    assert found == detection(nll, flagged, resamples=300)
    times = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 300)
    drawn = [np.repeat(np.arange(60), count) for count in times]
    values = [auc(nll[i], flagged[i].astype(float)) for i in drawn]
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]))
    again = detection(np.repeat(nll, 16), np.repeat(flagged, 16), resamples=300)
    assert again.high - again.low < 0.4 * (found.high - found.low)  # a quarter, in the mean
    assert detection(nll, flagged, resamples=0).value == pytest.approx(share)
    assert np.isnan(detection(nll, np.ones(60, bool), resamples=10).value)


def test_a_text_of_one_token_is_refused(tiny_lm):
    with pytest.raises(RewardJaxError, match="text 1 has no token that another precedes"):
        mean_nll(tiny_lm, [[5, 6], [5]])
