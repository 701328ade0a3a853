"""The distillation losses against NumPy, one entry at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardjax.objectives import delta_distillation, distillation

RNG = np.random.default_rng(3)
B, T, C, A = 4, 6, 5, 2
LENGTHS = np.array([6, 1, 3, 0], np.int32)
STUDENT = RNG.normal(size=(B, T, C, A)).astype(np.float32)
TEACHER = RNG.normal(size=(B, T, C, A)).astype(np.float32)


def slow(first, level_weight=None):
    terms = []
    for i, length in enumerate(LENGTHS):
        for t in range(first, length):
            for a in range(A):
                s, q = np.float64(STUDENT[i, t, :, a]), np.float64(TEACHER[i, t, :, a])
                for c in range(C):
                    if level_weight is None:
                        terms.append((s[c] - q[c]) ** 2)
                    else:
                        deviation = (s[c] - s.mean()) - (q[c] - q.mean())
                        terms.append(deviation**2 + level_weight * (s.mean() - q.mean()) ** 2)
    return np.mean(terms)


@pytest.mark.parametrize("first", [0, 1])
def test_distillation_is_a_mean_over_positions_candidates_and_outputs(first):
    got = distillation(jnp.array(STUDENT), jnp.array(TEACHER), jnp.array(LENGTHS), first)
    np.testing.assert_allclose(got, slow(first), rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("level_weight", [0.0, 0.1, 3.0])
def test_delta_distillation_is_the_formula(first, level_weight):
    args = (jnp.array(STUDENT), jnp.array(TEACHER), jnp.array(LENGTHS), first, level_weight)
    np.testing.assert_allclose(delta_distillation(*args), slow(first, level_weight), rtol=1e-5)


def test_a_level_weight_of_one_is_plain_distillation():
    args = (jnp.array(STUDENT), jnp.array(TEACHER), jnp.array(LENGTHS), 1)
    np.testing.assert_allclose(delta_distillation(*args, 1.0), distillation(*args), rtol=1e-5)


def test_without_level_a_shift_of_each_prefix_costs_nothing():
    shifted = TEACHER + RNG.normal(size=(B, T, 1, A)).astype(np.float32)
    args = (jnp.array(shifted), jnp.array(TEACHER), jnp.array(LENGTHS))
    assert float(delta_distillation(*args, level_weight=0.0)) < 1e-12
    assert float(delta_distillation(*args, level_weight=0.5)) > 0.1


@pytest.mark.parametrize("loss", [distillation, delta_distillation])
def test_padding_and_unscored_positions_have_neither_weight_nor_gradient(loss):
    changed = STUDENT.copy()
    changed[:, 0] = 1e6
    for i, length in enumerate(LENGTHS):
        changed[i, length:] = np.inf

    def of(student):
        return loss(student, jnp.array(TEACHER), jnp.array(LENGTHS), 1)

    np.testing.assert_array_equal(of(jnp.array(changed)), of(jnp.array(STUDENT)))
    gradient = np.asarray(jax.grad(of)(jnp.array(STUDENT)))
    assert not gradient[:, 0].any()
    assert not gradient[2, 3:].any()
    assert gradient[2, 1:3].all()


@pytest.mark.parametrize("loss", [distillation, delta_distillation])
def test_a_batch_without_scored_positions_costs_nothing(loss):
    ones = jnp.ones((1, 3, 2, 1))
    assert loss(ones, 0 * ones, jnp.array([1], jnp.int32), 1) == 0
