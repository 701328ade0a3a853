"""The papers' sentiment and toxicity statistics on scores small enough to work out by hand."""

import numpy as np

from rewardjax.metrics import attributes

SCORES = [np.array([0.9, 0.0, -0.2, 0.1]), np.array([0.5]), np.array([0.49, 0.2])]


def test_statistics():
    np.testing.assert_array_equal(attributes.share_above(SCORES), [0.5, 1.0, 1.0])
    np.testing.assert_array_equal(attributes.share_equal(SCORES), [0.25, 0.0, 0.0])
    np.testing.assert_array_equal(attributes.maximum(SCORES), [0.9, 0.5, 0.49])
    np.testing.assert_array_equal(attributes.any_above(SCORES), [1.0, 1.0, 0.0])
    np.testing.assert_allclose(attributes.mean(SCORES), [0.2, 0.5, 0.345])


def test_mean_of_no_sample_is_nan():
    assert np.isnan(attributes.mean([np.zeros(0)])).all()
