"""Each loss equals a slow NumPy version of its formula, on ragged batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.objectives import cumulative_bce, cumulative_mse, prefix_weights, prior_penalty

RNG = np.random.default_rng(0)
B, T, A = 5, 9, 3
LENGTHS = np.array([9, 1, 4, 2, 7], np.int32)
REWARDS = RNG.normal(size=(B, T, A)).astype(np.float32)
LABELS = RNG.uniform(size=(B, A)).astype(np.float32)


def slow_cumulative(pointwise, first):
    values = []
    for i, length in enumerate(LENGTHS):
        total, weight = 0.0, 0.0
        for t in range(1, length + 1):  # the formula's t, starting at one
            if t - 1 < first:
                continue
            total += t * sum(pointwise(REWARDS[i, t - 1, c], LABELS[i, c]) for c in range(A))
            weight += t
        values.append(total / weight if weight else 0.0)
    return np.array(values)


@pytest.mark.parametrize("first", [0, 1])
def test_cumulative_mse_is_the_formula(first):
    expected = slow_cumulative(lambda r, y: (float(r) - float(y)) ** 2, first)
    got = cumulative_mse(jnp.array(REWARDS), jnp.array(LABELS), jnp.array(LENGTHS), first)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cumulative_mse_weights_are_two_over_l_l_plus_one():
    # methods.md §1 states the normaliser explicitly for texts scored from their first token.
    i = 2
    length = LENGTHS[i]
    expected = sum(
        2 / (length * (length + 1)) * t * ((REWARDS[i, t - 1] - LABELS[i]) ** 2).sum()
        for t in range(1, length + 1)
    )
    got = cumulative_mse(jnp.array(REWARDS), jnp.array(LABELS), jnp.array(LENGTHS))
    np.testing.assert_allclose(got[i], expected, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
def test_cumulative_bce_is_the_formula(first):
    def bce(logit, y):
        p = 1 / (1 + np.exp(-np.float64(logit)))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p))

    expected = slow_cumulative(bce, first)
    got = cumulative_bce(jnp.array(REWARDS), jnp.array(LABELS), jnp.array(LENGTHS), first)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_padding_carries_no_weight():
    changed = REWARDS.copy()
    for i, length in enumerate(LENGTHS):
        changed[i, length:] = 1e6
    args = (jnp.array(LABELS), jnp.array(LENGTHS))
    np.testing.assert_array_equal(
        cumulative_mse(jnp.array(changed), *args), cumulative_mse(jnp.array(REWARDS), *args)
    )
    np.testing.assert_array_equal(
        prior_penalty(jnp.array(changed), args[1]), prior_penalty(jnp.array(REWARDS), args[1])
    )


def test_weights_sum_to_one_per_text_whatever_its_length():
    weights = prefix_weights(jnp.array(LENGTHS), T)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    unscored = prefix_weights(jnp.array(LENGTHS), T, first=1)
    np.testing.assert_allclose(unscored.sum(axis=1), [1, 0, 1, 1, 1], rtol=1e-6)
    assert (np.asarray(unscored)[:, 0] == 0).all()


@pytest.mark.parametrize("first", [0, 1])
def test_prior_penalty_is_a_mean_over_positions_and_outputs(first):
    squares = [
        float(REWARDS[i, t, c]) ** 2
        for i in range(B)
        for t in range(first, LENGTHS[i])
        for c in range(A)
    ]
    got = prior_penalty(jnp.array(REWARDS), jnp.array(LENGTHS), first)
    np.testing.assert_allclose(got, np.mean(squares), rtol=1e-5)


def test_prior_penalty_of_unscorable_texts_is_zero():
    assert prior_penalty(jnp.ones((1, 3, 1)), jnp.array([1], jnp.int32), first=1) == 0
